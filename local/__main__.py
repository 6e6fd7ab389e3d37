"""usage: python -m local VERB ...

  run             plan, then train on this machine, without a scheduler
  ready           check all that run would, and start nothing
  docker-run      what run does, in the image, by docker or podman
  sweep           several runs one after another: every combination of a grid, or W&B's trials
  sweep-ready     check all that sweep would, and start nothing
  profile-memory  two real steps, measured stage by stage beside the prediction
  find-batch-size the largest micro-batch that really fits, by trying; the plan takes it

python -m local VERB --help says what each takes.
Exit codes: 0 done, 78 the request is wrong (nothing was written), 75 a run that was stopped, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainer.verbs import dispatch

VERBS = {
    "run": "local.run:run", "ready": "local.run:ready", "docker-run": "local.docker:run",
    "sweep": "local.sweep:run", "sweep-ready": "local.sweep:ready",
    "profile-memory": "local.memory_profile:main", "find-batch-size": "local.batch_size:main",
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    return dispatch(str(__doc__), VERBS, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
