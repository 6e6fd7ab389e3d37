"""`python -m k8s VERB [options]`: plan explains, render prints the manifest, submit applies it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from k8s.scheduler import SCHEDULER
from launcher import cli, command
from trainer.outcome import FINISHED

PROJECT_DIR = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    return command.main(BACKEND, argv, environ)


def plan(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from k8s.request import decide

    if "GRID" in given:
        return _acts("sweep", "plan")(given, environ)
    return cli.print_plan(decide(given, environ, PROJECT_DIR).plan, given.get("FORMAT"))


def render(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from k8s.request import decide

    if "GRID" in given:
        return _acts("sweep", "render")(given, environ)
    decided = decide(given, environ, PROJECT_DIR)
    text = decided.render()
    for note in decided.notes:
        cli.say(note)
    print(text, end="")
    return FINISHED


def claim(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from k8s.request import claim_text

    print(claim_text(given, environ, PROJECT_DIR), end="")
    return FINISHED


def _acts(module: str, name: str) -> command.Verb:
    """A verb of another module, imported when it is used."""

    def verb(given: dict[str, str], environ: Mapping[str, str]) -> int:
        act = getattr(importlib.import_module(f"k8s.{module}"), name)
        return int(act(given, environ, PROJECT_DIR))

    return verb


VERBS: dict[str, command.Verb] = {
    "plan": plan,
    "render": render,
    "claim": claim,
    **{name: _acts("submit", name) for name in ("submit", "check", "ready")},
    "sweep": _acts("sweep", "sweep"),
    "sweep-ready": _acts("sweep", "ready"),
    "site": _acts("draft", "site"),
    "resume": _acts("resume", "resume"),
    **command.verbs_after(SCHEDULER, PROJECT_DIR),
}
BACKEND = command.Backend(name="k8s", verbs=VERBS)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
