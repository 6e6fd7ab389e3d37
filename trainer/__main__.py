"""`python -m trainer VERB ...`: one table of verbs. Each is a function that takes its own words, `--help` among them.

Exit codes: 0 done, 78 the request is wrong (nothing was written), 75 a run that was stopped, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name

from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, ConfigError
from trainer.text import nearest

# verb: (module:function, what it does). Imported when it is typed: some bring torch, none brings all.
VERBS: dict[str, tuple[str, str]] = {
    "run": ("accelerate_configs.local.run:run", "plan, then train on this machine, without a scheduler"),
    "ready": ("accelerate_configs.local.run:ready", "check all that run would, and start nothing"),
    "docker-run": ("accelerate_configs.local.docker:run", "what run does, in the image, by docker or podman"),
    "sweep": ("accelerate_configs.sweeps.local:run", "every combination of a grid, one after another, or W&B's trials"),
    "sweep-ready": ("accelerate_configs.sweeps.local:ready", "check all that sweep would, and start nothing"),
    "config": ("trainer.settings:main", "every setting of a run, documented, with its value and who says so"),
    "validate": ("trainer.tools.validate:main", "look at the data, the model and the machine before a run does"),
    "layers": ("trainer.tools.layers:main", "a model's linear layers, and what each choice of LoRA would train"),
    "profile-memory": ("accelerate_configs.measure.memory_profile:main", "two real steps, beside what was predicted"),
    "find-batch-size": ("accelerate_configs.measure.batch_size:main", "the largest micro-batch that fits, by trying"),
    "setup-wandb": ("trainer.tools.setup_wandb:main", "whether runs will reach W&B; --test-run logs a small one"),
    "infer": ("trainer.tools.infer:main", "ask a trained model: pictures in, JSON out"),
    "merge": ("trainer.tools.merge:main", "a run's adapter into 16-bit weights, measured to answer as well as before"),
    "report": ("trainer.results.export:report", "build a run's report.html again"),
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    return exit_code(act, argv)


def act(argv: list[str]) -> int:
    verb, *rest = argv or [""]
    if verb in ("", "-h", "--help"):
        print(usage())
        return FINISHED if verb else BAD_CONFIG
    if verb not in VERBS:
        raise ConfigError(f"unknown verb {verb!r}{nearest(verb, tuple(VERBS)) or ':'} known are {', '.join(VERBS)}")
    return int(resolve_name(VERBS[verb][0])(rest))


def exit_code(act: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """What `act` returns; where it raises what a user can act on, one line and the code that goes with it."""
    try:
        return act(list(argv))
    except (ConfigError, OSError) as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return BAD_CONFIG if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        print("trainyard: interrupted", file=sys.stderr)
        return FAILED


def usage() -> str:
    lines = [f"  {verb:<16}{about}" for verb, (_, about) in VERBS.items()]
    last = "python -m trainer VERB --help says what each takes."
    return "\n".join(["usage: python -m trainer VERB ...", "", *lines, "", last])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
