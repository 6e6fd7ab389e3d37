"""usage: python -m local VERB ...

  run             plan, then train on this machine, without a scheduler
  submit          the same
  ready           check all that run would, and start nothing
  plan            explain what run would do
  render          print the command that run would start
  docker-run      what run does, in the image, by docker or podman
  sweep           several runs one after another: every combination of a grid, or W&B's trials
  sweep-ready     check all that sweep would, and start nothing
  profile-memory  two real steps, measured stage by stage beside the prediction
  find-batch-size the largest micro-batch that really fits, by trying; the plan takes it
  status          where a run of this machine is and what to type next (--run; left out: the newest)
  logs            print a run's log and follow it until its process has ended
  list            all runs
  cancel          send a run the signal to stop: it saves a checkpoint and ends
  resume          go on with a run that was stopped, from the request in its run.json

python -m local VERB --help says what each takes.
Exit codes: 0 done, 78 the request is wrong (nothing was written), 75 a run that was stopped, 1 anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher import command
from local.scheduler import SCHEDULER
from trainer.verbs import dispatch

PROJECT_DIR = Path(__file__).resolve().parent.parent

VERBS = {
    "run": "local.run:run", "submit": "local.run:run", "ready": "local.run:ready",
    "plan": "local.run:plan", "render": "local.run:render", "docker-run": "local.docker:run",
    "sweep": "local.sweep:run", "sweep-ready": "local.sweep:ready",
    "profile-memory": "local.memory_profile:main", "find-batch-size": "local.batch_size:main",
}  # fmt: skip


def resume(given: dict[str, str], environ: Mapping[str, str]) -> int:
    from local.run import resume

    return resume(given, environ)


AFTER = {**command.verbs_after(SCHEDULER, PROJECT_DIR), "resume": resume}
BACKEND = command.Backend(name="local", verbs=AFTER)


def main(argv: Sequence[str]) -> int:
    if argv and argv[0] in AFTER:
        return command.main(BACKEND, argv, os.environ)
    return dispatch(str(__doc__), {**VERBS, **dict.fromkeys(AFTER, "")}, argv)  # all are known, these come above


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
