"""The job's first process, everywhere: starts `accelerate launch`, waits, and gives the scheduler an honest exit code.

    python -m trainer.supervise -- accelerate launch --config_file ... -m trainer.train ...

It completes the planned command with what only a node knows, its rank and the first node's address, reads
secrets from `.env`, and takes the outcome from the file the ranks leave, since torchrun turns every code into 1.
Signals that mean "stop" end here: they raise a flag that the ranks agree on, and reach nobody else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer import log, outcome
from trainer.env_file import open_to_others, read_env_file, watched
from trainer.files import RECORD_ENV, RECORD_NAME, sweep_halves, write_whole
from trainer.launch import Launch
from trainer.node import processes
from trainer.node.killed import begin_attempt, end_attempt
from trainer.node.preflight import MEETING_TIMEOUT_S, check_node, meeting_place
from trainer.node.stop import DEADLINE_ENV, FLAG, LIMIT_ENV, stopped
from trainer.outcome import ConfigError, SickNode, node_rank
from trainer.progress_file import progress_text, write_end
from trainer.terminal import give_back

LAUNCHER = "accelerate.commands.launch"  # accelerate launch, of this very Python
TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes' own place, where the pod says no other
OVERTIME_S = 120  # beyond the time limit, for ranks that are still saving; then they count as hung


def main(argv: Sequence[str]) -> int:
    log.begin("supervisor")
    try:
        env_file = read_env_file(Path(".env"))
        for notice in open_to_others(Path(".env"), env_file):
            log.complain(notice)
        os.environ.update(complete_environment({**env_file, **os.environ}, time.time()))
        watched(os.environ)
        launch = Launch.from_words(argv[1:] if argv[:1] == ["--"] else argv)
        if outcome.SWEEP_ENV in os.environ:
            from trainer.sweep import trial

            code = trial.attempt(launch, os.environ, attempt)
        else:
            code = attempt(launch)
    except (ConfigError, SickNode) as error:
        log.complain(str(error))
        code = error.exit_code
    status_file = os.environ.get(outcome.STATUS_FILE_ENV)
    if status_file and not node_rank(os.environ):
        Path(status_file).write_text(f"{code}\n", encoding="utf-8")
    # The batch shell reads the file. To srun 75 would be a bad exit, on which it kills nodes that are still leaving.
    return outcome.FINISHED if status_file and code == outcome.RUN_AGAIN else code


def attempt(launch: Launch) -> int:
    """Run the planned command on this node to its end; returns the ranks' outcome, or FAILED when they left none.

    Raises:
        ConfigError, SickNode: found before anything was started.
    """
    began = time.time()
    process: subprocess.Popen[bytes] | None = None
    early = False

    def stop(came: list[int]) -> None:
        nonlocal early
        Path(directory, FLAG).touch()
        # The launcher, which may wait for other nodes, does not look at the flag, and there is no rank that would.
        early = early or not Path(directory, processes.BEGUN).exists()
        if process is not None and (early or came.count(signal.SIGINT) > 1):
            process.kill()  # and with it, by the kernel, its ranks

    ended = (
        outcome.FAILED,
        (
            "the training failed: what stands above says why. If nothing does, no fatal error of Python either, a "
            "process of it was killed from outside, most often because the node's memory ran out (MEM=)"
        ),
    )
    with tempfile.TemporaryDirectory(prefix="trainyard-") as directory, processes.stop_signals_kept(stop) as came:
        attempt_id = secrets.token_hex(8)
        os.environ |= {outcome.ATTEMPT_DIR_ENV: directory, outcome.ATTEMPT_ID_ENV: attempt_id}
        # torchrun would end its workers on the signals that they are to be deaf to.
        os.environ |= {processes.SUPERVISOR_ENV: str(os.getpid()), "PET_SIGNALS_TO_HANDLE": "SIGQUIT"}
        processes.become_subreaper()
        try:
            if (folder := launch.settings.get("output_dir")) and not node_rank(os.environ):
                sweep_halves(Path(folder))
                begin_attempt(Path(folder))
            check_node(launch)
            command = complete_command(launch, os.environ)
            if (record := os.environ.get(RECORD_ENV)) and not node_rank(os.environ):  # submit could not write it
                write_whole(Path(launch.settings["output_dir"], RECORD_NAME), Path(record).read_text(encoding="utf-8"))
            if not came:
                if not node_rank(os.environ):
                    log.say("loading libraries ...")  # for half a minute, without another word
                process = subprocess.Popen(command, start_new_session=True, preexec_fn=processes.in_launcher)
                if early:  # it came while the launcher was being started
                    process.kill()
                deadline = os.environ.get(DEADLINE_ENV)
                process.wait(float(deadline) + OVERTIME_S - time.time() if deadline else None)
            ended = outcome.read_outcome(Path(directory), attempt_id) or ended
        except (ConfigError, SickNode) as error:
            leave_word(launch, error.exit_code, str(error), began)
            raise
        except subprocess.TimeoutExpired:
            ended = outcome.FAILED, "the time limit has come, and the training did not stop when it was told to"
        finally:
            processes.kill_descendants()
            give_back()
    if came:
        log.complain(f"asked to stop by {signal.Signals(came[0]).name}")
    if early:
        is_first = not node_rank(os.environ)  # who counts
        ended = stopped(Path(launch.settings["output_dir"]), None) if is_first else (outcome.RUN_AGAIN, "")
    code, message = ended
    if code != outcome.FINISHED and message:
        log.complain(message)
    if not node_rank(os.environ):
        leave_word(launch, code, message, began)
    return code


def leave_word(launch: Launch, code: int, message: str, began: float) -> None:
    """For `status`, how this attempt ended: in the run's folder, and in a pod as its termination message, which is all
    that can be asked of it afterwards."""
    if folder := launch.settings.get("output_dir"):
        if not node_rank(os.environ):  # who counts; another node's refusal says nothing of how this one ends
            end_attempt(Path(folder))
        ended = write_end(Path(folder), code, message, time.time(), began=began)
        if RECORD_ENV in os.environ:
            with contextlib.suppress(OSError):  # where there is none
                TERMINATION_LOG.write_text(progress_text(ended), encoding="utf-8")
        if code != outcome.RUN_AGAIN:  # then there is no time, and the run goes on
            show_among_runs(Path(folder), code)


def show_among_runs(folder: Path, code: int) -> None:
    """Write the page of all runs again, for a run that came to an end. No page makes a run fail."""
    try:
        from trainer.report.runs import pages_line

        line = pages_line(folder)
    except Exception as error:
        line = f"all runs: no page was written ({error!r})"
    if code == outcome.FINISHED and line:
        log.say(line)


def complete_environment(environ: Mapping[str, str], now: float) -> dict[str, str]:
    """`environ` with the token under the name that the libraries know, and with the time limit counted from `now`
    where there is one and no scheduler says when it ends.
    """
    found = dict(environ)
    if token := environ.get("HF_TOKEN") or environ.get("HUGGINGFACE_TOKEN"):
        found["HF_TOKEN"] = token
    if (limit_s := environ.get(LIMIT_ENV)) and not environ.get(DEADLINE_ENV):
        found[DEADLINE_ENV] = str(int(now) + int(limit_s))
    return found


def complete_command(launch: Launch, environment: Mapping[str, str]) -> list[str]:
    """The planned command as this node must run it.

    Raises:
        ConfigError: several nodes were planned and their environment is missing.
        SickNode: the nodes cannot meet.
    """
    own = ["--quiet"]  # when training fails, its own traceback is the one to read, not the launcher's as well
    if launch.machines > 1:
        rank, address, port = meeting_place(environment)
        own += ["--machine_rank", str(rank), "--main_process_ip", address, "--main_process_port", port]
        own += ["--rdzv_conf", f"timeout={MEETING_TIMEOUT_S}"]  # torchrun waits for the other nodes' torchruns
    elif launch.processes > 1:
        # A free one: accelerate's own, 29500, is every other job's too, and two that start at once both find it free.
        own += ["--main_process_port", "0"]
    return [sys.executable, "-m", LAUNCHER, *own, *launch.launcher_words(), *launch.setting_words()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
