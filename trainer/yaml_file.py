"""The only code that reads YAML: settings files, site files and sweeps are read in the same way.

A key whose value is null counts as not given. A key that is given twice, a tag and an empty entry of a list are
refused, each with its line and all in one message: YAML would silently drop or change a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from trainer.files import MOST_CHARACTERS, MOST_DEPTH, once, read_typed
from trainer.outcome import ConfigError
from trainer.text import shown

# Trainyard's own files have a hundredth of it.
MOST_VALUES = 5_000
TAG = "tag:yaml.org,2002:"
# The plain values that are no text. YAML 1.1 would also turn no into false, 010 into 8, 12:30 into 750 and a folder
# called 2024-01-01 into a date. No setting takes a number of more than 18 digits: a longer one stays text.
PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]{0,17})",
    "float": r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)",
    "merge": "<<",
}
TYPES: dict[str, Callable[[str], object]] = {"bool": lambda text: text.lower() == "true", "int": int, "float": float}
Check = Callable[[str], None]


class Malformed(ConfigError):
    """Values of a file that would be dropped or changed."""

    def __init__(self, problem: str, *, content: Mapping[str, Any], **fields: Any) -> None:
        super().__init__(problem, **fields)
        self.content = content
        """The values of the other keys, so that a caller can name what else is wrong in the file."""


def any_key(key: str) -> None:
    """Accepts any key, for files whose keys are not all Trainyard's."""


def read_yaml(
    path: Path, source: str, *, takes: str, check_key: Check = any_key, typed: bool = False, within: Sequence[str] = ()
) -> dict[str, Any]:
    """The file's values by key, without keys whose value is null, at any depth; {} when it is empty.

    Values are text as it was typed; with `typed`, numbers, true and false are converted. Messages name the file
    `source` and say what it `takes`. `check_key` raises ConfigError for a key that does not belong in the file. Of the
    mappings under the keys `within`, the entries in which nothing is wrong are part of Malformed's content.

    Raises:
        Malformed: it holds values that would be dropped, or keys that do not belong: all of them.
        ConfigError: it cannot be read, or is no YAML mapping.
    """
    try:
        text = once(read_typed, path).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", source=source) from None
    except UnicodeDecodeError:
        raise ConfigError("cannot be read (it is not UTF-8)", source=source) from None
    return parse_yaml(text, source, takes=takes, check_key=check_key, typed=typed, within=within)


def parse_yaml(
    text: str, source: str, *, takes: str, check_key: Check = any_key, typed: bool = False, within: Sequence[str] = ()
) -> dict[str, Any]:
    """As `read_yaml`, for a file's text."""
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"is longer than {MOST_CHARACTERS} characters", allowed=f"takes {takes}", source=source)
    try:
        node = yaml.compose(text, _Composer)
        if node is not None and _written_out(node, {})[0] > MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {MOST_VALUES} values")
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"is not YAML: {_said(error)}", source=source) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", source=source) from None
    if node is None or node.tag == f"{TAG}null":
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(allowed=f"takes {takes}", source=source)
    problems = [*_wrong_keys(node, check_key), *_wrong(node, "")]
    if problems:
        raise Malformed(**vars(ConfigError.of(problems, source=source)), content=_value(_sound(node, within), typed))
    found: dict[str, Any] = _value(node, typed)
    return found


class _Composer(yaml.SafeLoader):
    """Builds the tree of nodes from text."""

    yaml_implicit_resolvers: ClassVar = {}  # type: ignore[misc]
    _depth = 0

    def compose_node(self, *where: Any) -> yaml.Node | None:
        self._depth += 1
        _refuse_deep(self._depth)
        node = super().compose_node(*where)
        self._depth -= 1
        return node


for _kind, _pattern in PATTERNS.items():
    _Composer.add_implicit_resolver(f"{TAG}{_kind}", re.compile(f"({_pattern})$"), None)


def _said(error: yaml.MarkedYAMLError) -> str:
    """The parser's message and its place, without the text at that place, which may be a secret."""
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(": ".join(filter(None, (error.context, error.problem))).split())


def _written_out(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(values, levels) of `node` when every alias is written out. Raises YAMLError."""
    if id(node) not in known:
        known[id(node)] = (1, MOST_DEPTH)  # until it is known; a node that contains itself has no end
        found = [_written_out(part, known) for part in _parts(node)]
        known[id(node)] = (1 + sum(n for n, _ in found), 1 + max((levels for _, levels in found), default=0))
        _refuse_deep(known[id(node)][1])
    return known[id(node)]


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _refuse_deep(levels: int) -> None:
    if levels > MOST_DEPTH:
        raise yaml.YAMLError(f"it nests deeper than {MOST_DEPTH} levels")


def _wrong_keys(node: yaml.MappingNode, check_key: Check) -> Iterator[ConfigError]:
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and not _is(key, "merge"):
            try:
                check_key(key.value)
            except ConfigError as error:
                yield error


def _wrong(node: yaml.Node, place: str) -> Iterator[ConfigError]:
    """The parts of a node that cannot be accepted; `place` is the key above it."""
    about = f"{place}: " if place else ""
    if not _is_plain(node):
        yield ConfigError(
            f"{about}line {_line(node)} has a tag, {shown(node.tag.replace(TAG, '!!'))}: write the value alone"
        )
    if isinstance(node, yaml.SequenceNode):
        if any(_is(part, "null") for part in node.value):
            yield ConfigError(f"{about}the list holds an empty value: remove it")
        for part in node.value:
            yield from _wrong(part, place)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                yield ConfigError(f"{about}line {_line(key)} has a list or a mapping where a key belongs")
                continue
            name = key.value if re.fullmatch(r"[\w./-]{1,80}", key.value) else shown(key.value)
            if key.value in lines:
                yield ConfigError(f"{name} was given twice, in line {lines[key.value]} and {_line(key)}")
            lines.setdefault(key.value, _line(key))
            if _is(key, "merge") and not all(isinstance(part, yaml.MappingNode) for part in _merged(value)):
                yield ConfigError(f"{about}line {_line(key)}: << takes the anchor of a mapping, or a list of them")
            yield from _wrong(value, place or name)


def _sound(node: yaml.MappingNode, within: Sequence[str] = ()) -> yaml.MappingNode:
    """The part of a file in which nothing is wrong; of a key that is given twice, the first value."""
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value and key.value in within:
            value = _sound(value)
            if not value.value:
                continue
        alone = yaml.MappingNode(node.tag, [(key, value)], start_mark=node.start_mark)
        if not any(_wrong(alone, "")):
            found.setdefault(key.value, (key, value))
    return yaml.MappingNode(node.tag, [*found.values()], start_mark=node.start_mark)


def _value(node: yaml.Node, typed: bool) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(part, typed) for part in node.value]
    if not isinstance(node, yaml.MappingNode):
        kind = node.tag.removeprefix(TAG)
        return TYPES[kind](node.value) if typed and kind in TYPES else node.value
    merged: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in node.value:
        if _is(key, "merge"):
            for part in _merged(value):
                merged = {**_value(part, typed), **merged}  # the first one that has the key wins
        else:
            own[key.value] = None if _is(value, "null") else _value(value, typed)
    return {key: value for key, value in {**merged, **own}.items() if value is not None}


def _merged(node: yaml.Node) -> list[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else [node]


def _is_plain(node: yaml.Node) -> bool:
    """Whether the node is of a supported kind, and its tag fits its text."""
    kind = node.tag.removeprefix(TAG)
    if kind in TYPES:
        return re.fullmatch(PATTERNS[kind], node.value) is not None
    return kind in ("null", "merge", "str", "map", "seq")


def _is(node: yaml.Node, kind: str) -> bool:
    return bool(node.tag == f"{TAG}{kind}")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
