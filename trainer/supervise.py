"""The first process of every job: starts `accelerate launch`, or the only training process without it, waits, and
gives the scheduler a correct exit code.

    python -m trainer.supervise -- accelerate launch --config_file ... -m trainer.train ...

The supervisor adds to the planned command what only a node knows, its rank and the first node's address, reads
secrets from `.env`, and takes the outcome from the file that the ranks leave, since torchrun turns every code into 1.
Signals that mean "stop" reach only the supervisor, which raises a flag on which the ranks agree.
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
from trainer.env_file import open_to_others, read_env_file, watched, with_env_file
from trainer.files import RECORD_ENV, RECORD_NAME, sweep_halves, write_whole
from trainer.launch import PLANNED_ENVIRONMENT, Launch
from trainer.node import processes
from trainer.node.cgroups import killed_for_memory, of_a_job
from trainer.node.kept_log import log_kept
from trainer.node.killed import begin_attempt, end_attempt
from trainer.node.one_process import alone
from trainer.node.preflight import MEETING_TIMEOUT_S, check_node, meeting_place
from trainer.node.stop import DEADLINE_ENV, FLAG, LIMIT_ENV, stopped
from trainer.outcome import ConfigError, SickNode, node_rank
from trainer.placeholder import NOT_FILLED_IN, placeholders
from trainer.progress_file import progress_text, write_end
from trainer.terminal import give_back

LAUNCHER = "accelerate.commands.launch"  # accelerate launch, run by this Python
TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes' default, when the pod names no other path
SAME_PRESS_S = 2.0  # srun and timeout send SIGINT to every process of a command, and make run passes its own on as well
OVERTIME_S = 120  # beyond the time limit, for ranks that are still saving; after that they count as hung


def main(argv: Sequence[str]) -> int:
    log.begin("supervisor")
    with contextlib.ExitStack() as kept:
        code = supervised(argv, kept)
    status_file = os.environ.get(outcome.STATUS_FILE_ENV)
    if status_file and not node_rank(os.environ):
        Path(status_file).write_text(f"{code}\n", encoding="utf-8")
    # The batch shell reads the file. For srun 75 would be a failure, after which it kills nodes that are still
    # leaving.
    return outcome.FINISHED if status_file and code == outcome.RUN_AGAIN else code


def supervised(argv: Sequence[str], kept: contextlib.ExitStack) -> int:
    """The exit code of the planned command. In a pod its log is kept in the run's folder, until `kept` is closed."""
    try:
        env_file = read_env_file(Path(".env"))
        for notice in open_to_others(Path(".env"), env_file):
            log.complain(notice)
        around = with_env_file(env_file, os.environ, PLANNED_ENVIRONMENT)
        for name in placeholders(around):
            log.complain(f"{name} {NOT_FILLED_IN}")
            around[name] = ""  # not left out: the ranks, which read .env, take what the environment says
        os.environ.update(complete_environment(around, time.time()))
        watched(os.environ)
        launch = Launch.from_words(argv[1:] if argv[:1] == ["--"] else argv)
        if RECORD_ENV in os.environ and (folder := launch.settings.get("output_dir")):
            kept.enter_context(log_kept(Path(folder), node_rank(os.environ) or 0))
        if outcome.SWEEP_ENV in os.environ:
            from trainer.sweep import trial

            return trial.attempt(launch, os.environ, attempt)
        return attempt(launch)
    except (ConfigError, SickNode) as error:
        log.complain(str(error))
        return error.exit_code


def attempt(launch: Launch) -> int:
    """Run the planned command on this node to its end; returns the ranks' outcome, or FAILED when they left none.

    Raises:
        ConfigError, SickNode: before any process was started.
    """
    began, killed = time.time(), killed_for_memory()
    process: subprocess.Popen[bytes] | None = None
    told: tuple[int, str] | None = None
    early = False
    pressed: list[float] = []
    # Libraries load for up to half a minute, and a rank that is killed meanwhile loses nothing. The ranks of several
    # nodes would wait for it in vain, so they leave together.
    heard = processes.LISTENING if launch.machines == 1 else processes.BEGUN

    def stop(came: list[int]) -> None:
        nonlocal early
        Path(directory, FLAG).touch()
        if len(came) == 1:  # at once: the step, the evaluation and the saving that end first may take minutes
            log.complain(asked_to_stop(came[0]))
        # The launcher, which may be waiting for other nodes, does not read the flag, and no rank does yet.
        early = early or not Path(directory, heard).exists()
        if came[-1] == signal.SIGINT:
            pressed.append(time.monotonic())
        if process is not None and (early or pressed_again(pressed)):
            process.kill()  # the kernel then kills its ranks

    ended = (
        outcome.FAILED,
        (
            "the training failed: what stands above says why. If nothing does, no fatal error of Python either, a "
            "process of it was killed from outside, most often because the node's memory ran out (MEM=)"
        ),
    )
    # Behind the attempt only its end is written down, which a late signal must not prevent.
    kept = processes.stop_signals_kept(stop, then=signal.SIG_IGN)
    with tempfile.TemporaryDirectory(prefix="trainyard-") as directory, kept as came:
        attempt_id = secrets.token_hex(8)
        os.environ |= {outcome.ATTEMPT_DIR_ENV: directory, outcome.ATTEMPT_ID_ENV: attempt_id}
        # torchrun would end its workers on the signals that they must ignore.
        os.environ |= {processes.SUPERVISOR_ENV: str(os.getpid()), "PET_SIGNALS_TO_HANDLE": "SIGQUIT"}
        os.environ[processes.BEGAN_ENV] = str(began)
        processes.become_subreaper()
        try:
            if (folder := launch.settings.get("output_dir")) and not node_rank(os.environ):
                sweep_halves(Path(folder))
                begin_attempt(Path(folder))
            check_node(launch)
            command, variables = complete_command(launch, os.environ)
            # when submit could not write the file
            if (record := os.environ.get(RECORD_ENV)) and not node_rank(os.environ):
                write_whole(Path(launch.settings["output_dir"], RECORD_NAME), Path(record).read_text(encoding="utf-8"))
            if not came:
                if not node_rank(os.environ):
                    log.say("loading libraries ...")  # no other line appears for half a minute
                process = subprocess.Popen(
                    command, env={**os.environ, **variables}, start_new_session=True, preexec_fn=processes.in_launcher
                )
                if early:  # the signal came while the launcher was being started
                    process.kill()
                deadline = os.environ.get(DEADLINE_ENV)
                process.wait(float(deadline) + OVERTIME_S - time.time() if deadline else None)
            told = outcome.read_outcome(Path(directory), attempt_id)
            ended = told or ended
        except (ConfigError, SickNode) as error:
            leave_word(launch, error.exit_code, str(error), began)
            raise
        except subprocess.TimeoutExpired:
            ended = outcome.FAILED, "the time limit has come, and the training did not stop when it was told to"
        finally:
            processes.kill_descendants()
            give_back()
    # Whatever failed by itself before it was killed has failed.
    if early and not told and (process is None or process.returncode == -signal.SIGKILL):
        is_first = not node_rank(os.environ)  # only the first node counts attempts
        ended = stopped(Path(launch.settings["output_dir"]), None) if is_first else (outcome.RUN_AGAIN, "")
    code, message = ended
    out_of_memory = code == outcome.FAILED and killed_for_memory() > killed and of_a_job(os.environ)
    if out_of_memory:
        message = "the memory of the job ran out, and the kernel killed a process of it: give it more with MEM="
    if code != outcome.FINISHED and message:
        log.complain(message)
    if not node_rank(os.environ) or out_of_memory:
        leave_word(launch, code, message, began, out_of_memory=out_of_memory)
    return code


def pressed_again(times: Sequence[float]) -> bool:
    """Whether SIGINTs at these times, in seconds, are more than one Ctrl-C."""
    return bool(times) and times[-1] - times[0] > SAME_PRESS_S


def asked_to_stop(number: int) -> str:
    again = "; a second Ctrl-C kills it" if number == signal.SIGINT and sys.stderr.isatty() else ""
    return f"asked to stop by {signal.Signals(number).name}{again}"


def leave_word(launch: Launch, code: int, message: str, began: float, *, out_of_memory: bool = False) -> None:
    """Record how this attempt ended, for `status`: in the run's folder, and in a pod as its termination message, the
    only thing that can be read of a pod afterwards."""
    if folder := launch.settings.get("output_dir"):
        if not node_rank(os.environ):  # who counts; another node's refusal says nothing of how this one ends
            end_attempt(Path(folder))
        ended = write_end(Path(folder), code, message, time.time(), began=began, out_of_memory=out_of_memory)
        if RECORD_ENV in os.environ:
            with contextlib.suppress(OSError):  # a pod without such a file
                TERMINATION_LOG.write_text(progress_text(ended), encoding="utf-8")
        if code != outcome.RUN_AGAIN:  # a stopped run has no time left, and continues later
            show_among_runs(Path(folder), code)


def show_among_runs(folder: Path, code: int) -> None:
    """Rewrite the page of all runs, for a run that has ended. An error of the page does not make the run fail."""
    if not (folder / RECORD_NAME).is_file():  # of no plan, so on no page: what draws pages is not even loaded
        return
    try:
        from trainer.report.runs import pages_line

        line = pages_line(folder)
    except Exception as error:
        line = f"all runs: no page was written ({error!r})"
    if code == outcome.FINISHED and line:
        log.say(line)


def complete_environment(environ: Mapping[str, str], now: float) -> dict[str, str]:
    """`environ` with the token under the name that the libraries know, and with a deadline counted from `now` when
    there is a time limit and no scheduler sets a deadline."""
    found = dict(environ)
    if token := environ.get("HF_TOKEN") or environ.get("HUGGINGFACE_TOKEN"):
        found["HF_TOKEN"] = token
    if (limit_s := environ.get(LIMIT_ENV)) and not environ.get(DEADLINE_ENV):
        found[DEADLINE_ENV] = str(int(now) + int(limit_s))
    return found


def complete_command(launch: Launch, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """(the planned command in the form for this node, variables that it needs besides the `environment`).

    Raises:
        ConfigError: several nodes were planned and their environment is missing.
        SickNode: the nodes cannot meet.
    """
    if found := alone(launch, environment):
        return found
    own = ["--quiet"]  # when training fails, only its own traceback is useful, not the launcher's as well
    if launch.machines > 1:
        rank, address, port = meeting_place(environment)
        own += ["--machine_rank", str(rank), "--main_process_ip", address, "--main_process_port", port]
        own += ["--rdzv_conf", f"timeout={MEETING_TIMEOUT_S}"]  # torchrun waits so long for the other nodes
    elif launch.processes > 1:
        # A free port: accelerate's default, 29500, is the same for every job, and two jobs starting together both
        # find it free.
        own += ["--main_process_port", "0"]
    return [sys.executable, "-m", LAUNCHER, *own, *launch.launcher_words(), *launch.setting_words()], {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
