"""`python -m trainer validate environment | model | pipeline | all`: everything a run needs, asked before it starts.

The settings are read as a run reads them (options, environment, .env, YAML). Each check passes, warns or fails, and
says what to do; nothing is left behind.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from trainer.config import KNOBS, TrainConfig
from trainer.flags import build, word
from trainer.node.gpus import check_gpus
from trainer.node.preflight import check_folder, check_model
from trainer.outcome import BAD_CONFIG, FINISHED, ConfigError, SickNode
from trainer.settings import settings_here
from trainer.text import format_table, gib

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
CHECKPOINT_BYTES = 12  # a trained weight and AdamW's two moments, in fp32
DRY_RUN = {
    "max_steps": 2, "logging_steps": 1, "eval_samples": 2, "score_samples": 2, "save_steps": 2, "run_id": "dry-run",
    "world_size": 1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    name: str
    status: Literal["pass", "warn", "fail"]
    found: str
    do: str = ""


def main(target: str, argv: Sequence[str]) -> int:
    """Raises ConfigError for settings that cannot be read."""
    settings = settings_here(argv)
    values = {"output_dir": "runs", "run_id": "validate", **settings.values}
    config = build(TrainConfig, values)
    checks: list[Check] = []
    for name in CHECKS if target == "all" else (target,):
        print(f"trainyard: {name} ...", file=sys.stderr, flush=True)
        checks += CHECKS[name](config, os.environ)
    if settings.as_json:
        print(json.dumps({"checks": [dataclasses.asdict(check) for check in checks]}, indent=1))
    else:
        print(format_checks(checks))
    return BAD_CONFIG if any(check.status == "fail" for check in checks) else FINISHED


def format_checks(checks: Sequence[Check]) -> str:
    rows = [[check.name, check.status] for check in checks]
    lines = format_table(rows).splitlines()
    shown = [f"{line}  {check.found}" for line, check in zip(lines, checks, strict=True)]
    advice = [f"{check.name}: {check.do}" for check in checks if check.do]
    return "\n".join([*shown, *(["", *advice] if advice else [])])


def ask(name: str, question: Callable[[], str]) -> Check:
    """A pass with what `question` returns, or a fail with what it raises."""
    try:
        return Check(name=name, status="pass", found=question())
    except (ConfigError, SickNode) as error:
        return Check(name=name, status="fail", found=error.args[0])  # of a sick node without its name


def environment(config: TrainConfig, environ: Mapping[str, str]) -> list[Check]:
    def folder(what: str, path: str, *, shared: bool) -> str:
        check_folder(what, Path(path), shared=shared)
        return f"{path} can be written, with room"

    def gpus() -> str:
        if config.device == "cpu":
            return "device cpu: none is asked for"
        return check_gpus(config.world_size, environ)

    tmp = environ.get("TMPDIR") or tempfile.gettempdir()
    return [
        *_versions(),
        _settings(config),
        _token("HF_TOKEN", environ, "only models and data that need no access can be had"),
        _token("WANDB_API_KEY", environ, "runs are kept offline; wandb sync uploads them"),
        _env_file(Path(".env")),
        ask("output", lambda: folder("output", config.output_dir, shared=True)),
        ask("TMPDIR", lambda: folder("TMPDIR", tmp, shared=False)),
        ask("GPUs", gpus),
    ]


def _versions() -> list[Check]:
    """Python and the libraries against the pins."""
    pins = dict(re.findall(r'^  "([\w-]+)==([\w.]+)",$', _pins(), re.MULTILINE))
    there = {name: _version(name) for name in pins}
    lacking = [name for name, version in there.items() if version is None]
    other = [
        f"{name} {version}, pinned {pins[name]}"
        for name, version in there.items()
        if version is not None and version.split("+")[0] != pins[name]
    ]
    python = f"Python {platform.python_version()}"
    if lacking:
        return [Check(name="libraries", status="fail", found=f"lacking {', '.join(lacking)}", do="make env")]
    if other:
        return [Check(name="libraries", status="warn", found="; ".join(other), do="make env installs the pins")]
    return [Check(name="libraries", status="pass", found=f"{python}, {len(pins)} libraries as pinned")]


def _settings(config: TrainConfig) -> Check:
    """That they are in their ranges is known, else there would be no configuration; here, whether they are usual."""
    values = dataclasses.asdict(config)
    batch = config.micro_batch_size * config.gradient_accumulation_steps * config.world_size
    unusual = []
    for name, weight, usual, _ in KNOBS:
        value = {**values, "effective batch": batch}.get(name)
        span = re.fullmatch(r"([\d.e-]+) to ([\d.e-]+)( x lora_r)?", usual)
        unit = config.lora_r if span and span[3] else 1
        if value is not None and span and not float(span[1]) * unit <= value <= float(span[2]) * unit:
            unusual.append(f"{name} is {word(value)}, {usual} is usual ({weight})")
    if unusual:
        do = "python -m trainer config --help says why"
        return Check(name="settings", status="warn", found="; ".join(unusual), do=do)
    return Check(name="settings", status="pass", found=f"{len(values)} settings, each in its range")


def _pins() -> str:
    """The training side's requirements, from the checkout; nothing where there is none."""
    path = PROJECT_DIR / "pyproject.toml"
    found = re.search(r"^train = \[\n(.*?)^\]", path.read_text(), re.M | re.S) if path.is_file() else None
    return found[1] if found else ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _token(name: str, environ: Mapping[str, str], without: str) -> Check:
    if environ.get(name) or (name == "HF_TOKEN" and environ.get("HUGGINGFACE_TOKEN")):
        return Check(name=name, status="pass", found="given")
    return Check(name=name, status="warn", found=f"not given: {without}", do=f"put {name}= into .env")


def _env_file(path: Path) -> Check:
    if not path.exists():
        return Check(name=".env", status="pass", found="none")
    if path.stat().st_mode & 0o077:
        return Check(name=".env", status="warn", found="others on this machine can read it", do="chmod 600 .env")
    return Check(name=".env", status="pass", found="read, and only yours")


def data(config: TrainConfig, _: Mapping[str, str]) -> list[Check]:
    from trainer.data.inspection import inspect_dataset
    from trainer.data.records import load_dataset
    from trainer.model.base import load_processor

    left_out: list[str] = []

    def look() -> str:
        dataset = load_dataset(
            config.data, eval_fraction=config.eval_fraction, seed=config.seed, image_root=config.image_root
        )
        inspection = inspect_dataset(dataset, load_processor(config.model), max_length=config.max_length)
        kept = inspection.kept(strict=config.strict)
        left_out.extend(inspection.left_out())
        return f"{len(kept.train)} records to train on, {len(kept.eval)} held out"

    check = ask("data", look)
    if not left_out:
        return [check]
    more = "python -m trainer validate data says more"
    return [dataclasses.replace(check, status="warn", found=f"{check.found}; {'; '.join(left_out)}", do=more)]


def model(config: TrainConfig, environ: Mapping[str, str]) -> list[Check]:
    """Access, configuration, processor, family and what LoRA would train; no weights are loaded."""

    def access() -> str:
        check_model(config.model, environ)
        return f"{config.model} is here or can be had"

    def family() -> str:
        from accelerate_configs.memory.shapes import resolve_shape

        return resolve_shape(config.model).family

    def processor() -> str:
        from trainer.model.base import load_processor

        return type(load_processor(config.model)).__name__

    def lora() -> str:
        from trainer.model.base import anatomy_of, build_skeleton, load_model_config
        from trainer.tools.layers import choices

        skeleton = build_skeleton(load_model_config(config.model))
        frozen, tuned = choices(skeleton, anatomy_of(skeleton))[:2]
        ours = tuned if config.vision == "lora" else frozen
        if not ours.layers:
            raise ConfigError(f"LoRA would train nothing in {config.model}: python -m trainer layers lists it")
        where = "of language model and tower" if config.vision == "lora" else "of the language model"
        return f"{ours.layers} linears {where}, {ours.width * config.lora_r:,} weights"

    def space() -> str:
        from accelerate_configs.memory.shapes import resolve_shape

        weights = resolve_shape(config.model).lora_params(config.lora_r, config.vision)
        # The newest few, the best, one being written, and the adapter.
        needed = (config.keep_checkpoints + 3) * weights * CHECKPOINT_BYTES
        folder = Path(config.output_dir).absolute()
        free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
        if free < needed:
            raise ConfigError(
                f"{config.output_dir} has {gib(free)} GiB free, checkpoints and adapter take {gib(needed)}: "
                "another output_dir, fewer keep_checkpoints, or a smaller lora_r"
            )
        return f"checkpoints and adapter take {gib(needed)} of the {gib(free)} GiB free"

    asked = ask("access", access)
    if asked.status == "fail":
        return [asked]
    return [asked, ask("family", family), ask("processor", processor), ask("LoRA", lora), ask("space", space)]


def pipeline(config: TrainConfig, environ: Mapping[str, str]) -> list[Check]:
    """Two optimizer steps of the real trainer on the real records, in a folder that goes away again."""
    cpu = config.device == "cpu"
    with tempfile.TemporaryDirectory(prefix="trainyard-dry-run-") as folder:
        values = {**dataclasses.asdict(config), **DRY_RUN, "output_dir": folder}
        words = [f"--{name}={word(value)}" for name, value in values.items() if value is not None]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "trainer.supervise", "--", "accelerate", "launch", "--config_file",
             f"accelerate_configs/{'cpu_mps' if cpu else 'single_gpu'}.yaml", "--num_processes", "1",
             "--num_machines", "1", "-m", "trainer.train", *words],
            cwd=PROJECT_DIR, env={**environ, "WANDB_MODE": "disabled"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        if done.returncode == FINISHED:
            record = json.loads(Path(folder, "metrics.json").read_text(encoding="utf-8"))
            losses = [f"{entry['loss']:.4f}" for entry in record["history"] if "loss" in entry]
            found = f"2 steps, losses {', '.join(losses)}, adapter saved; {seconds:.0f} s"
            return [Check(name="pipeline", status="pass", found=found)]
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
    own = [line.removeprefix("trainyard: ") for line in lines if line.startswith("trainyard: ")]
    errors = [line for line in lines if re.match(r"\w+(\.\w+)*(Error|Exception)\b", line)]
    reason = (errors or own or lines)[-1]
    return [Check(name="pipeline", status="fail", found=reason, do="python -m trainer run shows all of it")]


CHECKS: dict[str, Callable[[TrainConfig, Mapping[str, str]], list[Check]]] = {
    "environment": environment, "data": data, "model": model, "pipeline": pipeline,
}  # fmt: skip
