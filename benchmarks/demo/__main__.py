from __future__ import annotations

import sys

from benchmarks.demo.walkthrough import main
from trainer.__main__ import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
