"""usage: python -m trainer setup-wandb [--test-run] [--json]

Whether runs will reach W&B, found out before one depends on it: is a key there (.env, the environment, or what
`wandb login` left), does the server take it, and where do runs go (WANDB_ENTITY, WANDB_PROJECT, WANDB_BASE_URL).
--test-run logs a small run and prints its address, or without a key keeps it offline and prints the command that
uploads it. Ends with 78 when something has to be put right.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.commands import command
from trainer.env_file import take_env_file
from trainer.flags import parse
from trainer.outcome import ConfigError
from trainer.tools.checks import Answer, ask, conclude
from trainer.tracking.wandb_run import prepare_client, words

TIMEOUT_S = 20
TEST_STEPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    test_run: bool = False
    """Log a small run, and print its address or how to upload it."""
    json: bool = False
    """One JSON object instead of a table."""


def main(argv: Sequence[str]) -> int:
    """Runs `python -m trainer setup-wandb`. Raises ConfigError for an unknown option."""
    asked = parse(argv, Request, __doc__)
    take_env_file()
    prepare_client()
    # Each check needs the one before.
    checks = [ask("key", key)]
    online = checks[0].status == "pass"
    if online:
        checks.append(ask("server", server))
    if asked.test_run and checks[-1].status != "fail":
        checks.append(ask("test run", log_test_run, online))
    return conclude(checks, as_json=asked.json)


@contextmanager
def client_errors() -> Iterator[None]:
    """Turns any error of the client, its service or the network into a ConfigError with its message, without
    the key."""
    try:
        yield
    except Exception as error:
        raise ConfigError(
            f"{words(error)}: check WANDB_API_KEY and WANDB_BASE_URL; a run would be kept offline"
        ) from None


def key() -> Answer:
    import wandb

    if os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False):
        return "given"
    return "not given: runs are kept offline", "put WANDB_API_KEY= into .env (the key is on your W&B settings page)"


@client_errors()
def server() -> str:
    import wandb

    entity = wandb.Api(timeout=TIMEOUT_S).default_entity
    where = f"{os.environ.get('WANDB_ENTITY') or entity}/{os.environ['WANDB_PROJECT']}"
    address = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    return f"{address} takes the key; runs go to {where}, made by the first where it is new"


@client_errors()
def log_test_run(online: bool) -> str:
    """Log a few values with the real client; returns the run's address, or the command that uploads it."""
    import wandb

    folder = tempfile.mkdtemp(prefix="trainyard-wandb-")
    run = wandb.init(name="setup-test", dir=folder, mode="online" if online else "offline")
    for step in range(TEST_STEPS):
        run.log({"test/value": step}, step=step)
    address, files = run.url, Path(run.dir).parent
    run.finish()
    return str(address) if online else f"kept offline; to upload: {command('wandb', 'sync', files)}"
