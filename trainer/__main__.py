"""`python -m trainer VERB ...`: one table of verbs. Each is a function that takes its own words, `--help` among them.

Exit codes: 0 done, 78 the request is wrong (nothing was written), 75 a run that was stopped, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, ConfigError
from trainer.values import nearest

# verb: (module, function, what it does). Imported when it is typed: some bring torch, none brings all.
VERBS: dict[str, tuple[str, str, str]] = {
    "run": ("local", "run", "plan, then train on this machine, without a scheduler"),
    "ready": ("local", "ready", "check all that run would, and start nothing"),
    "docker-run": ("docker_run", "run", "what run does, in the image, by docker or podman"),
    "sweep": ("sweep_local", "run", "several runs one after another: every combination of a grid, or W&B's trials"),
    "sweep-ready": ("sweep_local", "ready", "check all that sweep would, and start nothing"),
    "demo": ("demo.walkthrough", "main", "a whole run on made-up game frames: CPU only, no network, two minutes"),
    "config": ("settings", "main", "every setting of a run, documented, with its value and who says so"),
    "validate": ("validate", "main", "look at the data, the model and the machine before a run does"),
    "layers": ("layers", "main", "a model's linear layers, and what each choice of LoRA would train"),
    "profile-memory": ("memory_profile", "main", "two real steps, measured stage by stage beside the prediction"),
    "find-batch-size": ("batch_size", "main", "the largest micro-batch that really fits, by trying; the plan takes it"),
    "setup-wandb": ("setup_wandb", "main", "whether runs will reach W&B; --test-run logs a small one"),
    "infer": ("infer", "main", "ask a trained model: pictures in, JSON out"),
    "merge": ("merge", "main", "put a run's adapter into 16-bit weights, and measure that it still answers as well"),
    "report": ("export", "report", "build a run's report.html again"),
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    verb = argv[0] if argv else ""
    try:
        if verb in ("", "-h", "--help"):
            print(usage())
            return FINISHED if verb else BAD_CONFIG
        if verb not in VERBS:
            known = ", ".join(VERBS)
            raise ConfigError(f"unknown verb {verb!r}{nearest(verb, tuple(VERBS)) or ':'} known are {known}")
        module, function, _ = VERBS[verb]
        return int(getattr(import_module(f"trainer.{module}"), function)(list(argv[1:])))
    except ConfigError as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return BAD_CONFIG
    except OSError as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("trainyard: interrupted", file=sys.stderr)
        return FAILED


def usage() -> str:
    lines = [f"  {verb:<16}{about}" for verb, (_, _, about) in VERBS.items()]
    return "\n".join(
        [
            "usage: python -m trainer VERB ...",
            "",
            *lines,
            "",
            "python -m trainer VERB --help says what each takes.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
