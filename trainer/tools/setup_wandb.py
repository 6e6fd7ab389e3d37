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
from functools import cache
from pathlib import Path

from trainer.env_file import read_env_file
from trainer.flags import parse
from trainer.outcome import ConfigError
from trainer.tools.checks import Check, ask, conclude
from trainer.tracking.wandb_run import PROJECT

TIMEOUT_S = 20
TEST_STEPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    test_run: bool = False
    """Log a small run, and print its address or how to upload it."""
    json: bool = False
    """One JSON object instead of a table."""


def main(argv: Sequence[str]) -> int:
    """Raises ConfigError for an unknown option."""
    asked = parse(argv, Request, __doc__)
    for name, value in read_env_file(Path(".env")).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("WANDB_SILENT", "true")
    return conclude(list(look(asked.test_run)), as_json=asked.json)


def look(test_run: bool) -> Iterator[Check]:
    """Key, server, project and test run, as far as one can come without the one before."""
    asked = ask("key", key)
    yield asked
    if online := asked.status == "pass":
        asked = ask("server", server)
        yield asked
    if asked.status == "pass":
        yield ask("project", project)
    if test_run and asked.status != "fail":
        yield ask("test run", log_test_run, online)


def key() -> tuple[str, str]:
    import wandb

    if os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False):
        return "given", ""
    return "not given: runs are kept offline", "put WANDB_API_KEY= into .env (the key is on your W&B settings page)"


def server() -> tuple[str, str]:
    entity()
    return f"{os.environ.get('WANDB_BASE_URL', 'https://api.wandb.ai')} takes the key", ""


def project() -> tuple[str, str]:
    return f"{entity()}/{project_name()}, made by its first run where it is new", ""


@cache
def entity() -> str:
    import wandb

    with client_errors():
        return str(os.environ.get("WANDB_ENTITY") or wandb.Api(timeout=TIMEOUT_S).default_entity)


def project_name() -> str:
    return os.environ.get("WANDB_PROJECT") or PROJECT


def log_test_run(online: bool) -> tuple[str, str]:
    """Log a few values with the real client; its address, or the command that uploads it."""
    import wandb

    folder = tempfile.mkdtemp(prefix="trainyard-wandb-")
    with client_errors():
        run = wandb.init(
            project=project_name(), name="setup-test", dir=folder, mode="online" if online else "offline",
            settings=wandb.Settings(init_timeout=TIMEOUT_S, console="off", silent=True),
        )  # fmt: skip
        for step in range(TEST_STEPS):
            run.log({"test/value": step}, step=step)
        address, files = run.url, Path(run.dir).parent
        run.finish()
    return str(address) if online else f"kept offline; to upload: wandb sync {files}", ""


@contextmanager
def client_errors() -> Iterator[None]:
    """Whatever the client, its service or the network raise, as a ConfigError in their own words, without the key."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:200].replace(os.environ.get("WANDB_API_KEY") or "\n", "(key)")
        raise ConfigError(f"{said}: check WANDB_API_KEY and WANDB_BASE_URL; a run would be kept offline") from None
