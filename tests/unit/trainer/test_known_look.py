"""What a look at the records keeps for the next attempt of the run."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import trainer.data.inspection
from trainer.config import TrainConfig
from trainer.data.inspection import inspect_dataset
from trainer.data.records import Dataset, load_dataset
from trainer.model.base import load_processor
from trainer.node.ranks import Ranks
from trainer.outcome import ConfigError
from trainer.training import first_look
from trainer.training.first_look import drop_unfit
from trainer.training.known_look import LOOK_FILE

KNOWN = "data: an earlier attempt has looked at every record and picture, and none has changed since"
LEFT_OUT = "data: 1 of 5 train records left out: longer than max_length (500 tokens; "


class Attempts:
    """Attempts of one run, each of which says what it logs and whether it looked at the records."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(5):
            Image.new("RGB", (24, 24), (40 * number, 0, 0)).save(folder / f"{number}.png")
        asked = ["now?", "now?", "and now?", "now?", "now? " * 300]
        entries = [{"image": f"{n}.png", "context": "", "question": q, "output": "up"} for n, q in enumerate(asked)]
        (folder / "records.jsonl").write_text("\n".join(map(json.dumps, entries)))
        self.config = TrainConfig(
            model=str(model), data=str(folder / "records.jsonl"), output_dir=str(folder / "run"), run_id="r",
            max_length=500,
        )  # fmt: skip
        self.processor, self.looks = load_processor(str(model)), 0
        self.dataset = load_dataset(self.config.data, eval_fraction=0)
        monkeypatch.setattr(first_look, "inspect_dataset", self._inspect)

    def _inspect(self, *args: object, **options: object) -> object:
        self.looks += 1
        return inspect_dataset(*args, **options)  # type: ignore[arg-type]

    def start(self, **changes: object) -> tuple[int, Dataset, list[int], list[str]]:
        """(looks at all records, the kept records, their tokens, the log) of one more attempt."""
        said: list[str] = []
        self.looks = 0
        config = replace(self.config, **changes)  # type: ignore[arg-type]
        kept, tokens = drop_unfit(self.processor, self.dataset, config, Ranks(1), said.append)
        return self.looks, kept, tokens, said


@pytest.fixture
def attempts(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    return Attempts(tmp_path, tiny_model, monkeypatch)


def test_the_next_attempt_of_a_run_keeps_the_same_records_without_looking_at_them(attempts: Attempts) -> None:
    looks, kept, tokens, said = attempts.start()
    assert (looks, kept.train, len(tokens)) == (1, attempts.dataset.train[:4], 4)
    assert len(said) == 1 and said[0].startswith(LEFT_OUT)
    assert attempts.start() == (0, kept, tokens, [KNOWN, *said])


def test_every_change_of_records_pictures_or_settings_is_looked_at(attempts: Attempts) -> None:
    assert [attempts.start()[0], attempts.start()[0]] == [1, 0]
    assert [attempts.start(max_length=4000)[0], attempts.start()[0]] == [1, 1]
    picture = Path(attempts.config.data).with_name("3.png")
    os.utime(picture, ns=(1, 1))
    assert [attempts.start()[0], attempts.start()[0]] == [1, 0]
    picture.unlink()
    looks, kept, _, said = attempts.start()
    assert (looks, kept.train) == (1, attempts.dataset.train[:3])
    assert "a picture does not open" in said[0]
    attempts.dataset = replace(attempts.dataset, train=attempts.dataset.train[1:])
    assert attempts.start()[0] == 1


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"key": 1}', "tokens", "unfit"])
def test_a_damaged_file_means_a_new_look(attempts: Attempts, damage: str) -> None:
    whole = attempts.start()
    path = Path(attempts.config.output_dir, LOOK_FILE)
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, damage: []}) if damage in found else damage)
    assert attempts.start() == whole
    assert attempts.start()[0] == 0


def test_a_refusal_is_not_kept(attempts: Attempts) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="strict: 1 of 5 train records left out"):
            attempts.start(strict=True)
        assert attempts.looks == 1


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
        monkeypatch.setattr(trainer.data.inspection, "MOST_KNOWN_TEXTS", most)
        texts.clear()
        found = inspect_dataset(attempts.dataset, attempts.processor, max_length=500).checked
        return found, len([text for text in texts if "now?" in text])

    (one, few), (all_, many) = checked(256), checked(1)
    assert one == all_
    assert (few, many) == (6, 8)  # prompt and answer of 3 texts; the last of the 5 is as the second
