"""`python -m toy VERB [options]`: the verbs of every scheduler."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launcher import command
from toy.scheduler import SCHEDULER

if __name__ == "__main__":
    sys.exit(command.main(SCHEDULER, sys.argv[1:], os.environ, Path.cwd()))
