"""An error is made of fields: people read the line that they make, code reads the fields."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Callable, Iterator

import pytest
from paths import ROOT
from sources import ROOMS, modules, nodes

from planner.refuse import NothingFits
from planner.request.resolve import resolve
from planner.request.site import Site
from trainer.architecture.folder import NoTemplate
from trainer.architecture.shapes import Unmeasured
from trainer.outcome import ConfigError, SickNode, UnreadableError, unknown
from trainer.tools.checks import ask
from trainer.yaml_file import Malformed


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("a is wrong"), "a is wrong"),
        (ConfigError("a is wrong", name="a"), "a is wrong"),
        (ConfigError(name="GPUS", given="9 9", allowed="takes 1 to 8"), "GPUS='9 9': takes 1 to 8"),
        (ConfigError("too many", name="GPUS", given="9", advice="try 8"), "GPUS=9: too many: try 8"),
        (ConfigError("too many", source="site.yaml"), "site.yaml: too many"),
        (unknown("accout", ("account", "qos")), "unknown 'accout', did you mean account? known are account, qos"),
        (unknown("zzz", ("account", "qos")), "unknown 'zzz': known are account, qos"),
    ],
)
def test_the_line_is_made_of_the_fields(error: ConfigError, line: str) -> None:
    assert str(error) == line
    again = pickle.loads(pickle.dumps(error))  # as the first rank tells it the others
    assert (str(again), vars(again)) == (line, vars(error))


def test_several_are_one_line_and_what_is_known_is_said_once() -> None:
    known = ("account", "qos")
    errors = [unknown("a", known), ConfigError("x is wrong", advice="leave it out"), unknown("qs", known)]
    assert str(ConfigError.of(errors, source="s.yaml")) == (
        "s.yaml: x is wrong; leave it out; unknown 'a'; unknown 'qs', did you mean qos? known are account, qos"
    )
    assert str(ConfigError.of(errors[1:2], source="s.yaml")) == "s.yaml: x is wrong; leave it out"


def test_an_error_about_a_value_has_it_in_its_fields() -> None:
    """No text begins with NAME=value: the line is made of `name` and `given`, by one function."""
    found = []
    for path in modules(*ROOMS):
        for node in nodes(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ConfigError":
                has_value = any(keyword.arg == "given" for keyword in node.keywords)
                text = ast.unparse(node.args[0]) if node.args and not has_value else ""
                if re.match(r"""f?['"]([A-Z_]+|\{[^}]+\})=\{?[^ ]""", text):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert found == []


@pytest.mark.parametrize(
    ("site", "given", "line"),
    [
        # Each about a variable that nobody typed.
        (
            {"CONFIG": "multi_gpu"},
            {},
            "CONFIG=multi_gpu: is not for 1 GPU: try CONFIG=single_gpu or CONFIG=single_gpu_low_mem "
            "(CONFIG is from s.yaml)",
        ),
        ({"GPU_TYPE": "zx"}, {}, "(GPU_TYPE is from s.yaml)"),
        ({"EFFECTIVE_BATCH": "9"}, {"GPUS": "2"}, "try 8 or 10 (EFFECTIVE_BATCH is from s.yaml)"),
        ({"MODEL": "nobody/none"}, {}, "make shape MODEL=nobody/none (MODEL is from s.yaml)"),
        # What is wrong in the file itself: all of it, behind its name.
        ({"TIME": "soon", "PARTITION": "a b"}, {}, "s.yaml: TIME=soon: takes "),
        ({"TIME": "soon", "PARTITION": "a b"}, {}, "; PARTITION='a b': takes "),
    ],
)
def test_where_a_value_comes_from_is_said(site: dict[str, str], given: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(given, project_dir=ROOT, environ={}, site=Site(source="s.yaml", texts=site))
    assert line in str(caught.value)
    assert str(caught.value).count("s.yaml") == 1


def test_a_check_tells_the_whole_error_and_a_sick_nodes_without_its_name() -> None:
    def fails(error: Exception) -> str:
        raise error

    assert ask("a", fails, ConfigError(name="GPUS", given="9", allowed="takes 1 to 8")).found == "GPUS=9: takes 1 to 8"
    assert ask("a", fails, SickNode("no GPU")).found == "no GPU"


def test_no_code_takes_the_text_of_an_error_apart() -> None:
    """Whoever needs a part reads a field. What libraries say is theirs, and is read where that is all there is."""
    cutting = ("replace", "partition", "rpartition", "startswith", "endswith", "removeprefix", "removesuffix", "find")
    found = []
    for path in modules(*ROOMS):
        for node in nodes(path):
            if not isinstance(node, ast.ExceptHandler) or not node.type or "ConfigError" not in ast.dump(node.type):
                continue
            for part in ast.walk(node):
                cut = isinstance(part, ast.Attribute) and part.attr in (*cutting, "split", "args")
                of_error = cut and isinstance(part, ast.Attribute) and _names(part.value, str(node.name))
                if of_error or (isinstance(part, ast.Compare) and _names(part, str(node.name))):
                    found.append(f"{path.relative_to(ROOT)}:{part.lineno}")
    assert found == []


def _names(node: ast.AST, name: str) -> bool:
    """Whether `node` is made of the error itself or its text: str(error), error.args."""
    if isinstance(node, ast.Name):
        return node.id == name
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str":
        return any(_names(argument, name) for argument in node.args)
    if isinstance(node, ast.Compare):
        return any(isinstance(part, ast.Call) and _names(part, name) for part in (node.left, *node.comparators))
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _names(node.func.value, name)


def _kinds(kind: type[ConfigError] = ConfigError) -> Iterator[type[ConfigError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


MADE: dict[str, Callable[[], ConfigError]] = {
    "ConfigError": lambda: ConfigError("is none", name="MODEL", given="m"),
    "UnreadableError": lambda: UnreadableError.made("/x", OSError(13, "Permission denied")),
    "Malformed": lambda: Malformed("is no YAML", content={"a": 1}, source="a.yaml"),
    "Unmeasured": lambda: Unmeasured("no shape", name="MODEL", given="m"),
    "NoTemplate": lambda: NoTemplate("m", advice="give another"),
    "NothingFits": lambda: NothingFits("fits nowhere", needed_bytes=9, changes=("GPUS=2",), name="GPUS", given="1"),
}


def test_an_error_with_other_fields_is_of_the_same_kind_and_loses_nothing() -> None:
    assert {kind.__name__ for kind in _kinds() if kind.__module__.split(".")[0] in ROOMS} == set(MADE)
    for make in MADE.values():
        error = make()
        other = error.but(name="--model", source="x.yaml")
        assert type(other) is type(error)
        assert vars(other) == {**vars(error), "name": "--model", "source": "x.yaml"}
        assert str(other).startswith("x.yaml: ")
