"""`python -m local VERB [options]`: the verbs of every scheduler, and those that only the local machine has."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher import command
from launcher.command import Verb
from local.scheduler import SCHEDULER

PROJECT_DIR = Path(__file__).resolve().parent.parent
OWN = {
    "run": Verb(help="plan, then train on this machine; submit is the same", act="launcher.starting:submit"),
    "docker-run": Verb(help="what run does, in the image, by docker or podman", act="local.machine.docker:run"),
    "hardware": Verb(
        help="the cards, cores and memory of this machine, and the plan for each", act="local.measure.hardware:show"
    ),
    "profile-memory": Verb(
        help="two real steps, measured stage by stage beside the prediction",
        act="local.measure.memory_profile:main",
        alone=True,
    ),
    "find-batch-size": Verb(
        help="the largest micro-batch that really fits, by trying; the plan takes it",
        act="local.measure.batch_size:main",
        alone=True,
    ),
}


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    return command.main(SCHEDULER, argv, environ, PROJECT_DIR, OWN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
