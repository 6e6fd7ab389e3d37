"""What the inspection of a run's records leaves for the next attempt of the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import trainer.data.record_check
from trainer.config import TrainConfig
from trainer.data.inspection import inspect_dataset
from trainer.data.records import Dataset, load_dataset
from trainer.model.base import load_processor
from trainer.node.ranks import Ranks
from trainer.outcome import ConfigError
from trainer.training import first_checks, kept_inspection
from trainer.training.first_checks import drop_unfit
from trainer.training.kept_inspection import KEPT_FILE, kept_text, read_kept

KNOWN = "data: an earlier attempt has inspected every record and picture, and none has changed since"
LEFT_OUT = "data: 1 of 5 train records left out: longer than max_length (500 tokens; "


@cache
def _processor(model: Path) -> Any:
    return load_processor(str(model))


class Attempts:
    """Attempts of one run, each of which says what it logs and whether it inspected the records."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(6):
            Image.new("RGB", (24, 24), (40 * number, 0, 0)).save(folder / f"{number}.png")
        asked = ["now?", "now?", "and now?", "now?", "now? " * 300]
        self.folder, self.model = folder, shutil.copytree(model, folder / "model")
        self.write("records.jsonl", asked, 0)
        self.write("held_out.jsonl", ["and then?"], 5)
        self.config = TrainConfig(
            model=str(self.model), data=str(folder / "records.jsonl"), output_dir=str(folder / "run"), run_id="r",
            max_length=500,
        )  # fmt: skip
        self.path = Path(self.config.output_dir, KEPT_FILE)
        self.processor, self.inspections = _processor(model), 0
        self.dataset = load_dataset(self.config.data, eval_fraction=0)
        held_out = load_dataset(str(folder / "held_out.jsonl"), eval_fraction=0).train
        self.dataset = replace(self.dataset, eval=held_out, sha256="a")
        monkeypatch.setattr(first_checks, "inspect_dataset", self._inspect)

    def write(self, name: str, asked: list[str], first: int) -> None:
        pictures = enumerate(asked, start=first)
        lines = [{"image": f"{n}.png", "context": "", "question": q, "output": "up"} for n, q in pictures]
        (self.folder / name).write_text("\n".join(map(json.dumps, lines)))

    def _inspect(self, *args: object, **options: object) -> object:
        self.inspections += 1
        return inspect_dataset(*args, **options)  # type: ignore[arg-type]

    def start(self, **changes: object) -> tuple[int, Dataset, list[int], list[str]]:
        """(inspections, the kept records, their tokens, the log) of one more attempt."""
        said: list[str] = []
        self.inspections = 0
        config = replace(self.config, **changes)  # type: ignore[arg-type]
        kept, tokens = drop_unfit(self.processor, self.dataset, config, Ranks(1), said.append)
        return self.inspections, kept, tokens, said

    def forge(self, **changes: object) -> None:
        """Change what the last attempt has found, with the digest that belongs to it."""
        key, result = kept_inspection._key(self.config, self.dataset), json.loads(self.path.read_text())["result"]
        assert key
        self.path.write_text(kept_text(key, {**result, **changes}))


@dataclass(frozen=True)
class Inspected:
    """What one attempt has kept, and what the next one would believe of it after changes."""

    attempts: Attempts
    key: str
    result: dict[str, object]

    def read(self, **changes: object) -> object:
        self.attempts.path.write_text(kept_text(self.key, {**self.result, **changes}))
        return read_kept(self.attempts.path, self.key, self.attempts.config, self.attempts.dataset)


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Inspected]:
    with pytest.MonkeyPatch.context() as patched:
        attempts = Attempts(tmp_path_factory.mktemp("inspected"), tiny_model, patched)
        attempts.start()
        key = kept_inspection._key(attempts.config, attempts.dataset)
        assert key
        yield Inspected(attempts, key, json.loads(attempts.path.read_text())["result"])


@pytest.fixture
def attempts(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    return Attempts(tmp_path, tiny_model, monkeypatch)


def test_the_next_attempt_of_a_run_keeps_the_same_records_without_inspecting_them(attempts: Attempts) -> None:
    inspections, kept, tokens, said = attempts.start()
    assert (inspections, kept.train, len(tokens)) == (1, attempts.dataset.train[:4], 4)
    assert len(said) == 1 and said[0].startswith(LEFT_OUT)
    assert attempts.start() == (0, kept, tokens, [KNOWN, *said])
    attempts.forge()
    assert attempts.start() == (0, kept, tokens, [KNOWN, *said])


def test_records_are_inspected_again_with_other_settings_and_when_a_picture_is_gone(attempts: Attempts) -> None:
    assert [attempts.start()[0], attempts.start()[0]] == [1, 0]
    assert [attempts.start(max_length=4000)[0], attempts.start()[0]] == [1, 1]
    (attempts.folder / "3.png").unlink()
    inspections, kept, _, said = attempts.start()
    assert (inspections, kept.train) == (1, attempts.dataset.train[:3])
    assert "a picture does not open" in said[0]


def _model_file(name: str) -> Callable[[Attempts, pytest.MonkeyPatch], None]:
    def change(attempts: Attempts, _: pytest.MonkeyPatch) -> None:
        path = attempts.model / name
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + " ")

    return change


def _dataset(**changes: Any) -> Callable[[Attempts, pytest.MonkeyPatch], None]:
    """Each change is a value, or makes one of the records of a side."""

    def change(attempts: Attempts, _: pytest.MonkeyPatch) -> None:
        found = {name: to(getattr(attempts.dataset, name)) if callable(to) else to for name, to in changes.items()}
        attempts.dataset = replace(attempts.dataset, **found)

    return change


def _picture(attempts: Attempts, _: pytest.MonkeyPatch) -> None:
    """Of the same length, with the time of its last change set back."""
    path = attempts.folder / "3.png"
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _library(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    (attempts.folder / "site" / "jinja2-99.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(attempts.folder / "site")


def _code(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    code = shutil.copytree(trainer.__path__[0], attempts.folder / "trainer")
    monkeypatch.setattr(trainer, "__path__", [str(code)])
    assert attempts.start()[0] == 0
    (code / "model" / "base.py").write_text((code / "model" / "base.py").read_text() + "\n")


CHANGES: dict[str, Callable[[Attempts, pytest.MonkeyPatch], None]] = {
    **{
        name: _model_file(name)
        for name in (
            *("tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/tools.jinja", "config.json"),
            *("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
            *("spiece.model", "video_preprocessor_config.json", "qformer_tokenizer/vocab.txt"),
        )
    },
    "a picture": _picture,
    "a library": _library,
    "the code": _code,
    "a training record": _dataset(train=lambda records: (*records[:-1], replace(records[-1], answer="go"))),
    "a training record is held out": _dataset(train=lambda records: records[1:], eval=lambda records: (*records,) * 2),
    "a held-out record": _dataset(eval=lambda records: (replace(records[0], answer="go"),)),
    "the data's digest": _dataset(sha256="b"),
    "what the reader left out": _dataset(left_out=("1 of 7 records left out: empty",)),
    "how many the reader left out": _dataset(unusable=1),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_whatever_the_inspection_depends_on_means_a_new_one(
    attempts: Attempts, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [attempts.start()[0], attempts.start()[0]] == [1, 0]
    CHANGES[changed](attempts, monkeypatch)
    assert [attempts.start()[0], attempts.start()[0]] == [1, 0]


def test_a_models_readme_and_another_copy_of_the_code_mean_no_new_inspection(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts.start()
    (attempts.model / "README.md").write_text("a model")
    monkeypatch.setattr(trainer, "__path__", [str(shutil.copytree(trainer.__path__[0], attempts.folder / "trainer"))])
    assert attempts.start()[0] == 0


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"sha256": 1}', '{"sha256": 1, "result": []}', "lines", "unfit"])
def test_a_damaged_file_means_a_new_inspection(attempts: Attempts, damage: str) -> None:
    """Also where each value that it holds could be true."""
    whole, found = attempts.start(), json.loads(attempts.path.read_text())
    changes = {"lines": ["1 of 5 train records left out"], "unfit": {"train": [3], "eval": []}}
    result = {**found["result"], damage: changes.get(damage)}
    attempts.path.write_text(json.dumps({**found, "result": result}) if damage in changes else damage)
    assert attempts.start() == whole
    assert attempts.start()[0] == 0


def _unfit(*places: object) -> dict[str, object]:
    return {"unfit": {"train": [*places], "eval": []}}


@pytest.mark.parametrize(
    "forged",
    [
        *({**_unfit(0, 1, 2, 3, 4), "tokens": []}, {"unfit": {"train": [4], "eval": [0]}}),
        *(_unfit(place) for place in (999, 5, -1, "4", 4.0, True, None, [4], 10**400)),
        *({"unfit": found} for found in ({"train": [4]}, {"train": {"4": 4}, "eval": []}, [[4], []], None)),
        *({"apart": {"train": [place], "eval": []}} for place in (5, -1, "4", 4.0, True)),
        *({"tokens": [300, 300, 300, number]} for number in (0, -1, 501, 3.0, True, "3", None)),
        *({"tokens": found} for found in ([], [300] * 3, [300] * 5, "abcd", None)),
        *({"lines": [line]} for line in ("\x1b[2J", "two\nlines", "x" * 10**6, 7, None)),
        *({"lines": found} for found in (["x"] * 10**4, "lines", {"a": "b"}, None)),
    ],
    ids=lambda forged: repr(forged)[:60],
)
def test_what_no_inspection_finds_is_not_believed_though_the_digest_is_right(
    inspected: Inspected, forged: dict[str, object]
) -> None:
    assert inspected.read() is not None and inspected.read(**forged) is None


def test_a_forged_file_means_a_new_inspection(attempts: Attempts) -> None:
    whole = attempts.start()
    attempts.forge(tokens=[300] * 4, lines=["two\nlines"])
    assert attempts.start() == whole
    assert attempts.start()[0] == 0


def test_a_strict_run_takes_no_earlier_attempts_word_that_a_record_is_left_out(attempts: Attempts) -> None:
    attempts.config = replace(attempts.config, strict=True, max_length=4000)
    whole = attempts.start()
    assert len(whole[1].train) == 5
    attempts.forge(**_unfit(4), tokens=whole[2][:4])
    assert attempts.start() == whole


def test_a_line_of_the_log_that_is_kept_is_printable_and_not_endless(attempts: Attempts) -> None:
    attempts.dataset = replace(attempts.dataset, left_out=("\x1b[2J" + "x" * 10**6,))
    inspections, _, _, said = attempts.start()
    assert (inspections, said[0]) == (1, "data: \\x1b[2J" + "x" * 3993)
    assert attempts.start()[0] == 0


def test_a_refusal_is_not_kept(attempts: Attempts) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="strict: 1 of 5 train records left out"):
            attempts.start(strict=True)
        assert attempts.inspections == 1


def test_words_that_were_rendered_before_are_not_rendered_again(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    template = type(attempts.processor).apply_chat_template

    def counted(self: object, turns: object, **options: object) -> object:
        texts.append(str(turns))
        return template(self, turns, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(attempts.processor), "apply_chat_template", counted)

    def checked(most: int) -> tuple[object, int]:
        monkeypatch.setattr(trainer.data.record_check, "MOST_KNOWN_TEXTS", most)
        texts.clear()
        found = inspect_dataset(attempts.dataset, attempts.processor, max_length=500).checked
        return found, len([text for text in texts if "now?" in text])

    (one, few), (all_, many) = checked(256), checked(1)
    assert one == all_
    assert (few, many) == (6, 8)  # prompt and answer of 3 texts; the last of the 5 is as the second
