"""The lines that the verbs of every scheduler print beside their answer, and the commands to type next."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.job import JobSpec
from planner.plan import Plan
from planner.request.variables import BY_NAME
from trainer.env_file import open_to_others, read_env_file
from trainer.outcome import FINISHED, ConfigError
from trainer.secret_shapes import told

if TYPE_CHECKING:
    from launcher.scheduler import Batch, Scheduler, Words
    from planner.table import Screen

DEFAULT_SCHEDULER = "slurm"
"""The scheduler when TO= is left out, as in the Makefile."""
LEAST_COLUMNS = 40


def refuse_others(given: Mapping[str, str], takes: Sequence[str]) -> None:
    """Raises ConfigError for a variable that the verb does not take; it `takes` only these."""
    odd = next((name for name in given if name not in takes), None)
    if odd and "TIME" in takes and BY_NAME[odd].field:
        raise ConfigError(
            f"a resumed run keeps what its plan computed, and takes {', '.join(takes)}",
            name=odd,
            given=given[odd],
            advice="leave it out, or make submit with another RUN (init_adapter starts from this run's adapter)",
        )
    if odd:
        raise ConfigError(f"only {', '.join(takes)} count here, leave it out", name=odd, given=given[odd])


def print_plan(plan: Plan, form: str | None) -> int:
    """The plan as a table, or as `json` for programs."""
    if form == "json":
        import json

        print(json.dumps(plan.to_dict(), indent=2))
    else:
        from planner.table import plan_table

        print(plan_table(plan, screen()))
    return FINISHED


def print_submitted(batch: Batch, lines: Sequence[str]) -> int:
    """Print the choice, its notes, and `lines`, which tell what to type next."""
    print("\n".join([batch_text(batch), "", *lines]))
    return FINISHED


def batch_text(batch: Batch) -> str:
    """The choice as text for a terminal."""
    if batch.sweep:
        from launcher.grid import plan_table

        return plan_table(batch.sweep)
    from planner.table import plan_summary

    return plan_summary(batch.plans[0], screen())


def make_environment(spec: JobSpec, environ: Mapping[str, str]) -> None:
    """Make the checkout's environment for a job if it is missing or its pins have changed, which takes minutes.
    Raises ConfigError when it cannot be made; make-env.sh has then printed the reason on stderr."""
    import subprocess

    command = ["sh", "make-env.sh", spec.resources.device]
    if subprocess.run(command, cwd=spec.project_dir, env=dict(environ), stdout=subprocess.DEVNULL).returncode:
        raise ConfigError(
            f"the job's environment could not be made: make env DEVICE={spec.resources.device} tries again"
        )


def screen() -> Screen:
    """The screen of standard output: the terminal, or PAPER for a file or a pipe."""
    from planner.table import PAPER, Screen

    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return PAPER
    import locale

    return Screen(
        width=max(LEAST_COLUMNS, os.get_terminal_size(sys.stdout.fileno()).columns or PAPER.width),
        colour="NO_COLOR" not in os.environ,
        blocks=locale.getpreferredencoding(False).lower().replace("-", "") == "utf8",
    )


def command_words(given: Mapping[str, str], run_id: str, names: Sequence[str] = ("OUTPUT", "SITE")) -> str:
    """The words by which make finds the run again: `RUN=x`, with those of `names` that were given."""
    found = (shlex.quote(f"{name}={given[name]}") for name in names if name in given)
    return " ".join([f"RUN={run_id}", *found])


def words_of(scheduler: Scheduler[Any, Any], given: Words, name: str) -> str:
    """The words by which make finds the run or sweep again: `TO=k8s RUN=x NAMESPACE=y`."""
    return " ".join([*to_words(scheduler), command_words(given, name, scheduler.takes[1:])])


def to_words(scheduler: Scheduler[Any, Any]) -> list[str]:
    return [f"TO={scheduler.name}"] if scheduler.name != DEFAULT_SCHEDULER else []


def follow_up(words: str, *, cancel: str) -> list[str]:
    """The commands after submit. `words` are their arguments, `cancel` is the scheduler's own command."""
    return [
        f"status  make status {words}",
        f"follow  make logs {words}",
        f"cancel  make cancel {words}    (or {cancel})",
        f"resume  make resume {words}    (once it has ended unfinished)",
    ]


def fresh_suffix() -> str:
    """The end of a new run's id: the day, and characters that no other run of the day has."""
    import secrets
    import time

    return f"{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"


def say_open(project_dir: Path) -> None:
    """Print a warning if others can read the secrets in `.env`, for verbs that read it."""
    path = project_dir / ".env"
    with contextlib.suppress(ConfigError):  # the code that needs .env reports its mistakes
        for notice in open_to_others(path, read_env_file(path)):
            say(notice)


def say(text: str) -> None:
    """Print one line beside the answer."""
    print(f"trainyard: {told(text)}", file=sys.stderr, flush=True)
