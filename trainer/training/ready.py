"""The model of a run before its first step: loaded, with its adapters, and asked for all that training relies on, on
the first record with a picture. What it lacks and training can do without is said in a line; the rest is a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.config import TrainConfig
from trainer.data.endings import answer_end
from trainer.data.examples import Encoder
from trainer.data.records import Dataset
from trainer.evaluation import heldout
from trainer.evaluation.generation import sample_places
from trainer.evaluation.memory import free_unused
from trainer.model import ahead, features, warm_start
from trainer.model import base as model
from trainer.model.contract import adapt, check_contract
from trainer.model.refusal import UNFIT, refusing
from trainer.start_clock import CLOCK

CHECKED = "checked on the loaded model (docs/traps.md says why):"
"""The heading of the promises in the log."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    adapted: Any
    """The base model with the adapter that is trained, a PeftModel."""
    unquantized: Any
    """Names of the model's parts that stay in 16 bits."""
    encoder: Encoder
    """It encodes the records to train on, and behind them the held-out ones that are evaluated on the way."""
    evaluated: int
    """Number of these held-out records."""
    held_out: heldout.HeldOut
    pictures: features.FeatureCache | None
    promises: list[tuple[str, str]]
    """(what, how it is) for each condition that training relies on."""


def make_ready(
    config: TrainConfig,
    dataset: Dataset,
    processor: Any,
    state: Any,
    say: Callable[[str], object],
    *,
    start: int = 0,
    pictures_ahead: Any = None,
) -> Ready:
    """The model of a run that goes on from step `start`, with log lines about what it does without; without its tower
    where the features of all pictures are there already (`pictures_ahead`).

    Raises:
        ConfigError: the model cannot be trained.
    """
    base, anatomy = model.load_here(config, state, pictures_ahead.parts if pictures_ahead else ())
    evaluated = [dataset.eval[place] for place in sample_places(dataset.eval, config.eval_samples)]
    encoder = Encoder(processor, [*dataset.train, *evaluated])
    pictured = next((place for place, record in enumerate(encoder.records) if record.pictures), 0)
    batch = encoder.collate([{"index": pictured}])
    kept: features.FeatureCache | str = ""
    if pictures_ahead:
        kept = ahead.put_in(base, pictures_ahead, batch, say) or ""
        if not kept:
            del base  # the GPU need not have room for two models
            free_unused()
            base, anatomy = model.load_here(config, state)
    CLOCK.passed("model")
    peft_model, anatomy, head = adapt(base, config, anatomy, batch, say)
    if config.init_adapter and not start:
        say(f"adapter: starts from {warm_start.load(peft_model, config)}")
    held_out = heldout.build_heldout(processor, dataset, config, say)
    ends = answer_end(processor).stop
    promises = check_contract(peft_model, config, anatomy, batch, ends=ends, head=head)
    say(CHECKED)
    for what, found in promises:
        say(f"  {what:<38} {found}")
    pictured_at_all = bool(encoder.records[pictured].pictures)
    if pictured_at_all and not kept:
        kept = features.keep_features(base, config, say)
    with refusing(config.model, "trained", UNFIT):
        if isinstance(kept, features.FeatureCache) and not kept.without_tower:
            kept = features.check_features(kept, peft_model, batch, say)
        held_out = heldout.settle_scoring(held_out, peft_model, say)
    if pictured_at_all:
        say(f"  {'a picture goes through the tower':<38} {_how_often(kept)}")
    CLOCK.passed("checks of the model")
    return Ready(
        adapted=peft_model, unquantized=anatomy.in_16_bits, encoder=encoder, evaluated=len(evaluated),
        held_out=held_out, pictures=None if isinstance(kept, str) else kept, promises=promises,
    )  # fmt: skip


def _how_often(kept: features.FeatureCache | str) -> str:
    if isinstance(kept, str):
        return f"every time: {kept}"
    return "never: its features are kept" if kept.without_tower else "once"
