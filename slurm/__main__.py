"""`python -m slurm VERB [options]`: plan explains, render prints the script, submit submits it.

Exit codes: 0 done, 78 the request is wrong (nothing was written), 1 anything else. stdout carries the answer
and nothing else; errors are one line on stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slurm.queue import SlurmError
from slurm.site import find_site
from trainer.job import Plan
from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, ConfigError
from trainer.request import help_text, read_given, resolve
from trainer.values import nearest

PROJECT_DIR = Path(__file__).resolve().parent.parent
USAGE = """usage: python -m slurm VERB [--gpus 2 | --gpus=2 ...], or make VERB GPUS=2 ...

  plan    explain which configuration fits and why
  render  print the sbatch script
  submit  plan, render and submit
  check   ask Slurm whether it could run the job; queues nothing
  site    draft slurm/site.yaml from what the cluster says
  ready   check all that submit would and print the device whose environment it needs

  status  where a run is and what to type next (--run; left out: the newest)
  logs    print a run's log and follow it until its job has ended
  cancel  cancel a run's job
  resume  submit an ended run again, into the same folder
  list    all runs"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a script's bytes whatever the locale
    try:
        code = _run(argv, environ)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        return _complain(str(error), BAD_CONFIG)
    except SlurmError as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:
        # `... | head` has read enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", FAILED)


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    if any(word in ("-h", "--help") for word in argv):
        print(help_text(USAGE), end="")
        return FINISHED
    verb = argv[0] if argv else ""
    if verb not in VERBS:
        near = nearest(verb, tuple(VERBS)) or ":"
        raise ConfigError(f"unknown verb {verb!r}{near} known are {', '.join(VERBS)}")
    given = read_given(argv[1:], environ)
    if "FORMAT" in given and verb != "plan":
        raise ConfigError(f"FORMAT={given['FORMAT']}: only plan has formats, leave it out for {verb}")
    return VERBS[verb](given, environ)


def _plan(given: dict[str, str], environ: Mapping[str, str], *, run_suffix: str | None = None) -> Plan:
    from accelerate_configs.choose import choose

    site = find_site(given, PROJECT_DIR, environ)
    return choose(resolve(given, project_dir=PROJECT_DIR, environ=environ, run_suffix=run_suffix, site=site))


def plan(given: dict[str, str], environ: Mapping[str, str]) -> int:
    decided = _plan(given, environ)
    if given.get("FORMAT") == "json":
        import json

        print(json.dumps(decided.to_dict(), indent=2))
    else:
        from accelerate_configs.table import plan_table

        print(plan_table(decided))
    return FINISHED


def render(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from slurm.script import render

    print(render(_plan(given, environ)), end="")
    return FINISHED


def _checked_plan(given: dict[str, str], environ: Mapping[str, str]) -> Plan:
    """The plan of a new run, after everything that can be refused before it is queued."""
    from slurm.nodes import refuse_what_cannot_run
    from slurm.submit import check
    from trainer.planned import check_planned

    decided = _plan(given, environ, run_suffix=_fresh_suffix())
    check(decided, environ)
    check_planned(decided)
    refuse_what_cannot_run(decided.spec, environ)
    return decided


def ready(given: dict[str, str], environ: Mapping[str, str]) -> int:
    print(_checked_plan(given, environ).spec.device)
    return FINISHED


def check(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from slurm.nodes import read_nodes, refuse_impossible
    from slurm.submit import check, check_environment, rehearse
    from trainer.planned import check_planned

    decided = _plan(given, environ, run_suffix=_fresh_suffix())
    check(decided, environ)
    check_planned(decided)
    refuse_impossible(decided.spec, read_nodes(environ))
    print(f"sbatch  {rehearse(decided, environ)}")
    try:
        check_environment(decided.spec)
    except ConfigError as error:
        print(f"note    {error}, or let make submit do it")
    return FINISHED


def site(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from slurm.draft import ask

    if given:
        raise ConfigError(f"{next(iter(given))}: site takes no variables: make site > slurm/site.yaml")
    print(ask(environ), end="")
    return FINISHED


def submit(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from accelerate_configs.table import plan_table
    from slurm.submit import follow_up, submit

    decided = _checked_plan(given, environ)
    submitted = submit(decided, environ)
    summary = plan_table(decided).split("\n\n", 1)[0]
    notes = [f"note   {note}" for note in decided.notes]
    print("\n".join([summary, *notes, "", follow_up(submitted)]))
    return FINISHED


def _after(name: str) -> Callable[[dict[str, str], Mapping[str, str]], int]:
    """A verb of slurm.verbs, imported when it is used: plan and render answer sooner without it."""

    def verb(given: dict[str, str], environ: Mapping[str, str]) -> int:
        act = getattr(importlib.import_module("slurm.verbs"), name)
        return int(act(given, environ, PROJECT_DIR))

    return verb


def _fresh_suffix() -> str:
    import secrets
    import time

    return f"{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"


def _complain(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"trainyard: {line}", file=sys.stderr)
    return code


VERBS: dict[str, Callable[[dict[str, str], Mapping[str, str]], int]] = {
    "plan": plan,
    "render": render,
    "check": check,
    "submit": submit,
    "site": site,
    "ready": ready,
    "status": _after("status"),
    "logs": _after("logs"),
    "cancel": _after("cancel"),
    "resume": _after("resume"),
    "list": _after("list_runs"),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
