"""`python -m toy VERB [options]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launcher import command
from toy import submit
from toy.scheduler import SCHEDULER

VERBS: dict[str, command.Verb] = {
    **{name: getattr(submit, name) for name in ("plan", "render", "submit", "resume")},
    **command.verbs_after(SCHEDULER, Path.cwd()),
}

if __name__ == "__main__":
    sys.exit(command.main(command.Backend(name=SCHEDULER.name, verbs=VERBS), sys.argv[1:], os.environ))
