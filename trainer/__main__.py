"""`python -m trainer VERB`: run a job on this machine, see the demo, or build a run's report again.

Exit codes: 0 done, 78 the request is wrong (nothing was written), 1 anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, ConfigError

PROJECT_DIR = Path(__file__).resolve().parent.parent
USAGE = """usage: python -m trainer VERB ...

  run     plan, then train here, without a scheduler: python -m trainer run --gpus 1 --data data
  demo    a whole run on made-up game frames, on the CPU, without network
  report  build a run's report.html again: python -m trainer report runs/RUN
  config  print what a run would be told and by whom: python -m trainer config --help
  layers  list a model's linear layers and what LoRA trains: python -m trainer layers --model M
  validate data | environment | model | pipeline | all   ask before a run: python -m trainer validate --help
  profile-memory  two real steps, measured stage by stage beside the prediction
  setup-wandb     whether runs will reach W&B; --test-run logs a small one

The options of run are the variables of make: """


def main(argv: Sequence[str]) -> int:
    verb = argv[0] if argv else ""
    try:
        if verb in OWN_HELP:
            return VERBS[verb](argv[1:])
        if verb in ("", "-h", "--help") or any(word in ("-h", "--help") for word in argv):
            from trainer.request import help_text

            print(help_text(USAGE.rstrip()), end="")
            return FINISHED if verb else BAD_CONFIG
        if verb not in VERBS:
            raise ConfigError(f"unknown verb {verb!r}: known are {', '.join(VERBS)}")
        return VERBS[verb](argv[1:])
    except ConfigError as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return BAD_CONFIG
    except OSError as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("trainyard: interrupted", file=sys.stderr)
        return FAILED


def run(argv: Sequence[str]) -> int:
    from trainer import local

    return local.run(argv)


def ready(argv: Sequence[str]) -> int:
    from trainer import local

    return local.ready(argv)


def demo(argv: Sequence[str]) -> int:
    if argv:
        raise ConfigError(f"demo takes no options, got {argv[0]!r}: `python -m trainer run` takes them all")
    from trainer.demo.walkthrough import walk

    return walk(PROJECT_DIR)


def report(argv: Sequence[str]) -> int:
    if len(argv) != 1 or not Path(argv[0], "metrics.json").is_file():
        raise ConfigError(
            "report takes the folder of a finished run (with metrics.json), for example runs/RUN"
        )
    from trainer.export import REPORT_FILE, save_report

    save_report(Path(argv[0]))
    print(Path(argv[0]) / REPORT_FILE)
    return FINISHED


def validate(argv: Sequence[str]) -> int:
    from trainer.validate import main as check

    return check(argv)


def config(argv: Sequence[str]) -> int:
    from trainer.env_file import read_env_file
    from trainer.settings import main as show

    return show(argv, os.environ, read_env_file(Path(".env")))


def layers(argv: Sequence[str]) -> int:
    from trainer.layers import main as show

    return show(argv)


def profile_memory(argv: Sequence[str]) -> int:
    from trainer.memory_profile import main as profile

    return profile(argv)


def setup_wandb(argv: Sequence[str]) -> int:
    from trainer.setup_wandb import main as setup

    return setup(argv)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run, "ready": ready, "demo": demo, "report": report, "config": config, "layers": layers,
    "validate": validate, "profile-memory": profile_memory, "setup-wandb": setup_wandb,
}  # fmt: skip
OWN_HELP = ("config", "layers", "validate", "profile-memory", "setup-wandb")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
