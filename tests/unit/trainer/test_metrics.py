"""Action metrics, against hand-computed values."""

from __future__ import annotations

import pytest

from trainer.data.answers import UNREADABLE, answer_field, read_action
from trainer.evaluation.heldout import Scores, describe
from trainer.evaluation.metrics import FEW_ANSWERS, TABLE_ACTIONS, action_metrics, interval, score_table, wilson
from trainer.outcome import ConfigError


def test_metrics_of_a_small_table_are_as_computed_by_hand() -> None:
    truths = ["up", "up", "up", "down", "down", "a"]
    said = ["up", "up", "down", "down", None, "jump"]
    result = action_metrics(truths, said)
    assert result.accuracy == pytest.approx(3 / 6)
    assert result.valid_json == pytest.approx(5 / 6)
    assert (result.majority, result.majority_accuracy) == ("up", 0.5)
    assert result.per_action == {
        "up": {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "count": 3},
        "down": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "count": 2},
        "a": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 1},
    }
    assert result.macro_f1 == pytest.approx((0.8 + 0.5 + 0.0) / 3)
    zero = {"up": 0, "down": 0, "a": 0, UNREADABLE: 0, "jump": 0}
    assert result.confusion == {
        "up": {**zero, "up": 2, "down": 1},
        "down": {**zero, "down": 1, UNREADABLE: 1},
        "a": {**zero, "jump": 1},
    }


def test_the_action_is_the_first_key_unless_told_otherwise() -> None:
    answers = ['{"button": "up", "reasoning": "a wall"}']
    assert answer_field(answers) == "button"
    assert answer_field(answers, "reasoning") == "reasoning"
    assert answer_field(['{"reasoning": "x", "button": "a"}', *answers, *answers]) == "button"
    assert answer_field(["up"]) is None


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            ['{"button": "up", "reasoning": "a wall"}', "up"],
            "answer_field='buton': the answers have button, reasoning, did you mean button?",
        ),
        (["up"], "answer_field='buton': no answer is a JSON object with keys: leave it out"),
    ],
)
def test_an_answer_field_that_no_answer_has_is_refused(answers: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        answer_field(answers, "buton")
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("answer", "field", "action"),
    [
        ('{"button": "up"}', "button", "up"),
        ('{"button": 3}', "button", "3"),
        ('{"button": true}', "button", "true"),
        ('{"button": null}', "button", "null"),
        ('{"button": "None"}', "button", "None"),
        ('{"button": {"y": [2], "x": "ü"}}', "button", '{"x": "ü", "y": [2]}'),
        ('{"key": "up"}', "button", None),
        ('{"button": "up"', "button", None),
        ("[1]", "button", None),
        (" up ", None, "up"),
    ],
)
def test_an_action_is_read_or_the_answer_is_unreadable(answer: str, field: str | None, action: str | None) -> None:
    assert read_action(answer, field) == action


def test_answers_in_plain_text_are_not_called_valid_json() -> None:
    text = action_metrics(["up", "down " * 40, "down " * 40], ["up", "up", "up"], in_json=False)
    assert text.valid_json is None
    json = action_metrics(["up", "down"], ["up", None])
    majority = f"always '{('down ' * 40)[:77]}...': 66.7%"
    assert [describe("now", Scores(generated=found)) for found in (text, json)] == [
        f"now: action accuracy 33.3% on 3 held-out records ({majority})",
        "now: action accuracy 50.0% on 2 held-out records (always 'up': 50.0%), valid JSON 50.0%",
    ]
    assert describe("now", Scores(scored=text, generated=json)).endswith(", written out 50.0% of 2, valid JSON 50.0%")


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        action_metrics([], [])
    with pytest.raises(ValueError, match="zip"):
        action_metrics(["up"], [])


def test_the_table_at_the_end_has_the_base_model_the_majority_and_every_action() -> None:
    truths = ["up"] * 3 + ["down"]
    before, after = action_metrics(truths, ["down"] * 4), action_metrics(truths, ["up", "up", "down", "down"])
    assert (
        score_table(before, after)
        == """\
                       accuracy  macro F1
-----------------------------------------
base model, zero-shot     25.0%      0.20
always 'up'               75.0%      0.43
after training            75.0%      0.73

action  answers  precision  recall    F1  F1 before
---------------------------------------------------
up            3     100.0%   66.7%  0.80       0.00
down          1      50.0%  100.0%  0.67       0.40"""
    )
    assert score_table(None, None) == ""


@pytest.mark.parametrize(
    ("actions", "end"), [(TABLE_ACTIONS, "-"), (TABLE_ACTIONS + 2, "\nand 2 rarer actions, in the report")]
)
def test_the_table_at_the_end_says_how_many_actions_it_leaves_out(actions: int, end: str) -> None:
    truths = [f"a{number:02}" for number in range(actions)]
    table = score_table(None, action_metrics(truths, truths))
    rows = table.split("\n\n")[1].splitlines()[2:]
    assert [row.split()[0] for row in rows if row[0] == "a" and row[1].isdigit()] == truths[:TABLE_ACTIONS]
    assert table.endswith(end)


def test_always_giving_the_majority_scores_what_is_said() -> None:
    truths = ["up"] * 3 + ["down"]
    always = action_metrics(truths, ["up"] * 4)
    assert f"always 'up'               75.0%      {always.macro_f1:.2f}" in score_table(always, always)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_an_interval_is_wilsons(right: int, count: int, low: float, high: float) -> None:
    """The last one is a published example: Newcombe, Statistics in Medicine 17 (1998), 857-872, table I."""
    assert wilson(right / count, count) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_holds_the_share_and_says_nothing_without_tries() -> None:
    assert wilson(0.0, 0) == (0.0, 1.0)
    assert all(low <= n / 40 <= high for n in range(41) for low, high in [wilson(n / 40, 40)])
    low, high = wilson(0.5, FEW_ANSWERS)
    assert high - low < 0.2  # what the page says of as many answers
    assert interval(0.98, 500) == "96.4 to 98.9%"
