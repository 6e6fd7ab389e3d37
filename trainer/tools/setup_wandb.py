"""`python -m trainer setup-wandb [--test-run]`: whether runs will reach W&B, found out before one depends on it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.env_file import read_env_file
from trainer.flags import parse
from trainer.outcome import BAD_CONFIG, FINISHED
from trainer.tools.checks import Check, format_checks
from trainer.tracking.wandb_run import PROJECT

USAGE = """usage: python -m trainer setup-wandb [--test-run] [--json]

Asks whether a key is there (.env, the environment, or what `wandb login` left), whether the server takes it, and where
runs go (WANDB_ENTITY, WANDB_PROJECT, WANDB_BASE_URL). --test-run logs a small run and prints its address, or without a
key keeps it offline and prints the command that uploads it. Ends with 78 when something has to be put right."""
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
    asked = parse(argv, Request, USAGE)
    for name, value in read_env_file(Path(".env")).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("WANDB_SILENT", "true")
    project = os.environ.get("WANDB_PROJECT") or PROJECT
    checks = look(project)
    online = all(check.status == "pass" for check in checks)
    if asked.test_run and not any(check.status == "fail" for check in checks):
        checks.append(ask("test run", lambda: log_test_run(project, online=online)))
    if asked.json:
        print(json.dumps({"checks": [asdict(check) for check in checks]}, indent=1))
    else:
        print(format_checks(checks))
    return BAD_CONFIG if any(check.status == "fail" for check in checks) else FINISHED


def look(project: str) -> list[Check]:
    """Key, server and project, as far as one can come without the one before."""
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False)):
        do = "put WANDB_API_KEY= into .env (the key is on your W&B settings page)"
        return [Check(name="key", status="warn", found="not given: runs are kept offline", do=do)]
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    found: dict[str, Any] = {}

    def answer() -> str:
        found["entity"] = os.environ.get("WANDB_ENTITY") or wandb.Api(timeout=TIMEOUT_S).default_entity
        return f"{server} takes the key"

    asked = ask("server", answer)
    if asked.status == "fail":
        return [Check(name="key", status="pass", found="given"), asked]
    where = f"{found['entity']}/{project}, made by its first run where it is new"
    return [
        Check(name="key", status="pass", found="given"), asked, Check(name="project", status="pass", found=where)
    ]  # fmt: skip


def ask(name: str, question: Callable[[], str]) -> Check:
    """A pass, or a fail with the client's own words, the key left out of them."""
    try:
        return Check(name=name, status="pass", found=question())
    except Exception as error:  # whatever the client, its service or the network raise
        said = " ".join(str(error).split())[:200]
        if key := os.environ.get("WANDB_API_KEY"):
            said = said.replace(key, "(key)")
        return Check(
            name=name,
            status="fail",
            found=said,
            do="check WANDB_API_KEY and WANDB_BASE_URL; a run would be kept offline",
        )


def log_test_run(project: str, *, online: bool) -> str:
    """Log a few values with the real client; its address, or the command that uploads it."""
    import wandb

    folder = tempfile.mkdtemp(prefix="trainyard-wandb-")
    run = wandb.init(
        project=project, name="setup-test", dir=folder, mode="online" if online else "offline",
        settings=wandb.Settings(init_timeout=TIMEOUT_S, console="off", silent=True),
    )  # fmt: skip
    for step in range(TEST_STEPS):
        run.log({"test/value": step}, step=step)
    address, files = run.url, Path(run.dir).parent
    run.finish()
    return str(address) if online else f"kept offline; to upload: wandb sync {files}"
