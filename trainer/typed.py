"""Whether values that were read from a file have the types of the fields that they are put into. Python itself does not
check; a text where a number belongs would be copied into whatever is written from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MOST = 2**31 - 1
"""No count and no number of a token is larger."""


def wrong_field(made: Any, names: Mapping[str, object] = {}) -> str:
    """The first field of a dataclass, or of one inside it, whose value is of another type, or is a negative or too
    large number; "" if there is none. `names` are those that its annotations use and its module does not have."""
    hints = get_type_hints(type(made), localns=dict(names))
    for field in fields(made):
        value = getattr(made, field.name)
        if is_dataclass(value) and (inner := wrong_field(value, names)):
            return f"{field.name}.{inner}"
        if not _fits(value, hints[field.name]):
            return field.name
    return ""


def _fits(value: Any, hint: Any) -> bool:
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if kind is Literal:
        return isinstance(value, str) and value in args
    if kind is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(part, args[0]) for part in value)
    if is_dataclass(hint):
        return type(value) is hint
    return type(value) is hint and (hint is not int or 0 <= value <= MOST)
