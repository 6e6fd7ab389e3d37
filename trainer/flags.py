"""A frozen dataclass as command-line options: names, types, allowed values, ranges and help come from its definition.

    max_steps: Annotated[int, Range(1, 10_000_000)] = 1500
    \"\"\"Optimizer steps.\"\"\"

reads `--max_steps 200` and `--max-steps=200`, refuses 0, and prints its own line of help.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from trainer.outcome import FINISHED, ConfigError, unknown
from trainer.text import shown, wrap

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


class Range(NamedTuple):
    """A range of numbers; both ends are allowed."""

    low: float
    high: float


class Form(NamedTuple):
    """The only form that a text may have."""

    allowed: str
    """The form in words."""
    pattern: str


class Text(str):
    """Any text, also empty or of several lines."""


# Each type's allowed text, in words and as a pattern. int() alone would accept underscores, spaces and other scripts'
# digits.
TEXTS: dict[type, tuple[str, str]] = {
    int: ("a whole number", "[0-9]{1,18}"),
    float: ("a number", r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"),
    bool: ("true or false", "(?i:true|yes|on|false|no|off)"),
    str: ("text on one line", r".*\S.*"),
    Text: ("text", r"(?s:.*)"),
}


EXAMPLES = {"model": "google/gemma-3-4b-it", "data": "records.jsonl", "run": "runs/my-run"}
"""What an error says as an example of a value that is left out."""


class Option(NamedTuple):
    """The values that a field accepts."""

    kind: type
    pattern: str
    """The pattern that the whole text must match."""
    allowed: str
    """The allowed values in words."""
    span: Range | None
    default: Any
    """MISSING for a field that must be given."""
    marks: tuple[Any, ...] = ()
    """The other annotations of its Annotated type."""

    def read(self, text: str) -> Any:
        """The value that `text` stands for; None when the field does not accept it."""
        if (text.isprintable() or self.kind is Text) and re.fullmatch(self.pattern, text):
            value = text.lower() in ("true", "yes", "on") if self.kind is bool else self.kind(text)
            if not self.span or self.span.low <= value <= self.span.high:
                return value
        return None


def option_of(hint: Any, default: Any = MISSING) -> Option:
    """The values that a field of this type accepts. `X | None` is read as X: leave the option out for None."""
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    span = next((mark for mark in marks if isinstance(mark, Range)), None)
    if type(None) in get_args(kind):
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        kind, allowed, pattern = str, " or ".join(get_args(kind)), "|".join(get_args(kind))
    else:
        allowed, pattern = TEXTS[kind]
    for form in (mark for mark in marks if isinstance(mark, Form)):
        allowed, pattern = form
    if span:
        allowed += f" from {span.low:.12g} to {span.high:.12g}"
    return Option(kind=kind, pattern=pattern, allowed=allowed, span=span, default=default, marks=tuple(marks))


@cache
def options(cls: type) -> dict[str, Option]:
    """The options of a dataclass by the names of its fields."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: option_of(hints[field.name], field.default) for field in fields(cls)}


def parse(argv: Sequence[str], cls: type[Options], usage: str, *, words: list[str] | None = None) -> Options:
    """The dataclass from `--name value`, `--name=value`, and `--name` alone for a boolean; for --help, prints help
    and ends. Words without a name are added to `words`, when it is given.

    Raises:
        ConfigError: an unknown, repeated or lacking name, a missing value, a value that the field does not accept.
        SystemExit: help was asked for, and printed.
    """
    answer_help(argv, usage, cls)
    booleans = [name for name, option in options(cls).items() if option.kind is bool]
    given = split_flags(argv, booleans, words)
    return build(cls, {name: convert(cls, name, text, shown_as=f"--{name}") for name, text in given.items()})


def answer_help(argv: Sequence[str], usage: str, cls: type | None = None) -> None:
    """If `argv` asks for help, print `usage` and the fields of `cls`, and end the program as done (SystemExit)."""
    if "-h" in argv or "--help" in argv:
        print(usage.rstrip() + (f"\n\n{help_table(cls)}" if cls else ""))
        raise SystemExit(FINISHED)


def split_flags(argv: Sequence[str], booleans: Collection[str], alone: list[str] | None = None) -> dict[str, str]:
    """Text by name, with underscores. Names in `booleans` may stand alone, meaning true; other words go to `alone`. A
    last name without a value gets an empty text, which no field accepts. Raises ConfigError."""
    given: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if alone is not None and not flag.startswith("--"):
            alone.append(word)
            continue
        if not flag.startswith("--") or not name:
            allowed = "options are written --name value or --name=value"
            raise ConfigError(f"unexpected {shown(flag)}", name=flag, allowed=allowed)
        if name in given:
            raise ConfigError(f"--{name} was given twice", name=f"--{name}")
        if not equals:
            is_alone = name in booleans and words[:1] not in (["true"], ["false"])
            text = "true" if is_alone else words.pop(0) if words else ""
        given[name] = text
    return given


def build(cls: type[Options], values: dict[str, Any]) -> Options:
    """The dataclass with these values. Raises ConfigError naming the fields that have no default and are not in
    `values`."""
    lacking = [name for name, field in options(cls).items() if field.default is MISSING and name not in values]
    if lacking:
        from trainer.commands import option_as_typed, option_with_value  # imported late: needed only for error messages

        examples = [option_with_value(name, EXAMPLES[name]) for name in lacking if name in EXAMPLES]
        said = f": for example {' '.join(examples)}" if examples else ""
        raise ConfigError(f"lacking {', '.join(map(option_as_typed, lacking))}{said}", name=f"--{lacking[0]}")
    return cls(**values)


def convert(cls: type, name: str, value: object, *, shown_as: str) -> Any:
    """`value`, text or a plain YAML value, converted for the field `name`, which messages call `shown_as`.

    Raises:
        ConfigError: the field does not accept the value, or there is no such field.
    """
    if name not in options(cls):
        raise unknown(shown_as, tuple(options(cls)), meant=name)
    field = options(cls)[name]
    result = field.read(word(value)) if isinstance(value, (str, int, float)) else None
    if result is None:
        raise ConfigError(name=shown_as, given=word(value), allowed=f"takes {field.allowed}")
    return result


def field_help(cls: type) -> dict[str, str]:
    """The docstring below each field, on one line."""
    lines = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(lines, ast.ClassDef)
    found = {}
    for line, below in itertools.pairwise(lines.body):
        if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(line.target)] = " ".join(str(below.value.value).split())
    return found


def help_table(cls: type) -> str:
    """One paragraph a field: its flag, its allowed values, its default, its meaning."""
    said, lines = field_help(cls), []
    for name, option in options(cls).items():
        default = "required" if option.default is MISSING else word(option.default)
        lines += [f"  --{name}  {option.allowed} ({default})", wrap(said[name], width=110, prefix=" " * 6)]
    return "\n".join(lines)


def word(value: object) -> str:
    """A field's value as a user types it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
