"""`python -m slurm VERB [options]`, for every scheduler: verbs by name, variables, one line for an error, exit codes.

A backend hands in its table of verbs. stdout carries the answer and nothing else; what went wrong is one line on
stderr. Exit codes: 0 done, 78 the request is wrong (nothing was written), 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.cli import say
from launcher.scheduler import Scheduler
from planner.request.variables import OF_SWEEPS, help_text, read_given, refuse_untaken
from trainer.files import each_file_once
from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, ConfigError, SchedulerError
from trainer.text import known_are
from trainer.verbs import nobody_reads

Verb = Callable[[dict[str, str], Mapping[str, str]], int]
"""Takes what was given, as text by variable name, and the environment; returns an exit code."""

# In the order in which they are typed. A backend has those that it brings.
VERBS: dict[str, str] = {
    "plan": "explain which configuration fits and why",
    "render": "print the job's script or manifest",
    "submit": "plan, render and submit",
    "claim": "print the claim that runs live in, as a file of its own (--size 200Gi)",
    "check": "ask the cluster whether it would take the job; queues nothing",
    "site": "draft the site file from what the cluster says",
    "sweep": "submit a grid of runs (--grid), on Slurm also W&B's trials (--sweep); plan and render take them too",
    "sweep-ready": "what ready does, for a grid",
    "ready": "check all that submit would and print the device whose environment it needs",
    "status": "where a run is and what to type next (--run; left out: the newest)",
    "logs": "print a run's log and follow it until its job has ended",
    "cancel": "cancel a run's job",
    "resume": "submit an ended run again, into the same folder",
    "list": "all runs",
}
# Written once, in launcher/verbs.py.
AFTER_SUBMIT = {"status": "status", "logs": "logs", "list": "list_runs", "cancel": "cancel"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One scheduler's command line."""

    name: str
    """Of the package: `python -m name`."""
    verbs: Mapping[str, Verb]


def main(backend: Backend, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a script's bytes whatever the locale
    try:
        code = _run(backend, argv, environ)
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


def _run(backend: Backend, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    if any(word in ("-h", "--help") for word in argv):
        print(help_text(usage(backend)), end="")
        return FINISHED
    verb = argv[0] if argv else ""
    known = tuple(name for name in VERBS if name in backend.verbs)
    if verb not in known:
        raise ConfigError(f"unknown verb {verb!r}{known_are(verb, known)}")
    given = read_given(argv[1:], environ)
    if "FORMAT" in given and verb != "plan":
        raise ConfigError(f"FORMAT={given['FORMAT']}: only plan has formats, leave it out for {verb}")
    sweeping = ("sweep", "sweep-ready", "plan", "render") if "sweep" in backend.verbs else ()
    if odd := [name for name in OF_SWEEPS if name in given and verb not in sweeping]:
        raise ConfigError(f"{odd[0]}={given[odd[0]]}: only make sweep takes it, leave it out for {verb}")
    refuse_untaken(given, backend.name)
    with each_file_once():
        return backend.verbs[verb](given, environ)


def verbs_after(scheduler: Scheduler[Any], project_dir: Path) -> dict[str, Verb]:
    """The verbs that come after submit, imported when they are used: plan and render answer sooner without them."""

    def late(function: str) -> Verb:
        def verb(given: dict[str, str], environ: Mapping[str, str]) -> int:
            from launcher import verbs

            return int(getattr(verbs, function)(scheduler, given, environ, project_dir))

        return verb

    return {name: late(function) for name, function in AFTER_SUBMIT.items()}


def usage(backend: Backend) -> str:
    rows = [f"  {name:<11} {text}" for name, text in VERBS.items() if name in backend.verbs]
    heading = f"usage: python -m {backend.name} VERB [--gpus 2 | --gpus=2 ...], or make VERB GPUS=2 ..."
    return "\n".join([heading, "", *rows])


def _complain(message: str, code: int) -> int:
    say(" ".join(message.split()))
    return code
