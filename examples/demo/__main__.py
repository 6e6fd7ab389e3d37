from __future__ import annotations

import sys

from examples.demo.walkthrough import main
from trainer.verbs import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
