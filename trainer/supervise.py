"""The job's first process, everywhere: starts `accelerate launch`, waits, and gives the scheduler an honest exit code.

    python -m trainer.supervise -- accelerate launch --config_file ... -m trainer.train ...

It completes the planned command with what only a node knows, its rank and the first node's address, reads
secrets from `.env`, and takes the outcome from the file the ranks leave, since torchrun turns every code into 1.
Signals that mean "stop" end here: they raise a flag that the ranks agree on, and reach nobody else.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.env_file import read_env_file
from trainer.node.preflight import check_node, resolves
from trainer.node.processes import STOP_SIGNALS, SUPERVISOR_ENV, become_subreaper, in_launcher, kill_descendants
from trainer.node.record import RECORD_ENV, write_record
from trainer.node.stop import DEADLINE_ENV, LIMIT_ENV, raise_flag
from trainer.outcome import (
    ATTEMPT_DIR_ENV,
    ATTEMPT_ID_ENV,
    FAILED,
    FINISHED,
    RUN_AGAIN,
    STATUS_FILE_ENV,
    SWEEP_ENV,
    ConfigError,
    SickNode,
    read_outcome,
)


def main(argv: Sequence[str]) -> int:
    try:
        planned = argv[1:] if argv[:1] == ["--"] else argv
        environment = with_deadline({**read_env_file(Path(".env")), **os.environ}, time.time())
        if SWEEP_ENV in environment:
            from accelerate_configs.sweeps import trial

            code = trial.attempt(planned, environment, attempt)
        else:
            code = attempt(planned, environment)
    except (ConfigError, SickNode) as error:
        print(f"trainyard: {error}", file=sys.stderr)
        code = error.exit_code
    status_file = os.environ.get(STATUS_FILE_ENV)
    if status_file and os.environ.get("SLURM_PROCID", "0") == "0":
        Path(status_file).write_text(f"{code}\n", encoding="utf-8")
    # The batch shell reads the file. To srun 75 would be a bad exit, on which it kills nodes that are still leaving.
    return FINISHED if status_file and code == RUN_AGAIN else code


def attempt(planned: Sequence[str], environment: dict[str, str]) -> int:
    """Look at this node, then run the planned command on it. Raises ConfigError, SickNode."""
    command = complete_command(planned, os.environ)
    return run(command, environment, before=lambda environ: _begin(planned, environ))


def with_deadline(environment: dict[str, str], now: float) -> dict[str, str]:
    """`environment` with the time limit counted from `now`, where there is one and no scheduler says when it ends."""
    limit_s = environment.get(LIMIT_ENV)
    if not limit_s or environment.get(DEADLINE_ENV):
        return environment
    return {**environment, DEADLINE_ENV: str(int(now) + int(limit_s))}


def _begin(planned: Sequence[str], environment: dict[str, str]) -> None:
    """Look at the node; then, where submit could not, the first node writes the run's record."""
    check_node(planned, environment)
    record, options = environment.get(RECORD_ENV), list(planned)
    if record and environment.get("JOB_COMPLETION_INDEX", "0") == "0":
        folder = Path(options[options.index("--output_dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, json.loads(Path(record).read_text(encoding="utf-8")))


def run(
    command: Sequence[str],
    environment: dict[str, str],
    *,
    before: Callable[[dict[str, str]], None] = lambda environ: None,
) -> int:
    """Run one attempt to its end and return its exit code: the ranks' outcome, or FAILED when they left none.

    `before` is called first with the environment, signals handled already; what it raises ends the attempt.
    """
    with tempfile.TemporaryDirectory(prefix="trainyard-") as directory:
        attempt = secrets.token_hex(8)
        environment = {
            **environment,
            ATTEMPT_DIR_ENV: directory,
            ATTEMPT_ID_ENV: attempt,
            SUPERVISOR_ENV: str(os.getpid()),
            # torchrun would end its workers on the signals that they are to be deaf to.
            "PET_SIGNALS_TO_HANDLE": "SIGQUIT",
        }
        environment.setdefault("HF_TOKEN", environment.get("HUGGINGFACE_TOKEN", ""))
        if not environment["HF_TOKEN"]:
            del environment["HF_TOKEN"]
        received: list[int] = []
        process: subprocess.Popen[bytes] | None = None

        def stop(number: int, _: Any) -> None:
            received.append(number)
            raise_flag(Path(directory), signal.Signals(number).name)
            if received.count(signal.SIGINT) > 1 and process is not None:
                process.kill()  # and with it, by the kernel, its ranks

        become_subreaper()
        handlers = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
        try:
            before(environment)
            if received:
                print("trainyard: asked to stop before anything was started: run again", file=sys.stderr)
                return RUN_AGAIN
            process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=in_launcher)
            process.wait()
        finally:
            kill_descendants()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        outcome = read_outcome(Path(directory), attempt)
    if received:
        print(f"trainyard: asked to stop by {signal.Signals(received[0]).name}", file=sys.stderr)
    if outcome is None:
        print(
            f"trainyard: the training failed (exit code {process.returncode}); the reason stands above", file=sys.stderr
        )
        return FAILED
    code, message = outcome
    if code != FINISHED and message:
        print(f"trainyard: {message}", file=sys.stderr)
    return code


def complete_command(planned: Sequence[str], environment: Any) -> list[str]:
    """The planned `accelerate launch ...` as this node must run it.

    Raises:
        ConfigError: it is no accelerate launch, or several nodes were planned and their environment is missing.
    """
    if list(planned[:2]) != ["accelerate", "launch"]:
        raise ConfigError("supervise takes the plan's command: -- accelerate launch ... -m trainer.train ...")
    options = list(planned[2:])
    # Quiet: when training fails, its own traceback is the one to read, not the launcher's as well.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    if _number(options, "--num_machines") > 1:
        rank = environment.get("SLURM_PROCID") or environment.get("JOB_COMPLETION_INDEX")
        address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
        if rank is None or not address or not port:
            raise ConfigError("several nodes were planned, but SLURM_PROCID, MASTER_ADDR or MASTER_PORT is not set")
        if not resolves(address):
            # Node names that only Slurm knows; srun leaves the address of the node it was started on.
            address = environment.get("SLURM_LAUNCH_NODE_IPADDR", address)
        command += ["--machine_rank", rank, "--main_process_ip", address, "--main_process_port", port]
    elif _number(options, "--num_processes") > 1:
        # A free one: accelerate's own, 29500, is every other job's too, and two that start at once both find it free.
        command += ["--main_process_port", "0"]
    return [*command, *options]


def _number(options: Sequence[str], name: str) -> int:
    return int(options[options.index(name) + 1]) if name in options else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
