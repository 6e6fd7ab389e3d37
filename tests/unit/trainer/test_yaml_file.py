"""Every YAML file that a person writes is read by one reader: what is wrong is told alike, and all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from here import sweep_of

from k8s.manifest import site as k8s_site
from slurm.cluster import site as slurm_site
from trainer.outcome import ConfigError
from trainer.settings import resolve_settings
from trainer.yaml_file import read_yaml


def _settings(path: Path) -> Any:
    return resolve_settings(["--config", path.name], {}, folder=path.parent)


def _sweep(path: Path) -> Any:
    return sweep_of({"SWEEP": str(path)})


READERS: dict[str, Callable[[Path], Any]] = {
    "settings": _settings,
    "slurm site": lambda path: slurm_site.find_site({"SITE": path.name}, path.parent, {}),
    "k8s site": lambda path: k8s_site.find_site({"SITE": path.name}, path.parent, {}),
    "sweep": _sweep,
}
KEYS = {"settings": "seed", "slurm site": "account", "k8s site": "queue", "sweep": "method"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("K: a\nK: b", "K was given twice, in line 1 and 2"),
        ("K: a\n'K': null", "K was given twice, in line 1 and 2"),
        ("K: !!timestamp 2024-13-41", "K: line 1 has a tag, '!!timestamp': write the value alone"),
        ("K: !mine {a: 1}", "K: line 1 has a tag, '!mine': write the value alone"),
        ("K: !!int lots", "K: line 1 has a tag, '!!int': write the value alone"),
        ("K: [a, ~]", "K: the list holds an empty value: remove it"),
        ("K: [[null]]", "K: the list holds an empty value: remove it"),
        ("K: {a: 1, a: 2}", "a was given twice, in line 1 and 1"),
        ("K: {<<: a}", "K: line 1: << takes the anchor of a mapping, or a list of them"),
        ("K: {[a, b]: 1}", "K: line 1 has a list or a mapping where a key belongs"),
        (
            "K: {a\n",
            "is not YAML: line 2, column 1: while parsing a flow mapping: expected ',' or '}', but got '<stream end>'",
        ),
        ("K: a\n\tb: c\n", "is not YAML: line 2, column 1: while scanning for the next token: found character '\\t'"),
        ("- K", "file.yaml: takes "),
        ("K", "file.yaml: takes "),
        ("K: a\n---\nK: b", "is not YAML: line 2, column 1: expected a single document in the stream: but found"),
        ("K:\n *nobody", "is not YAML: line 2, column 2: found undefined alias 'nobody'"),
        ("K: &a [*a]", "is not YAML: it nests deeper than 64 levels"),
        ("K: \x00", "is not YAML: "),
        ("K: a\nK: b\nL: [~]", "K was given twice, in line 1 and 2; L: the list holds an empty value"),
    ],
)
@pytest.mark.parametrize("kind", READERS)
def test_a_mistake_is_one_line_and_the_same_in_every_kind_of_file(
    kind: str, text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text.replace("K", KEYS[kind]), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        READERS[kind](path)
    assert said.replace("K", KEYS[kind]) in str(caught.value)
    assert str(caught.value).isprintable() and "file.yaml" in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "sweep"])
def test_mistakes_of_form_stand_beside_wrong_values_and_unknown_names(kind: str, tmp_path: Path) -> None:
    key, other = KEYS[kind], "max_steps" if kind == "settings" else "time"
    path = tmp_path / "file.yaml"
    path.write_text(f"{key}: 1\n{key}: 2\n{other}: lots\nfoo: !!int x\nbar: 1\n? [a]\n: b\n")
    with pytest.raises(ConfigError) as caught:
        READERS[kind](path)
    said = (f"{key} was given twice", "foo: line 4 has a tag", "line 6 has a list", f"{other}", "'bar'", "'foo'")
    assert [words for words in said if words not in str(caught.value)] == []


@pytest.mark.parametrize("content", [b"K: \xff", b"K: " + b"x" * 70_000, None])
@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_text_of_a_persons_length_is_one_line(kind: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(ConfigError, match=r"file\.yaml.*(cannot be read|longer than 65536|no such file)") as caught:
        READERS[kind](path)
    assert str(caught.value).isprintable()


def test_a_folder_given_for_a_sweep_is_named_however_long_its_path(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    with pytest.raises(ConfigError, match=rf"^{folder}: cannot be read \(Is a directory\)$"):
        _sweep(folder)


@pytest.mark.parametrize("nothing", ["", "~", "null", "Null", "NULL", "!!null ''", "&x null"])
@pytest.mark.parametrize("typed", [True, False])
def test_a_key_whose_value_is_null_is_not_there(nothing: str, typed: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    again = nothing.replace("&x null", "*x")
    path.write_text(f"a: {nothing}\nb:\n  c: {again}\n  d: x\ne:\n- f: {again}\n  g: y\n")
    assert read_yaml(path, "f", takes="x", typed=typed) == {"b": {"d": "x"}, "e": [{"g": "y"}]}


def test_null_takes_back_what_an_anchor_brings(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: null, e: 3}\nf: {<<: [{c: 4}, *a]}\n")
    assert read_yaml(path, "f", takes="x") == {
        "a": {"b": "1", "c": "2"},
        "d": {"c": "2", "e": "3"},
        "f": {"b": "1", "c": "4"},
    }


WORDS = "[no, on, Yes, 010, 1_000, 12:30:00, 2024-01-01, 0x1F, .inf, 'null', '5', 5, -1.5, 1e-4, .5, true, FALSE]"


def test_words_stay_words_and_typed_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(f"a: {WORDS}\n2024-01-01: x\n")
    texts = WORDS.replace("'", "")[1:-1].split(", ")
    assert read_yaml(path, "f", takes="x") == {"a": texts, "2024-01-01": "x"}
    typed = read_yaml(path, "f", takes="x", typed=True)["a"]
    assert typed == [*texts[:11], 5, -1.5, 1e-4, 0.5, True, False]
    assert [type(value) for value in typed[11:]] == [int, float, float, float, bool, bool]


def test_a_number_without_an_end_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    for number in ("9" * 5000, "-" + "9" * 5000, "1" + "0" * 18, "1e999", "9" * 5000 + ".5"):
        parameters = f"{{gradient_accumulation_steps: {{values: [{number}]}}}}"
        path.write_text(f"method: grid\nmetric: {{name: loss}}\nparameters: {parameters}\n")
        with pytest.raises(ConfigError, match=r"gradient_accumulation_steps takes `values: ") as caught:
            _sweep(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_every_key_that_is_not_known_is_named_and_what_is_known_once(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("acount: a\nzzz:\npartition: [[x]]\n")
    with pytest.raises(ConfigError) as caught:
        slurm_site.find_site({"SITE": "file.yaml"}, tmp_path, {})
    said = str(caught.value)
    assert said.startswith("file.yaml: partition: takes one value, or a list or mapping of values; unknown 'acount', ")
    assert "unknown 'acount', did you mean account?; unknown 'zzz': known are " in said
    assert str(caught.value).count("known are") == 1
