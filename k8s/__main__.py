"""`python -m k8s VERB [options]`: the verbs of every scheduler, and three that only Kubernetes has."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from k8s.scheduler import SCHEDULER
from launcher import command
from launcher.command import Verb

PROJECT_DIR = Path(__file__).resolve().parent.parent
OWN = {
    "claim": Verb(
        help="print the claim that runs live in, as a file of its own (--size 200Gi)", act="k8s.manifest.claim:claim"
    ),
    "check": Verb(help="ask the cluster whether it would take the job; queues nothing", act="k8s.target:check"),
    "site": Verb(help="draft the site file from what the cluster says", act="k8s.cluster.draft:site"),
}


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    return command.main(SCHEDULER, argv, environ, PROJECT_DIR, OWN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
