"""Real training processes for tests, forked from a parent that has imported torch and TRL once.

A cold start costs 14-25 s on two cores, nearly all of it imports; a fork of a preloaded server costs none of
that and computes the same numbers. The server itself never computes, so no thread pool is forked.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from trainer.log import bare

PRELOADED = [
    "trainer.training.sft", "trainer.tracking.track", "trainer.model.base", "bitsandbytes", "peft", "datasets", "wandb",
]  # fmt: skip
TIMEOUT_S = 300
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)
# Read when the libraries are loaded, so it is the server that must have it: a rank with a thread for every core,
# spinning while it waits, takes six times as long beside another one.
SERVER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True, kw_only=True)
class Ended:
    codes: tuple[int, ...]
    """Exit code of each rank."""
    output: str
    """The output of the first rank, stdout and stderr, without the time, host and rank of its log lines."""
    log: str
    """The same as it stands in a file."""


def _child(stdio: str, environment: dict[str, str], target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    descriptor = os.open(stdio, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update(environment)
    try:
        code = target(*arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def run_forked(
    folder: Path,
    target: Callable[..., Any],
    *arguments: Any,
    world_size: int = 1,
    environment: Mapping[str, str] | None = None,
    kill_when: Callable[[str], bool] | None = None,
    terminal: str | None = None,
) -> Ended:
    """Run `target(*arguments)`, a module's function, in `world_size` processes with torchrun's environment.

    All are killed (-9) as soon as `kill_when` says so about what the first has printed. They print to the `terminal`
    of that path, where one is given, and then nothing is known of it here.
    """
    common = {"WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false"}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in SERVER_ENVIRONMENT.items():
            patched.setenv(name, value)
        forkserver.ensure_running()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"rank{rank}.log" for rank in range(world_size)]
    for rank, log in enumerate(logs):
        log.touch()
        ranks = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "ACCELERATE_USE_CPU": "true",
        } if world_size > 1 else {"ACCELERATE_USE_CPU": "true"}  # fmt: skip
        full = {**common, **ranks, **(environment or {})}
        processes.append(_context.Process(target=_child, args=(terminal or str(log), full, target, arguments)))
    for process in processes:
        process.start()
    while kill_when and all(process.is_alive() for process in processes):
        if kill_when(bare(logs[0].read_text())):
            for process in processes:
                process.kill()
        time.sleep(0.01)
    for process in processes:
        process.join(TIMEOUT_S)
        if process.is_alive():
            for other in processes:
                other.kill()
            pytest.fail(f"training did not end in {TIMEOUT_S} s:\n{logs[0].read_text()[-2000:]}")
    log_text = logs[0].read_text()
    return Ended(codes=tuple(p.exitcode or 0 for p in processes), output=bare(log_text), log=log_text)


def train_forked(
    folder: Path,
    *,
    world_size: int = 1,
    environment: Mapping[str, str] | None = None,
    kill_when: Callable[[str], bool] | None = None,
    terminal: str | None = None,
    program: Callable[[list[str]], int] | None = None,
    **options: Any,
) -> Ended:
    """`python -m trainer.train --name value ...` into `folder`/run, forked; options win over small defaults. `program`
    is called in the place of trainer.train's main."""
    from trainer.train import main

    values = {
        "output_dir": str(folder / "run"), "run_id": "test", "device": "cpu", "world_size": world_size,
        "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 4, "learning_rate": 2e-3,
        "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "logging_steps": 1, "eval_samples": 8, **options,
    }  # fmt: skip
    argv = [word for name, value in values.items() for word in (f"--{name}", _text(value))]
    return run_forked(
        folder, program or main, argv, world_size=world_size, environment=environment, kill_when=kill_when,
        terminal=terminal,
    )  # fmt: skip


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def reload_adapter(base: str, run: str, out: str, processor: bool = True) -> None:
    """Load a run's adapter (and its processor) with plain transformers and peft; write to `out` what was in it."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), f"{run}/adapter")
    if processor:
        AutoProcessor.from_pretrained(f"{run}/adapter")
    stored = load_file(f"{run}/adapter/adapter_model.safetensors")
    loaded = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
    same = sorted(stored) == sorted(loaded) and all(torch.equal(stored[n], loaded[n]) for n in stored)
    moved = sum(float(t.abs().sum()) > 0 for n, t in stored.items() if "lora_B" in n)
    dtypes = sorted({str(t.dtype) for t in stored.values()})
    Path(out).write_text(json.dumps({"same": same, "tensors": len(stored), "moved": moved, "dtypes": dtypes}))


def built(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder of a model that `write` makes: in this process where it has torch, else in a forked one, so that a
    process that only starts others stays light."""
    if "torch" in sys.modules:
        write(folder / "model")
    else:
        ended = run_forked(folder / "log", write, folder / "model")
        assert ended.codes == (0,), ended.output
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the demo's tiny Gemma 3."""
    from examples.demo.tiny import write_tiny_model

    return built(tmp_path_factory.mktemp("tiny"), write_tiny_model)


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of the demo's game: train.jsonl, eval.jsonl and frames/."""
    from examples.demo.frames import write_dataset

    folder = tmp_path_factory.mktemp("walks")
    write_dataset(folder, episodes=4, eval_episodes=2)
    return folder
