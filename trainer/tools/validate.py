"""usage: python -m trainer validate data | environment | model | pipeline | all [--name value ...] [--json]

  data         the whole data set as the trainer will see it: which records would be left out and why, how long they
               are, what the answers are. The lengths are kept beside the data, and the memory plan is made for them
               instead of for MAX_LENGTH. Ends with 78 when nothing is left to train on or, with --strict, when
               anything would be left out
  environment  libraries against their pins, settings against usual ones, tokens, folders, driver, CUDA and GPUs
  model        access, family, processor, what LoRA would train, space for checkpoints; and where the weights have room,
               all that training relies on, asked on the first record with a picture
  pipeline     two steps of the real trainer on the real records, in a temporary folder
  all          all of these in one table, what others need first; without model or data, what needs neither

Everything a run needs, asked before it starts. Takes the settings of a run (python -m trainer config --help), and reads
.env and CONFIG_FILE likewise. What cannot be asked because something before it failed is skipped. Ends with 78 when
anything fails; `data` alone leaves something behind, the lengths and a page that shows records as the model sees them.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from trainer.commands import command, command_as_typed, option_as_typed
from trainer.config import KNOBS, TrainConfig
from trainer.data.records import dataset_of
from trainer.files import read_json
from trainer.flags import EXAMPLES, answer_help, build, options, word
from trainer.launch import Launch, shipped
from trainer.log import last_words
from trainer.node.gpus import check_gpus
from trainer.node.machine import read_machine
from trainer.node.preflight import check_folder, check_model, check_tmpdir
from trainer.outcome import FINISHED, ConfigError, unknown
from trainer.placeholder import NOT_FILLED_IN, placeholders
from trainer.settings import say, settings_here
from trainer.text import gib
from trainer.tools.checks import Answer, Check, ask, conclude
from trainer.tools.promises import contract

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
CHECKPOINT_BYTES = 12  # a trained weight and AdamW's two moments, in fp32
DRY_RUN = {
    "max_steps": 2, "logging_steps": 1, "eval_samples": 2, "score_samples": 2, "save_steps": 2, "run_id": "dry-run",
    "world_size": 1,
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Runs `python -m trainer validate`. Raises ConfigError, which `python -m trainer` turns into one line and 78."""
    answer_help(argv, __doc__)
    target = argv[0] if argv else ""
    if target not in TARGETS:
        way = command_as_typed("make validate", "validate", "all")
        raise unknown(target, TARGETS) if target else ConfigError(f"validate what? {', '.join(TARGETS)}: {way}")
    settings = settings_here(argv[1:])
    own = {"device": device_here()} if settings.sources["device"] == "default" and target != "data" else {}
    absent = [name for name in SPARED[target] if name not in settings.values]
    values = {**dict.fromkeys(absent, ""), "output_dir": "runs", "run_id": "validate", **settings.values, **own}
    config = build(TrainConfig, values)
    if target == "data":
        # What `strict` refuses is reported first. Data that cannot be read is refused before the libraries load.
        dataset = dataset_of(replace(config, strict=False))
        from trainer.tools.data_report import print_report

        return print_report(config, dataset, as_json=settings.as_json)
    return conclude(ask_all(target, config, absent), as_json=settings.as_json)


def ask_all(target: str, config: TrainConfig, absent: Sequence[str]) -> list[Check]:
    """The checks of a target, in order. What stands in the way of one is said once, by the first check that fails or
    by the settings that are `absent`; the checks that need it are skipped."""
    why = {f"--{name}": {f"{option_as_typed(name)} is left out": None} for name in absent}
    checks: list[Check] = []
    begun: set[str] = set()
    for name, asked in CHECKS.items():
        if target not in ("all", asked.target):
            continue
        if reasons := {reason: None for need in asked.needs for reason in why.get(need, ())}:
            checks.append(Check(name=name, status="skip", found=f"not asked: {', '.join(reasons)}"))
        else:
            say([f"{asked.target} ..."] if asked.target not in begun else [])
            begun.add(asked.target)
            checks.append(ask(name, asked.question, config))
            reasons = {f"{name} failed": None} if checks[-1].status == "fail" else {}
        why[name] = reasons
    if absent and target == "all":
        model, data = config.model or EXAMPLES["model"], config.data or EXAMPLES["data"]
        made = f"make validate MODEL={shlex.quote(model)} DATA={shlex.quote(data)}"
        way = command_as_typed(made, "validate", "all", "--model", model, "--data", data)
        checks[-1] = replace(checks[-1], do=f"{way} asks all")
    return checks


def device_here() -> str:
    """The device for a run on this machine that asks for none; cuda when the GPUs do not answer, which the check of
    the GPUs then reports."""
    return read_machine(os.environ).choice().device


def libraries(_: TrainConfig) -> Answer:
    """Compare Python's libraries with the pins of the checkout, if there is one."""
    path = PROJECT_DIR / "pyproject.toml"
    train = re.search(r"^train = \[\n(.*?)^\]", path.read_text(), re.M | re.S) if path.is_file() else None
    pins = dict(re.findall(r'^  "([\w-]+)==([\w.]+)",$', train[1], re.M)) if train else {}
    there: dict[str, str] = {}
    for name in pins:
        with suppress(metadata.PackageNotFoundError):
            there[name] = metadata.version(name).split("+")[0]
    if lacking := [name for name in pins if name not in there]:
        raise ConfigError(f"lacking {', '.join(lacking)}: make env")
    if other := [f"{name} {there[name]}, pinned {pin}" for name, pin in pins.items() if there[name] != pin]:
        return "; ".join(other), "make env installs the pins"
    return f"Python {platform.python_version()}, {len(pins)} libraries as pinned"


def usual(config: TrainConfig) -> Answer:
    """Whether the values are usual. They are within their ranges, or there would be no configuration."""
    batch = config.micro_batch_size * config.gradient_accumulation_steps * config.world_size
    values = {**asdict(config), "effective batch": batch}
    unusual = []
    for name, weight, span, _ in KNOBS:
        if ends := re.fullmatch(r"([\d.e-]+) to ([\d.e-]+)( x lora_r)?", span):
            unit = config.lora_r if ends[3] else 1
            if not float(ends[1]) * unit <= values[name] <= float(ends[2]) * unit:
                unusual.append(f"{name} is {word(values[name])}, {span} is usual ({weight})")
    if unusual:
        return "; ".join(unusual), f"{command('trainer', 'config', '--help')} says why"
    return f"{len(asdict(config))} settings, each in its range"


def token(name: str, without: str, _: TrainConfig) -> Answer:
    if name in placeholders(os.environ):
        return f"{NOT_FILLED_IN}: {without}", f"put the token itself into .env, behind {name}="
    if os.environ.get(name):
        return "given"
    return f"not given: {without}", f"put {name}= into .env"


def env_file(_: TrainConfig) -> Answer:
    path = Path(".env")
    if not path.exists():
        return "none"
    if path.stat().st_mode & 0o077:
        return "others on this machine can read it", "chmod 600 .env"
    return "read, and only yours"


def gpus(config: TrainConfig) -> str:
    if config.device != "cuda":
        return f"device {config.device}: none is asked for"
    return check_gpus(config.world_size)


def records(config: TrainConfig) -> Answer:
    from trainer.data.inspection import inspect_dataset
    from trainer.model.base import load_processor

    inspection = inspect_dataset(dataset_of(config), load_processor(config.model), max_length=config.max_length)
    kept = inspection.kept(strict=config.strict)
    left_out = inspection.left_out()
    found = f"{len(kept.train)} records to train on, {len(kept.eval)} held out"
    return "; ".join([found, *left_out]), f"{_of_data(config)} says more" if left_out else ""


def _of_data(config: TrainConfig) -> str:
    """The command that looks at the data alone, with the settings of `config` that are not the defaults."""
    values = {name: value for name, value in asdict(config).items() if name not in ("output_dir", "run_id", "device")}
    said = ((name, value) for name, value in values.items() if value != options(TrainConfig)[name].default)
    return command(
        "trainer", "validate", "data", *(part for name, value in said for part in (f"--{name}", word(value)))
    )


def family(config: TrainConfig) -> str:
    from trainer.measure.keep import known_or_measured

    return known_or_measured(config.model).family


def processor(config: TrainConfig) -> str:
    from trainer.data.endings import describe_end
    from trainer.model.base import load_processor

    found = load_processor(config.model)
    return "; ".join(filter(None, [type(found).__name__, describe_end(found)]))


def lora(config: TrainConfig) -> str:
    from trainer.tools.layers import describe

    mark = "vision=lora" if config.vision == "lora" else "vision=frozen"
    choice = next(c for c in describe(config.model, config.lora_r)["choices"] if mark in c["name"])
    if not choice["layers"]:
        raise ConfigError(f"LoRA would train nothing in {config.model}: {command('trainer', 'layers')} lists it")
    where = "of language model and tower" if config.vision == "lora" else "of the language model"
    return f"{choice['layers']} linears {where}, {choice['trained'][f'r={config.lora_r}']:,} weights"


def space(config: TrainConfig) -> str:
    from trainer.measure.keep import known_or_measured

    weights = known_or_measured(config.model).lora_params(config.lora_r, config.vision)
    # Checkpoints: the newest few, the best, one being written; and the adapter.
    needed = (config.keep_checkpoints + 3) * weights * CHECKPOINT_BYTES
    folder = Path(config.output_dir).absolute()
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < needed:
        raise ConfigError(
            f"{config.output_dir} has {gib(free)} GiB free, checkpoints and adapter take {gib(needed)}: "
            "another output_dir, fewer keep_checkpoints, or a smaller lora_r"
        )
    return f"checkpoints and adapter take {gib(needed)} of the {gib(free)} GiB free"


def dry_run(config: TrainConfig) -> str:
    """Run two optimizer steps of the real trainer on the real records, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="trainyard-dry-run-") as folder:
        values = {**asdict(config), **DRY_RUN, "output_dir": folder}
        launch = Launch(
            configuration=shipped("single_gpu" if config.device == "cuda" else "cpu_mps"),
            module="trainer.train",
            settings={name: word(value) for name, value in values.items() if value is not None},
        )
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "trainer.supervise", "--", *launch.words()],
            cwd=PROJECT_DIR, env={**os.environ, "WANDB_MODE": "disabled"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        if done.returncode != FINISHED:
            with tempfile.NamedTemporaryFile("w", prefix="trainyard-dry-run-", suffix=".log", delete=False) as log:
                log.write(done.stdout + done.stderr)
            raise ConfigError(f"{last_words(done.stderr)} (all of it: {log.name})")
        record = read_json(Path(folder, "metrics.json"))
    losses = [f"{entry['loss']:.4f}" for entry in record["history"] if "loss" in entry]
    return f"2 steps, losses {', '.join(losses)}, adapter saved; {seconds:.0f} s"


class Asked(NamedTuple):
    """A check."""

    target: str
    question: Callable[[TrainConfig], Answer]
    """Returns the finding and, for a warning, a remedy, or raises."""
    needs: tuple[str, ...] = ()
    """The checks before it without which it would only say again what they said, and the settings that it needs."""


# In the order of `all`.
CHECKS = {
    "libraries": Asked("environment", libraries),
    "settings": Asked("environment", usual),
    "HF_TOKEN": Asked("environment", partial(token, "HF_TOKEN", "only models and data that need no access can be had")),
    "WANDB_API_KEY": Asked(
        "environment", partial(token, "WANDB_API_KEY", "runs are kept offline, and say how to upload them")
    ),
    ".env": Asked("environment", env_file),
    "output": Asked("environment", lambda config: check_folder("output", config.output_dir)),
    "TMPDIR": Asked("environment", lambda config: check_tmpdir()),
    "GPUs": Asked("environment", gpus),
    "access": Asked("model", lambda config: check_model(config.model), ("--model",)),
    "family": Asked("model", family, ("access",)),
    "processor": Asked("model", processor, ("access",)),
    "LoRA": Asked("model", lora, ("family",)),
    "space": Asked("model", space, ("family", "output")),
    "data": Asked("data", records, ("processor", "--data")),
    "contract": Asked("model", contract, ("LoRA", "data", "--data")),
    "pipeline": Asked("pipeline", dry_run, ("GPUs", "output", "TMPDIR", "space", "contract")),
}
TARGETS = (*dict.fromkeys(asked.target for asked in CHECKS.values()), "all")
SPARED = {"environment": ("model", "data"), "model": ("data",), "data": (), "pipeline": (), "all": ("model", "data")}
"""The settings that a target can do without."""
