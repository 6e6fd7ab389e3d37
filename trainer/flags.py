"""A frozen dataclass as options: names, types, allowed values, ranges and help all come from its definition.

    max_steps: Annotated[int, Range(1, 10_000_000)] = 1500
    \"\"\"Optimizer steps.\"\"\"

reads `--max_steps 200` and `--max-steps=200`, refuses 0, and prints its own line of help.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from trainer.outcome import FINISHED, ConfigError
from trainer.text import nearest, shown, wrap

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Range:
    low: float
    high: float
    above: bool = False
    """The lowest value itself is not allowed."""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        return f"{'above' if self.above else 'from'} {_plain(self.low)} to {_plain(self.high)}"


def parse(argv: Sequence[str], cls: type[Options], usage: str, *, words: list[str] | None = None) -> Options:
    """The dataclass from `--name value`, `--name=value`, and `--name` alone for a boolean; or help, and the end.

    What stands alone goes to `words`, if there may be such.

    Raises:
        ConfigError: an unknown, repeated or lacking name, a missing value, a value that the field does not take.
        SystemExit: help was asked for, and printed.
    """
    answer_help(argv, usage, cls)
    given = split_flags(argv, cls=cls, alone=words)
    return build(cls, {name: convert(cls, name, text, shown_as=f"--{name}") for name, text in given.items()})


def answer_help(argv: Sequence[str], usage: str, cls: type | None = None) -> None:
    """Where help is asked for, print `usage` and the fields of `cls`, and end the program as done (SystemExit)."""
    if "-h" in argv or "--help" in argv:
        print(f"{usage}\n\n{help_table(cls)}" if cls else usage)
        raise SystemExit(FINISHED)


def split_flags(argv: Sequence[str], *, cls: type | None = None, alone: list[str] | None = None) -> dict[str, str]:
    """Text by name, with underscores, of the fields of `cls` if given; its booleans may stand without a value.

    Words without a name go to `alone`. Raises ConfigError.
    """
    given: dict[str, str] = {}
    words = list(argv)
    while words:
        if alone is not None and not words[0].startswith("--"):
            alone.append(words.pop(0))
            continue
        flag, equals, text = words.pop(0).partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or not name:
            raise ConfigError(f"unexpected {shown(flag)}: options are written --name value or --name=value")
        if cls is not None:
            check_name(name, cls, shown_as=f"--{name}")
        if name in given:
            raise ConfigError(f"--{name} was given twice")
        if not equals:
            said = bool(words) and (words[0] in ("true", "false") if alone is not None else words[0][:2] != "--")
            if cls is not None and _kind(cls, name)[0] is bool and not said:
                text = "true"
            elif not words:
                raise ConfigError(f"--{name} wants a value")
            else:
                text = words.pop(0)
        given[name] = text
    return given


def check_name(name: str, cls: type, *, shown_as: str = "", where: str = "", also: Sequence[str] = ()) -> str:
    """`name`, if it is a field of `cls`. Raises ConfigError with the nearest and all known ones, `also` included."""
    known = [*(field.name for field in dataclasses.fields(cls)), *also]
    if name in known:
        return name
    raise ConfigError(
        f"{where}unknown {shown(shown_as or name)}{nearest(name, known) or ':'} known are {', '.join(known)}"
    )


def build(cls: type[Options], values: dict[str, Any]) -> Options:
    """The dataclass. Raises ConfigError naming the fields without a default that are not in `values`."""
    lacking = [
        f"--{field.name}"
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if lacking:
        raise ConfigError(f"lacking {', '.join(lacking)}")
    return cls(**values)


NO_TEXT = {type(None): "nothing", list: "a list", dict: "a mapping"}  # what YAML makes of what is no plain value


def convert(cls: type, name: str, value: object, *, shown_as: str) -> Any:
    """`value`, text or a plain YAML value, as field `name` takes it. Raises ConfigError, calling it `shown_as`."""
    kind, span = _kind(cls, name)
    text = _text(value)
    try:
        if text is None or not (text.strip() and text.isprintable()):
            raise ValueError
        result = _parse(kind, text)
        if span is not None and result not in span:
            raise ValueError
    except (ValueError, KeyError):
        given = shown(text) if text is not None else NO_TEXT.get(type(value), type(value).__name__)
        raise ConfigError(f"{shown_as} takes {allowed(cls, name)}, got {given}") from None
    return result


def allowed(cls: type, name: str) -> str:
    """What the field takes, in words."""
    kind, span = _kind(cls, name)
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    words = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text on one line")
    return f"{words} {span}" if span is not None else words


def field_help(cls: type) -> dict[str, str]:
    """The docstring below each field, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found, name = {}, ""
    for statement in body.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and name:
            found[name] = " ".join(str(statement.value.value).split())
    return found


def help_table(cls: type, *, width: int = 110) -> str:
    """One paragraph a field: its flag, what it takes, its default, what it means."""
    said, lines = field_help(cls), []
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else word(field.default)
        lines.append(f"  --{field.name}  {allowed(cls, field.name)} ({default})")
        lines.append(wrap(said.get(field.name, ""), width=width, prefix=" " * 6))
    return "\n".join(line for line in lines if line.strip())


def word(value: object) -> str:
    """A field's value as one types it; repr of a float reads back as the same float."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _kind(cls: type, name: str) -> tuple[Any, Range | None]:
    """(type, range) of a field; `X | None` is read as X: leave the option out for None."""
    hint = get_type_hints(cls, include_extras=True)[name]
    span = None
    if get_origin(hint) is Annotated:
        hint, span = get_args(hint)[:2]
    options = get_args(hint)
    if type(None) in options:
        hint = next(option for option in options if option is not type(None))
    return hint, span


def _parse(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return get_args(kind)[get_args(kind).index(text)]
    if kind is bool:
        return {"true": True, "false": False}[text]
    if kind is int and not re.fullmatch(r"[0-9]{1,18}", text):
        # int() also takes underscores, spaces and other scripts' digits.
        raise ValueError
    if kind is float and not (re.fullmatch(r"[0-9.]+([eE][-+]?[0-9]+)?", text) and math.isfinite(float(text))):
        raise ValueError
    return kind(text)


def _text(value: object) -> str | None:
    return word(value) if isinstance(value, (str, int, float)) else None


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"
