"""One run in three parts: prepare, learn, write the results. Imports torch and everything that needs it:
trainer/train.py imports this file once the request and the environment have been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer import terminal
from trainer.config import TrainConfig
from trainer.data.endings import describe_end
from trainer.data.examples import describe_example
from trainer.data.records import Dataset
from trainer.data.tensors import tensor_layout
from trainer.evaluation import heldout
from trainer.evaluation.metrics import score_table
from trainer.files import SHOWN_FILE, write_whole
from trainer.model import ahead, features
from trainer.model import base as model
from trainer.model.contract import under_deepspeed
from trainer.model.head import uses_own_head
from trainer.model.refusal import UNFIT, refusing
from trainer.node.pickles import allow_own_classes, unsafe_pickle
from trainer.node.ranks import Ranks
from trainer.node.start import init_distributed
from trainer.node.stop import Stop
from trainer.outcome import FINISHED, write_outcome
from trainer.progress_file import EVALUATING, LOADING, SAVING, ProgressWriter
from trainer.report.page import report_line
from trainer.results import export, trained
from trainer.results.card import base_name
from trainer.start_clock import CLOCK
from trainer.text import brief_example
from trainer.tracking import track
from trainer.tracking.progress import Progress
from trainer.training.checkpoint import CheckpointStore
from trainer.training.first_checks import check_text_only, drop_unfit
from trainer.training.layout import defaults, layout_of
from trainer.training.ready import make_ready
from trainer.training.sft import VisionSFTTrainer

SHOWN_EXAMPLES = 3
Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that exists before the first step."""

    config: TrainConfig
    dataset: Dataset
    """The records for training and the held-out ones, without unfit records."""
    first: bool
    """Whether this is the first process, which writes the files."""
    say: Say
    """Prints, but only on the first process."""
    stop: Stop
    store: CheckpointStore
    start: int
    """The step to continue from; 0 for a new run."""
    adapted: Any
    """The base model with the adapter that is trained, a PeftModel."""
    unquantized: Any
    """Names of the model's parts that stay in 16 bits."""
    held_out: heldout.HeldOut
    pictures: features.FeatureCache | None
    tracker: track.Tracker
    progress: ProgressWriter
    trainer: VisionSFTTrainer

    @property
    def run_dir(self) -> Path:
        return Path(self.config.output_dir)

    def measure(self, when: str, step: int) -> heldout.Scores:
        """The scores of the present model, which is that of `step`; they are logged and tracked. Collective."""
        self.progress.phase(EVALUATING)
        scores = self.trainer.scores(step)
        self.say(heldout.describe(when, scores))
        self.tracker.scores(scores, step)
        return scores


@dataclass(frozen=True, kw_only=True)
class Learned:
    before: heldout.Scores
    """The base model's scores."""
    after: heldout.Scores
    step: int
    """The step of the adapter that is kept."""
    totals: dict[str, float]


def train(config: TrainConfig, dataset: Dataset) -> None:
    """Run everything, and report how it ended.

    Raises:
        ConfigError: this machine or this model cannot run the configuration.
        Stopped: the ranks were asked to stop, and have left a checkpoint if there was a step.
    """
    prepared = prepare(config, dataset)
    leave_behind(prepared, learn(prepared))


def prepare(config: TrainConfig, dataset: Dataset) -> Prepared:
    state = init_distributed(config)
    ranks = Ranks(state.num_processes, config.collective_timeout_s)
    stop = Stop(ranks, Path(config.output_dir))
    stop.check()
    say: Say = state.on_main_process(terminal.say)
    processor, dataset, lengths = _look_at_data(config, dataset, ranks, say)
    stop.check()
    progress = ProgressWriter(Path(config.output_dir) if ranks.first else None, say)
    store = _open_store(config, dataset, ranks, say, progress)
    start = store.take_over()
    CLOCK.passed("looking at the records")
    progress.phase(LOADING)

    pictures_ahead = ahead.find_ahead(
        config, dataset, processor, device=state.device, stop=stop,
        share=slice(state.process_index, None, state.num_processes), say=say,
    )  # fmt: skip
    stop.check()
    torch.manual_seed(config.seed)  # the adapters' first values
    say("loading the model ...")
    ready = make_ready(config, dataset, processor, state, say, start=start, pictures_ahead=pictures_ahead)
    encoder = ready.encoder
    if ranks.first:
        shown = range(min(SHOWN_EXAMPLES, len(encoder.records)))
        _show_examples([describe_example(processor, encoder(index)) for index in shown], Path(config.output_dir), say)
    stop.check()

    tracker = track.Tracker()
    if ranks.first:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        tracker.start(config, ready.adapted, export.describe_run(config, dataset), step=start)
    trainer = VisionSFTTrainer(
        config, ready.adapted, processor, encoder.collate, (len(dataset.train), ready.evaluated),
        store=store, stop=stop, callbacks=[Progress(progress), tracker], held_out=ready.held_out,
        features=ready.pictures, lengths=lengths if config.group_lengths else (),
    )  # fmt: skip
    CLOCK.passed("tracking and trainer")
    return Prepared(
        config=config, dataset=dataset, first=ranks.first, say=say, stop=stop, store=store, start=start,
        adapted=ready.adapted, unquantized=ready.unquantized, held_out=ready.held_out, pictures=ready.pictures,
        tracker=tracker, progress=progress, trainer=trainer,
    )  # fmt: skip


def _show_examples(examples: Sequence[str], run_dir: Path, say: Say) -> None:
    """Log examples short, and write them whole into the run's folder."""
    numbered = [(f"example {number}", text) for number, text in enumerate(examples, start=1)]
    for heading, text in numbered:
        say(f"{heading}\n{brief_example(text)}")
    whole = run_dir / SHOWN_FILE
    write_whole(whole, "\n".join(f"{heading}\n{text}\n" for heading, text in numbered))
    say(f"the whole examples: {whole}")


def _look_at_data(config: TrainConfig, dataset: Dataset, ranks: Ranks, say: Say) -> tuple[Any, Dataset, list[int]]:
    """(the model's processor, the records that are fit for training, the tokens of each training record), with log
    lines."""
    say(f"data: {len(dataset.train)} records to train on, {len(dataset.eval)} held out ({dataset.split})")
    for note in dataset.notes:
        say(f"data: {note}")
    processor = model.load_processor(config.model)
    check_text_only(config, dataset, beside=tensor_layout(processor).beside)
    dataset, lengths = drop_unfit(processor, dataset, config, ranks, say)
    if line := describe_end(processor):
        say(f"data: {line}")
    batch = config.micro_batch_size * config.gradient_accumulation_steps * config.world_size
    passes = config.max_steps * batch / max(1, len(dataset.train))
    say(f"data: {config.max_steps} steps of {batch} samples are {passes:.3g} passes through the records (epochs)")
    return processor, dataset, lengths


def _open_store(
    config: TrainConfig, dataset: Dataset, ranks: Ranks, say: Say, progress: ProgressWriter
) -> CheckpointStore:
    layout = layout_of(config, model=base_name(config.model), data=dataset.sha256, records=len(dataset.train))
    allow_own_classes()
    return CheckpointStore(
        Path(config.output_dir, "checkpoints"), ranks, layout=layout, unsaid=defaults(), keep=config.keep_checkpoints,
        say=say, look=unsafe_pickle, before_save=partial(progress.phase, SAVING),
    )  # fmt: skip


def learn(run: Prepared) -> Learned:
    """Score the base model, train from `run.start`, go back to the best adapter, and score that adapter."""
    run.stop.step = run.start
    if run.start:
        run.say(f"going on from step {run.start} ({run.store.path(run.start)})")
        before = export.load_zero_shot(run.run_dir)
    else:
        # The base model's own scores, even when the adapter starts trained; a new one adds zeros, and takes its time.
        # ZeRO-3 keeps the order of the modules that run first, so they run as in training where they may.
        bare = run.config.init_adapter or not under_deepspeed()
        untrained = run.adapted.disable_adapter() if bare else nullcontext()
        with untrained, refusing(run.config.model, "asked for its answers", UNFIT):
            before = run.measure("before training", 0)
        CLOCK.passed("score before training")
        if run.first:
            export.save_zero_shot(run.run_dir, before)
    totals = run.trainer.train_from(run.start).metrics
    kept = run.trainer.load_best()
    if kept != run.trainer.state.global_step:
        run.say(f"the adapter of step {kept} is kept: its evaluation was the best")
    return Learned(before=before, after=run.measure("after training", kept), step=kept, totals=totals)


def leave_behind(run: Prepared, learned: Learned) -> None:
    """Write the adapter and the record, then the outcome, and only then the parts that may be slow or fail."""
    before, after = learned.before, learned.after
    if run.pictures:
        run.pictures.close()
    run.progress.phase(SAVING)
    export.save_adapter(run.run_dir, run.trainer, run.held_out.processor)
    if run.first:
        record = export.RunRecord(
            config=run.config, answer_field=run.held_out.field, step=learned.step, before=before.action,
            after=after.action, generated_before=before.beside, generated_after=after.beside, train=learned.totals,
            history=run.trainer.state.log_history, provenance=export.provenance(run.config, run.tracker.link),
            **export.describe_run(run.config, run.dataset),
        )  # fmt: skip
        own_head = uses_own_head(run.adapted.get_base_model())
        usage = trained.usage_of(run.config, run.dataset, run.held_out, own_head=own_head)
        example = (run.dataset.eval or run.dataset.train)[0]
        export.save_record(record, after.predictions, usage, run.unquantized, example)
    run.progress.phase("finished", action_accuracy=after.action and after.action.accuracy)
    write_outcome(FINISHED)
    if run.first:
        run.say(f"\n{score_table(before.action, after.action)}\n")
        run.say(f"adapter: {run.run_dir}/adapter\n{report_line(run.run_dir)}")
        terminal.LAST_ROW.show("closing W&B and TensorBoard ...")
        run.tracker.finish(after.action)
        terminal.LAST_ROW.clear()
