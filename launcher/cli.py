"""What `python -m slurm` and `python -m k8s` share: verbs by name, variables, one line for an error, exit codes.

A backend hands in its table of verbs. stdout carries the answer and nothing else; what went wrong is one line on
stderr. Exit codes: 0 done, 78 the request is wrong (nothing was written), 1 anything else.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from planner.job import Plan
from planner.request.secret import hide_secrets
from planner.request.variables import BY_NAME, OF_SWEEPS, help_text, read_given
from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, ConfigError, SchedulerError
from trainer.text import known_are, printable, shown

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
# Variables that are one scheduler's alone: the other refuses them rather than act as if it had listened.
ONLY: dict[str, tuple[str, ...]] = {
    "slurm": (
        *("RUNTIME", "ACCOUNT", "PARTITION", "QOS", "CONSTRAINT", "EXCLUDE", "RESERVATION"),
        *("MAIL_USER", "MAIL_TYPE", "GPU_FLAG", "EXTRA_FLAGS", "MODULES", "BINDS", "SWEEP", "TRIALS", "PARALLEL"),
    ),
    "k8s": ("NAMESPACE", "QUEUE", "PVC", "SIZE"),
}


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
    except BrokenPipeError:
        # `... | head` has read enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (SchedulerError, OSError) as error:
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
    for other, names in ONLY.items():
        if other != backend.name and (odd := [name for name in names if name in given]):
            raise ConfigError(f"{odd[0]}={shown(given[odd[0]])}: is for TO={other} only, leave it out")
    return backend.verbs[verb](given, environ)


def refuse_others(given: Mapping[str, str], takes: Sequence[str]) -> None:
    """Raises ConfigError for a variable that says nothing to a verb that `takes` these."""
    odd = next((name for name in given if name not in takes), None)
    if odd and "TIME" in takes and BY_NAME[odd].field:
        raise ConfigError(
            f"{odd}={given[odd]}: a resumed run keeps what its plan computed, and takes {', '.join(takes)}: leave it "
            "out, or make submit with another RUN (init_adapter starts from this run's adapter)"
        )
    if odd:
        raise ConfigError(f"{odd}={given[odd]}: only {', '.join(takes)} count here, leave it out")


def usage(backend: Backend) -> str:
    rows = [f"  {name:<11} {text}" for name, text in VERBS.items() if name in backend.verbs]
    heading = f"usage: python -m {backend.name} VERB [--gpus 2 | --gpus=2 ...], or make VERB GPUS=2 ..."
    return "\n".join([heading, "", *rows])


def print_plan(plan: Plan, form: str | None) -> int:
    """The plan as a table, or as `json` for programs."""
    if form == "json":
        import json

        print(json.dumps(plan.to_dict(), indent=2))
    else:
        from planner.table import plan_table

        print(plan_table(plan))
    return FINISHED


def print_submitted(plan: Plan, follow_up: str) -> int:
    """What was chosen, what a person should know about it, and what to type next."""
    from planner.table import plan_summary

    print(f"{plan_summary(plan)}\n\n{follow_up}")
    return FINISHED


def command_words(given: Mapping[str, str], run_id: str, names: Sequence[str] = ("OUTPUT", "SITE")) -> str:
    """What make needs to find the run again: `RUN=x`, with those of `names` that were given."""
    found = (shlex.quote(f"{name}={given[name]}") for name in names if name in given)
    return " ".join([f"RUN={run_id}", *found])


def follow_up(words: str, *, cancel: str) -> list[str]:
    """The commands after submit. `words` are what they take, `cancel` is the scheduler's own way."""
    return [
        f"status  make status {words}",
        f"follow  make logs {words}",
        f"cancel  make cancel {words}    (or {cancel})",
        f"resume  make resume {words}    (once it has ended unfinished)",
    ]


def fresh_suffix() -> str:
    """Of a new run's id: the day, and what no other run of the day has."""
    import secrets
    import time

    return f"{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"


def say(text: str) -> None:
    """One line beside the answer."""
    print(f"trainyard: {printable(hide_secrets(text))}", file=sys.stderr, flush=True)


def _complain(message: str, code: int) -> int:
    say(" ".join(message.split()))
    return code
