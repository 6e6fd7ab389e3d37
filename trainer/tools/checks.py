"""Checks of this machine, its settings or a service, and the table of their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trainer.outcome import BAD_CONFIG, FINISHED, ConfigError, SickNode
from trainer.terminal import size
from trainer.text import format_table, printable, wrap


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    name: str
    status: Literal["pass", "warn", "fail", "skip"]
    found: str
    do: str = ""


Answer = str | tuple[str, str]
"""The finding; for a warning, (finding, remedy)."""


def ask(name: str, question: Callable[..., Answer], *about: Any) -> Check:
    """A pass with the answer of `question(*about)`, a warning if the answer has a remedy, a fail with the error it
    raises."""
    try:
        answer = question(*about)
    except (ConfigError, SickNode) as error:
        return Check(name=name, status="fail", found=error.words)
    found, do = (answer, "") if isinstance(answer, str) else answer
    return Check(name=name, status="warn" if do else "pass", found=found, do=do)


def conclude(checks: Sequence[Check], *, as_json: bool) -> int:
    """Print the checks; returns the exit code."""
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in checks]}, indent=1))
    else:
        print(format_checks(checks))
    return BAD_CONFIG if any(check.status == "fail" for check in checks) else FINISHED


def format_checks(checks: Sequence[Check]) -> str:
    lines = format_table([[check.name, check.status] for check in checks]).splitlines()
    found = zip(lines, checks, strict=True)
    terminal = size()
    if terminal and terminal[0] > 2 * len(lines[0]):  # broken at spaces, behind the columns before
        shown = [wrap(printable(check.found), width=terminal[0], prefix=f"{line}  ") for line, check in found]
    else:
        shown = [f"{line}  {printable(check.found)}" for line, check in found]
    advice = [printable(f"{check.name}: {check.do}") for check in checks if check.do]
    return "\n".join([*shown, *(["", *advice] if advice else [])])
