"""`python -m slurm VERB [options]`, for every scheduler: verbs by name, variables, one line for an error, exit codes.

VERBS are shared by all schedulers; a scheduler adds its OWN. stdout carries only the answer; an error is one line on
stderr. Exit codes: 0 done, 78 the request is wrong (nothing was written), 75 a run of this machine that was stopped,
1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launcher.cli import say
from launcher.scheduler import Scheduler
from planner.request.variables import OF_SWEEPS, help_text, read_given, refuse_untaken
from trainer.files import each_file_once
from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, ConfigError, SchedulerError
from trainer.text import known_are
from trainer.verbs import load, nobody_reads


class Verb(NamedTuple):
    """The first word of a command line."""

    help: str
    act: str
    """module:function, imported when it is used. It takes the scheduler, the given texts by variable name, the
    environment and the checkout, and returns an exit code."""
    sweeps: bool = False
    """Whether the verb takes GRID and the other variables of a sweep."""
    alone: bool = False
    """Whether the verb parses its own command line; its function then takes only those words."""


# In the order in which people type them.
VERBS: Mapping[str, Verb] = {
    "plan": Verb(help="explain which configuration fits and why", act="launcher.starting:plan", sweeps=True),
    "render": Verb(help="print the job's script, manifest or command", act="launcher.starting:render", sweeps=True),
    "submit": Verb(help="plan, render and submit", act="launcher.starting:submit"),
    "sweep": Verb(
        help="submit a grid of runs (--grid), or W&B's trials (--sweep); plan and render take both too",
        act="launcher.starting:sweep",
        sweeps=True,
    ),
    "status": Verb(
        help="where a run is and what to type next (--run; left out: the newest)", act="launcher.verbs:status"
    ),
    "logs": Verb(help="print a run's log and follow it until its job has ended", act="launcher.verbs:logs"),
    "cancel": Verb(help="cancel a run's job", act="launcher.verbs:cancel"),
    "resume": Verb(help="submit an ended run again, into the same folder", act="launcher.resuming:resume"),
    "list": Verb(help="all runs", act="launcher.verbs:list_runs"),
}
NO_MORE: Mapping[str, Verb] = {}


def main(
    scheduler: Scheduler[Any, Any],
    argv: Sequence[str],
    environ: Mapping[str, str],
    project_dir: Path,
    own: Mapping[str, Verb] = NO_MORE,
) -> int:
    """Runs the command line of `python -m` for the scheduler, with its `own` verbs beside VERBS; returns the exit
    code."""
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a script's bytes whatever the locale
    try:
        code = _run(scheduler, {**VERBS, **own}, argv, environ, project_dir)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        return _complain(str(error), BAD_CONFIG)
    except (SchedulerError, OSError) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return FAILED
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", FAILED)


def _run(
    scheduler: Scheduler[Any, Any],
    verbs: Mapping[str, Verb],
    argv: Sequence[str],
    environ: Mapping[str, str],
    project_dir: Path,
) -> int:
    name = argv[0] if argv else ""
    verb = verbs.get(name)
    if verb and verb.alone:
        return int(load(verb.act)(argv[1:]))
    if any(word in ("-h", "--help") for word in argv):
        print(help_text(usage(scheduler.name, verbs, name)), end="")
        return FINISHED
    if verb is None:
        raise ConfigError(f"unknown verb {name!r}{known_are(name, tuple(verbs))}")
    given = read_given(argv[1:], environ)
    if "FORMAT" in given and name != "plan":
        raise ConfigError(f"only plan has formats, leave it out for {name}", name="FORMAT", given=given["FORMAT"])
    if not verb.sweeps and (odd := [variable for variable in OF_SWEEPS if variable in given]):
        raise ConfigError(f"only make sweep takes it, leave it out for {name}", name=odd[0], given=given[odd[0]])
    refuse_untaken(given, scheduler.name)
    with each_file_once():
        return int(load(verb.act)(scheduler, given, environ, project_dir))


def usage(room: str, verbs: Mapping[str, Verb], verb: str = "") -> str:
    """The usage of one verb, or of all verbs."""
    listed = {verb: verbs[verb]} if verb in verbs else verbs
    said = verb if verb in verbs else "VERB"
    width = max(map(len, listed)) + 1
    rows = [f"  {name:<{width}} {about.help}" for name, about in listed.items()]
    heading = f"usage: python -m {room} {said} [--gpus 2 | --gpus=2 ...], or make {said} GPUS=2 ..."
    return "\n".join([heading, "", *rows])


def _complain(message: str, code: int) -> int:
    say(" ".join(message.split()))
    return code
