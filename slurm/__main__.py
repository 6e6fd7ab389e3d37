"""`python -m slurm VERB [options]`: the verbs of every scheduler, and two that only a Slurm cluster has."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher import command
from launcher.command import Verb
from slurm.scheduler import SCHEDULER

PROJECT_DIR = Path(__file__).resolve().parent.parent
OWN = {
    "check": Verb(help="ask the cluster whether it would take the job; queues nothing", act="slurm.submit:check"),
    "site": Verb(help="draft the site file from what the cluster says", act="slurm.cluster.draft:site"),
}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    return command.main(SCHEDULER, argv, environ, PROJECT_DIR, OWN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
