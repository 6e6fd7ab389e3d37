"""usage: python -m trainer VERB ...

  run             plan, then train on this machine, without a scheduler
  ready           check all that run would, and start nothing
  docker-run      what run does, in the image, by docker or podman
  sweep           several runs one after another: every combination of a grid, or W&B's trials
  sweep-ready     check all that sweep would, and start nothing
  config          every setting of a run, documented, with its value and who says so
  validate        look at the data, the model and the machine before a run does
  layers          a model's linear layers, and what each choice of LoRA would train
  profile-memory  two real steps, measured stage by stage beside the prediction
  find-batch-size the largest micro-batch that really fits, by trying; the plan takes it
  setup-wandb     whether runs will reach W&B; --test-run logs a small one
  infer           ask a trained model: pictures in, JSON out
  merge           put a run's adapter into 16-bit weights, and measure that it still answers as well
  report          build a run's report.html again

python -m trainer VERB --help says what each takes.
Exit codes: 0 done, 78 the request is wrong (nothing was written), 75 a run that was stopped, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name

from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, ConfigError, SickNode
from trainer.text import known_are, printable

# Each is a function that takes its own words. Imported when it is typed: some bring torch, none brings all.
VERBS: dict[str, str] = {
    "run": "accelerate_configs.local.run:run", "ready": "accelerate_configs.local.run:ready",
    "docker-run": "accelerate_configs.local.docker:run",
    "sweep": "accelerate_configs.sweeps.local:run", "sweep-ready": "accelerate_configs.sweeps.local:ready",
    "config": "trainer.settings:main", "validate": "trainer.tools.validate:main", "layers": "trainer.tools.layers:main",
    "profile-memory": "accelerate_configs.measure.memory_profile:main",
    "find-batch-size": "accelerate_configs.measure.batch_size:main",
    "setup-wandb": "trainer.tools.setup_wandb:main",
    "infer": "trainer.tools.infer:main", "merge": "trainer.tools.merge:main", "report": "trainer.report.page:main",
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    return exit_code(act, argv)


def act(argv: list[str]) -> int:
    verb, *rest = argv or [""]
    if verb in ("", "-h", "--help"):
        print(f"{__doc__}".strip())
        return FINISHED if verb else BAD_CONFIG
    if verb not in VERBS:
        raise ConfigError(f"unknown verb {verb!r}{known_are(verb, VERBS)}")
    return int(resolve_name(VERBS[verb])(rest))


def exit_code(act: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """What `act` returns; where it raises what a user can act on, one line and the code that goes with it."""
    try:
        return act(list(argv))
    except (ConfigError, SickNode, OSError, KeyboardInterrupt) as error:
        print(f"trainyard: {printable(str(error)) or 'interrupted'}", file=sys.stderr)
        return BAD_CONFIG if isinstance(error, ConfigError) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
