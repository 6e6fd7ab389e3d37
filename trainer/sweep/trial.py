"""A member of a W&B sweep inside its job: it takes one trial, and continues the same trial after every requeue.

The trial is stored in the run's folder before it is used: its id, which is the W&B run's id in every attempt, and its
values, which go into the planned command. During training, a separate process reports to W&B, and learns when the
sweep has seen enough of the trial: the run then stops in order and is not continued.
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
from trainer.outcome import FAILED, FINISHED, RUN_AGAIN, SWEEP_ENV, ConfigError, SickNode, UnreadableError, node_rank
from trainer.sweep.wandb_service import ServiceError, as_service_error, heartbeat, register_agent

TRIAL_NAME = "trial.json"
RUN_ID = r"[\w-]{1,64}"
# The settings that a trial may choose. Memory depends on the rank: the plan is made for the largest.
PARAMETERS = tuple(name for name, setting in SETTINGS.items() if setting.swept)
RANK, ALPHA, ACCUMULATION = "lora_r", "lora_alpha", "gradient_accumulation_steps"
ASK_EVERY_S = 5.0  # as wandb's own agent does
TELL_EVERY_S = 30.0
TRIES = 6
OTHERS_WAIT_S = 600.0  # how long the other nodes wait for the first to take the trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    run_id: str
    """The trial's id at W&B, which is also the W&B run's id in every attempt."""
    agent: str
    values: Mapping[str, Any]
    """Values by name of a setting."""
    stopped: bool = False
    """Whether the sweep has seen enough of this trial."""


def attempt(launch: Launch, environment: Mapping[str, str], run: Callable[[Launch], int]) -> int:
    """`run` the planned command with the trial's values; returns its exit code, 0 when the sweep wants no more.

    Raises:
        ConfigError: the trial's values do not fit the plan, the stored trial is damaged, or the API key is not
            accepted.
        SickNode: the stored trial cannot be read on this node.
    """
    path = environment[SWEEP_ENV]
    folder = Path(launch.settings["output_dir"])
    with stop_signals_kept() as asked:  # a trial that the service gave must be stored
        try:
            trial = read_trial(folder) or _take(path, folder, environment, asked)
        except ServiceError as error:
            log.complain(f"no trial: {error}")
            return FAILED
        except UnreadableError as error:
            raise SickNode(str(error)) from None
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
    # In a sweep W&B's client takes these values only from its environment.
    os.environ |= {"WANDB_SWEEP_ID": sweep_id, "WANDB_RUN_ID": trial.run_id}
    os.environ |= {"WANDB_PROJECT": project, "WANDB_ENTITY": entity}
    if not node_rank(environment):
        _tell(trial, folder, environment)
    code = run(chosen)
    if code == RUN_AGAIN:
        with contextlib.suppress(UnreadableError):  # the next attempt asks again
            ended = read_trial(folder)
            return FINISHED if ended and ended.stopped else code
    return code


def read_trial(folder: Path) -> Trial | None:
    """The stored trial; None before one was taken. Raises ConfigError when its file is damaged, UnreadableError when it
    cannot be read."""
    path = folder / TRIAL_NAME
    try:
        record = read_json(path)
        trial = Trial(**record)
        if not re.fullmatch(RUN_ID, trial.run_id) or not isinstance(trial.values, dict):
            raise ValueError("no trial's id and values")
        return trial
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableError.made(path, error) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not what was written ({error}): remove {folder}") from None


def with_values(launch: Launch, trial: Trial) -> Launch:
    """The planned command with the trial's values; an alpha that was twice the rank stays twice the rank.

    Raises:
        ConfigError: a value that the plan does not allow.
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
    """A trial from the service, stored; None when the service gives no more, or this job was asked to stop."""
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
                    return _store(_given(command, agent), folder)
                if command.get("type") == "exit":
                    return None
        except ServiceError:
            failed += 1
            if failed == TRIES:
                raise
        time.sleep(ASK_EVERY_S)
    return None


@as_service_error()
def _given(command: Mapping[str, Any], agent: str) -> Trial:
    """The trial in a command of the service. Raises ServiceError."""
    run_id, args = command["run_id"], command.get("args") or {}
    if not re.fullmatch(RUN_ID, run_id):
        raise ValueError("no run's id")
    return Trial(run_id=run_id, agent=agent, values={name: entry["value"] for name, entry in args.items()})


def _store(trial: Trial, folder: Path) -> Trial:
    write_whole(folder / TRIAL_NAME, json.dumps(asdict(trial), indent=1) + "\n")
    return trial


def _tell(trial: Trial, folder: Path, environment: Mapping[str, str]) -> None:
    """Start the process that reports to the service; the supervisor ends it with all other processes below it."""
    supervisor = os.getpid()
    sys.stdout.flush()
    if os.fork():
        return
    try:
        in_launcher()
        while os.getppid() == supervisor:
            time.sleep(TELL_EVERY_S)
            with contextlib.suppress(ServiceError, ConfigError):  # an unreachable W&B never stops a run
                said = heartbeat(trial.agent, trial.run_id, environment)
                if any(command.get("type") in ("stop", "exit") for command in said):
                    _store(replace(trial, stopped=True), folder)
                    os.kill(supervisor, signal.SIGTERM)
                    break
    finally:
        os._exit(0)
