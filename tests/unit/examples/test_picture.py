"""The picture of a report shows a run's own numbers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

from paths import ROOT

from examples.demo.picture import picture

WRONG = {"up": {"up": 4, "<down>": 0}, "<down>": {"up": 3, "<down>": 0}}
RIGHT = {"up": {"up": 4, "<down>": 0}, "<down>": {"up": 1, "<down>": 2}}


def scores(accuracy: float, f1: float, confusion: dict[str, dict[str, int]]) -> dict[str, Any]:
    return {
        "samples": 7, "accuracy": accuracy, "macro_f1": f1, "majority": "up", "majority_accuracy": 4 / 7,
        "confusion": confusion,
    }  # fmt: skip


RECORD = {
    "before": scores(4 / 7, 0.36, WRONG),
    "after": scores(6 / 7, 0.84, RIGHT),
    "history": [{"step": 1, "loss": 2.0, "mean_token_accuracy": 0.5}, {"step": 8, "loss": 1.0}],
}


def texts(svg: str) -> list[str]:
    return [str(node.text) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_it_says_the_scores_and_counts_of_the_record() -> None:
    said = texts(picture(RECORD))
    assert said[:2] == [
        "Action accuracy 85.7%, before training 57.1%",
        "7 held-out records; always answering up: 57.1%; macro F1 0.84, before 0.36",
    ]
    after = said[said.index("After training") + 2 :]
    assert after == ["up", "<down>", "up", "4", "0", "<down>", "1", "2"]


def test_its_curves_are_the_reports() -> None:
    svg = picture(RECORD)
    assert [text for text in texts(svg) if text in ("Loss", "Token accuracy")] == ["Loss", "Token accuracy"]
    assert 'd="M12.5 0h0L100 50"' in svg


def test_the_picture_in_the_readme_has_the_scores_that_stand_beside_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"!\[[^]]*\]\((docs/[^)]*\.svg)\)", readme)
    title = texts((ROOT / shown).read_text(encoding="utf-8"))[0]
    before, after = re.findall(r"^(?:base model, zero-shot|after training) +([\d.]+%)", readme, re.M)
    assert title == f"Action accuracy {after}, before training {before}"
