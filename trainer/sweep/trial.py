"""A W&B sweep's member in its job: takes one trial, and comes back to that very trial after every requeue.

What was taken is stored in the run's folder before anything else is done with it: the trial's id, which is the W&B
run's in every attempt, and its values, which go into the planned command. While it trains, a process of its own tells
W&B so, and hears when the sweep has seen enough of it: the run then stops in order and is not taken up again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainer import log
from trainer.config import SETTINGS, TrainConfig
from trainer.files import read_json, write_whole
from trainer.flags import convert, word
from trainer.launch import Launch
from trainer.node.processes import in_launcher, stop_signals_kept
from trainer.outcome import FAILED, FINISHED, RUN_AGAIN, SWEEP_ENV, ConfigError, node_rank
from trainer.sweep.wandb_service import ServiceError, heartbeat, register_agent

TRIAL_NAME = "trial.json"
# What a trial may choose, and what of it memory depends on: the plan is made for the largest.
PARAMETERS = tuple(name for name, setting in SETTINGS.items() if setting.swept)
RANK, ALPHA, ACCUMULATION = "lora_r", "lora_alpha", "gradient_accumulation_steps"
ASK_EVERY_S = 5.0  # as wandb's own agent
TELL_EVERY_S = 30.0
TRIES = 6
OTHERS_WAIT_S = 600.0  # of several nodes, for the first to have taken the trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    run_id: str
    """As W&B calls it; also the W&B run's id, in every attempt."""
    agent: str
    values: Mapping[str, Any]
    """By name of a setting."""
    stopped: bool = False
    """The sweep has seen enough of it."""


def attempt(launch: Launch, environment: Mapping[str, str], run: Callable[[Launch], int]) -> int:
    """`run` the planned command with the trial's values; returns its exit code, 0 when the sweep wants no more.

    Raises:
        ConfigError: the trial's values are not what was planned for, or the key is not taken.
    """
    path = environment[SWEEP_ENV]
    folder = Path(launch.settings["output_dir"])
    with stop_signals_kept() as asked:  # a trial that was given must be stored
        try:
            trial = read_trial(folder) or _take(path, folder, environment, asked)
        except ServiceError as error:
            log.complain(f"no trial: {error}")
            return FAILED
    if trial is None and asked:
        return RUN_AGAIN
    if trial is None or trial.stopped:
        why = f"stopped trial {trial.run_id}" if trial else "gives no more trials"
        log.complain(f"the sweep {why}: nothing is left to do")
        return FINISHED
    chosen = with_values(launch, trial)
    said = " ".join(f"{name}={value}" for name, value in trial.values.items())
    log.say(f"trial {trial.run_id} of {path}: {said}")
    entity, project, sweep_id = path.split("/")
    # In a sweep the client takes these from its environment alone.
    os.environ |= {"WANDB_SWEEP_ID": sweep_id, "WANDB_RUN_ID": trial.run_id}
    os.environ |= {"WANDB_PROJECT": project, "WANDB_ENTITY": entity}
    if not node_rank(environment):
        _tell(trial, folder, environment)
    code = run(chosen)
    ended = read_trial(folder)
    return FINISHED if code == RUN_AGAIN and ended and ended.stopped else code


def read_trial(folder: Path) -> Trial | None:
    """The trial that was taken; None before one was. Raises ConfigError when its file was spoilt."""
    path = folder / TRIAL_NAME
    try:
        record = read_json(path)
        trial = Trial(**record)
        if not re.fullmatch(r"[\w-]{1,64}", trial.run_id) or not isinstance(trial.values, dict):
            raise ValueError("no trial's id and values")
        return trial
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not what was written ({error}): remove {folder}") from None


def with_values(launch: Launch, trial: Trial) -> Launch:
    """The planned command with the trial's values; an alpha that was twice the rank stays so.

    Raises:
        ConfigError: what was not planned for.
    """
    settings = dict(launch.settings)
    follows = ALPHA not in trial.values and settings.get(ALPHA) == str(2 * int(settings.get(RANK, 0)))
    for name, value in trial.values.items():
        if name not in PARAMETERS:
            raise ConfigError(f"trial {trial.run_id} sets {name}, which is not for sweeps: {', '.join(PARAMETERS)}")
        text = word(convert(TrainConfig, name, value, shown_as=f"trial {trial.run_id}: {name}"))
        if name == RANK and int(text) > int(planned := settings.get(name, text)):
            raise ConfigError(f"trial {trial.run_id} sets {name} {text}, memory was planned for {planned}")
        settings[name] = text
        if name == RANK and follows:
            settings[ALPHA] = str(2 * int(text))
    return replace(launch, settings=settings)


def _take(path: str, folder: Path, environment: Mapping[str, str], asked: list[int]) -> Trial | None:
    """A trial from the service, stored; None when it gives no more, or this job was asked to stop."""
    if node_rank(environment):
        deadline = time.monotonic() + OTHERS_WAIT_S
        while not (taken := read_trial(folder)) and not asked:
            if time.monotonic() > deadline:
                raise ServiceError(f"the first node took no trial within {OTHERS_WAIT_S:.0f} s")
            time.sleep(1)
        return taken
    agent, failed = "", 0
    while not asked:
        try:
            agent = agent or register_agent(path, socket.gethostname(), environment)
            for command in heartbeat(agent, None, environment):
                if command.get("type") in ("run", "resume"):
                    values = {name: entry["value"] for name, entry in (command.get("args") or {}).items()}
                    return _store(Trial(run_id=str(command["run_id"]), agent=agent, values=values), folder)
                if command.get("type") == "exit":
                    return None
        except ServiceError:
            failed += 1
            if failed == TRIES:
                raise
        time.sleep(ASK_EVERY_S)
    return None


def _store(trial: Trial, folder: Path) -> Trial:
    write_whole(folder / TRIAL_NAME, json.dumps(asdict(trial), indent=1) + "\n")
    return trial


def _tell(trial: Trial, folder: Path, environment: Mapping[str, str]) -> None:
    """Start the process that speaks with the service; the supervisor ends it with everything else below it."""
    supervisor = os.getpid()
    sys.stdout.flush()
    if os.fork():
        return
    try:
        in_launcher()
        while os.getppid() == supervisor:
            time.sleep(TELL_EVERY_S)
            with contextlib.suppress(ServiceError, ConfigError):  # W&B never stops a run by being out of reach
                said = heartbeat(trial.agent, trial.run_id, environment)
                if any(command.get("type") in ("stop", "exit") for command in said):
                    _store(replace(trial, stopped=True), folder)
                    os.kill(supervisor, signal.SIGTERM)
                    break
    finally:
        os._exit(0)
