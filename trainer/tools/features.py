"""usage: python -m trainer features --data D --model M [--name value ...] [--json]

Lets the image tower alone make the features of every picture, and keeps them in the store that runs share. A run on the
same data and model then loads no tower: its first epoch costs what later ones do, and the plan leaves the tower out.
What is there already is checked and not made again, so a command that was stopped goes on where it was. It needs the
tower's weights and little memory: one small GPU, or none.

Takes the settings of a run (python -m trainer config --help), and reads .env and CONFIG_FILE likewise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from trainer.commands import command
from trainer.config import TrainConfig
from trainer.data.records import dataset_of
from trainer.flags import answer_help, build
from trainer.outcome import FINISHED, ConfigError
from trainer.settings import say, settings_here
from trainer.text import gib
from trainer.tools.validate import device_here


def main(argv: Sequence[str]) -> int:
    """Runs `python -m trainer features`. Raises ConfigError, also where the store has no room for all."""
    answer_help(argv, __doc__)
    settings = settings_here(argv)
    own = {"device": device_here()} if settings.sources["device"] == "default" else {}
    config = build(TrainConfig, {"output_dir": "runs/features", "run_id": "features", **settings.values, **own})
    if config.vision == "lora":
        raise ConfigError("vision: lora changes the image tower in every step, so its features cannot be kept")
    if not config.feature_cache_gib:
        raise ConfigError("feature_cache_gib is 0, so no features are kept: leave it out")
    dataset = dataset_of(config)
    from trainer.node.start import init_distributed, prepare_libraries, set_precision

    prepare_libraries(config)
    set_precision(config.device)
    from trainer.model import filling
    from trainer.model.base import load_processor
    from trainer.model.features import store_folder
    from trainer.model.tower import stands_alone

    records = filling.with_pictures(dataset)
    if not records:
        raise ConfigError("has no record with a picture", name="DATA", given=config.data)
    if not stands_alone(config.model):
        raise ConfigError(
            "has its image tower inside the language model: leave make features out", name="MODEL", given=config.model
        )
    processor, state = load_processor(config.model), init_distributed(config)
    say([f"the features of the pictures of {len(records)} records, by {config.model} on {config.device} ..."])
    done = filling.fill(
        config, records, processor, total=len(records), device=state.device, say=lambda text: say([text]), drawn=True
    )  # fmt: skip
    for why in list(done.unreadable.values())[:3]:
        say([f"left out: {why}"])
    if done.lacking:
        raise ConfigError(
            f"{store_folder(config)} has no room for {done.lacking} of {len(set(done.keys))} pictures "
            f"(feature_cache_gib is {config.feature_cache_gib}): a larger feature_cache_gib, or free disk space"
        )
    path, filled = filling.record_filled(config, dataset, done)
    found = {
        "pictures": filled.entries, "computed": done.computed, "gib": float(gib(filled.size_bytes)),
        "left_out": len(done.unreadable), "store": str(store_folder(config)), "kept": str(path),
    }  # fmt: skip
    there = filled.entries - done.computed
    plan = command("local", "plan", "--data", config.data, "--model", config.model)
    text = (
        f"{filled.entries} pictures in {store_folder(config)}, {gib(filled.size_bytes)} GiB: {done.computed} made now, "
        f"{there} were there\nruns on this data load no image tower: {plan}"
    )
    print(json.dumps(found) if settings.as_json else text)
    return FINISHED
