"""The allowed actions' probabilities: the right tokens, the numbers of a plain forward pass, no word generated."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scored import ALONE, found

from trainer.config import TrainConfig
from trainer.data.answers import answer_field, read_action
from trainer.data.examples import Encoder, encode
from trainer.data.records import Dataset, Record, load_dataset
from trainer.data.tensors import IGNORED, pad_and_stack
from trainer.evaluation.batches import map_batches
from trainer.evaluation.generation import answer_budget
from trainer.evaluation.heldout import build_heldout
from trainer.evaluation.rows import Room
from trainer.evaluation.scoring import find_choices, score_actions
from trainer.outcome import ConfigError


@pytest.fixture(scope="module")
def processor(tiny_model: Path) -> Any:
    from trainer.model.base import load_processor

    return load_processor(str(tiny_model))


@pytest.fixture(scope="module")
def records(walks: Path) -> tuple[Record, ...]:
    return load_dataset(str(walks)).train


def answered(records: tuple[Record, ...], *answers: str) -> list[Record]:
    return [replace(record, answer=answer) for record, answer in zip(records, answers, strict=False)]


UP, DOWN = '{"a": "up"}', '{"a": "down", "n": 1}'
UNLIKE = {
    "the demo's": None,
    "other ends": [UP, DOWN, UP, DOWN, '{"a": "left", "n": 7}'],
    "other keys behind": ['{"a": "up", "why": "a wall"}', '{"a": "down", "n": 1}', '{"a": "left" }'],
    "objects": ['{"a": {"x": 1}}', '{"a": {"x": 2}, "n": 1}'],
    "numbers": ['{"a": 1}', '{"a": 12, "n": 1}', '{"a": null}'],
    "plain": ['"up"', '"up" fast', "down", '"'],
    "another alphabet": ['{"ход": "вверх"}', '{"ход": "вниз"}'],
    "escaped": ['{"\\u0445": "\\u0432"}', '{"\\u0445": "\\u043d"}'],
}


@pytest.mark.parametrize("answers", UNLIKE.values(), ids=UNLIKE)
@pytest.mark.parametrize("family", ["tiny_model", "tiny_qwen"])
def test_candidates_are_the_tokens_that_training_learns(
    family: str, answers: list[str] | None, records: tuple[Record, ...], request: pytest.FixtureRequest
) -> None:
    from trainer.model.base import load_processor

    processor = load_processor(str(request.getfixturevalue(family)))
    some = answered(records, *answers) if answers else records
    choices, field = found(processor, some), answer_field([r.answer for r in some])
    encode = Encoder(processor, some)
    for index, record in enumerate(some):
        labels = encode(index)["labels"][0]
        learned = tuple(labels[labels != IGNORED].tolist())
        rest = choices.rest[choices.actions.index(str(read_action(record.answer, field)))]
        assert learned[: len(choices.shared) + len(rest)] == choices.shared + rest
    assert sorted(choices.actions) == sorted({read_action(r.answer, field) for r in some})
    for one in choices.rest:
        assert [other for other in choices.rest if other[: len(one)] == one] == [one]


def test_an_action_that_ends_in_several_ways_is_all_of_them(processor: Any, records: tuple[Record, ...]) -> None:
    """But for the rare ones: an end, or another order of keys."""
    some = answered(records, *[UP] * 6, *['{"a": "up", "n": 1}'] * 5, '{"a": "up" }', *[DOWN] * 3)
    choices = found(processor, some)
    assert choices.actions == ("up", "up", "down")
    assert [processor.tokenizer.decode([*choices.shared, *rest]) for rest in choices.rest] == [
        '{"a": "up"}', '{"a": "up",', '{"a": "down",',
    ]  # fmt: skip
    shares = torch.tensor([0.2, 0.25, 0.3]).log().tolist()
    assert choices.probabilities(shares) == {"up": 0.6, "down": 0.4}
    orders = ['{"a": {"x": 1, "y": 2}}', '{"a": {"y": 2, "x": 1}}', '{"a": {"x": 3, "y": 4}}']
    objects = found(processor, answered(records, *orders)).actions
    assert objects == ('{"x": 1, "y": 2}', '{"x": 1, "y": 2}', '{"x": 3, "y": 4}')


def test_no_candidate_is_the_beginning_of_another(processor: Any, records: tuple[Record, ...]) -> None:
    cases = [
        ['{"n": 1, "why": "x"}', '{"n": 12, "why": "x"}', '{"n": 123, "why": "x"}'],
        ['{"go":"up"}', '{"go":"upwards"}', '{"go":"up up"}'],
        ["up", "upper", "up up"],
        ['"up"', '"up" fast', "down"],
    ]
    for answers in cases:
        choices = found(processor, answered(records, *answers))
        assert len(choices.actions) == 3
        for one in choices.rest:
            assert [other for other in choices.rest if other[: len(one)] == one] == [one]


@pytest.mark.parametrize(
    ("answers", "asked", "texts"),
    [
        (['{"key":"links", "x": 1}', '{"key":"rechts", "x": 1}'], "links,hoch", ['{"key":"links",', '{"key":"hoch",']),
        # The commonest end is that of most answers, not of the commonest answer.
        (
            [UP, UP, DOWN, '{"a": "left", "n": 2}', '{"a": "right", "n": 1}'],
            "up,back",
            ['{"a": "up"}', '{"a": "back",'],
        ),
        (['{"ход": "вверх"}', '{"ход": "вниз"}'], "вверх,влево", ['{"ход": "вверх"}', '{"ход": "влево"}']),
        ([r'{"a": "\u0432"}', r'{"a": "\u043d"}'], "в,д", [r'{"a": "\u0432"}', r'{"a": "\u0434"}']),
        (['{"a": true}'], "true,false", ['{"a": true}', '{"a": false}']),
        (['"up"', "down"], "down,left", ["down<end_of_turn>", "left<end_of_turn>"]),
    ],
)
def test_actions_are_written_as_the_data_writes_them(
    answers: list[str], asked: str, texts: list[str], processor: Any, records: tuple[Record, ...]
) -> None:
    choices = found(processor, answered(records, *answers), asked)
    assert [processor.tokenizer.decode([*choices.shared, *rest]) for rest in choices.rest] == texts


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (['{"a": "x"}', '{"a": "x"}'], "1 different actions in the training answers, not 2 to 64"),
        ([f"answer {n}" for n in range(65)], "65 different actions in the training answers, not 2 to 64"),
        (
            ['{"why": "a wall", "a": "x"}', '{"why": "a door", "a": "y"}'],
            "'a' is not the first key of the answers, and depends on what is said before it",
        ),
    ],
)
def test_free_text_is_not_scored(processor: Any, records: tuple[Record, ...], answers: list[str], reason: str) -> None:
    some = answered(records * 9, *answers)
    assert find_choices(processor, some, "a" if answers[0][0] == "{" else None) == reason


FEW = {1: "5.5 to 94.5%", 2: "9.5 to 90.5%", 4: "15.0 to 85.0%"}  # Wilson's intervals, by hand


def few(answers: int) -> str:
    known = f"50% right may be anything from {FEW[answers]}"
    return f"held out to score: {answers} are few: {known}; hold out more (eval_fraction)"


@pytest.mark.parametrize(
    ("held_out", "settings", "lines"),
    [
        ([UP, DOWN], {}, [few(2), "actions (a): up, down"]),
        (
            [UP, '{"a": "back"}', '{"a": "side"}', '{"b": 1}'],
            {"eval_samples": 0},
            [
                few(4),
                "actions (a): up, down",
                "3 of 4 held-out answers have actions that cannot be chosen: back, side, (unreadable) "
                "(see answer_field and actions)",
                "eval_samples=0: nothing is evaluated on the way, so the last adapter is kept and nothing stops early",
            ],
        ),
        (
            [DOWN],
            {"actions": "up,dwon"},
            [
                few(1),
                "actions (a): up, dwon",
                "1 of 1 held-out answers have actions that cannot be chosen: down (see answer_field and actions)",
            ],
        ),
        ([], {"eval_samples": 0}, []),
    ],
)
def test_what_cannot_be_right_or_will_not_be_measured_is_said_at_the_start(
    held_out: list[str], settings: dict[str, Any], lines: list[str], processor: Any, records: tuple[Record, ...]
) -> None:
    data = Dataset(train=(*answered(records, UP, DOWN, UP),), eval=(*answered(records, *held_out),), split="")
    config = TrainConfig(model="-", data="-", output_dir="-", run_id="-", **settings)
    said: list[str] = []
    measured = build_heldout(processor, data, config, said.append)
    assert sorted(said) == sorted(lines)
    assert len(measured.records) == len(held_out)


def test_answers_have_the_room_that_the_longest_true_one_takes(processor: Any, records: tuple[Record, ...]) -> None:
    long = "why " * 700
    tokens = processor.tokenizer(long, add_special_tokens=False)["input_ids"]
    assert len(tokens) > 600
    assert answer_budget(processor, answered(records, "short", long)) == len(tokens) + 4


@pytest.mark.parametrize("asked", ["up", "up,up", "up,", ","])
def test_actions_that_are_no_choice_are_refused(processor: Any, records: tuple[Record, ...], asked: str) -> None:
    with pytest.raises(ConfigError, match="actions takes auto, or two or more different actions"):
        find_choices(processor, records, "button", asked)


def test_actions_that_no_training_answer_has_are_refused(processor: Any, records: tuple[Record, ...]) -> None:
    some = answered(records, '{"button": "up"}', '{"button": "up"}', '{"button": "a"}')
    with pytest.raises(ConfigError) as caught:
        find_choices(processor, some, "button", "fly,swim")
    assert str(caught.value) == "actions=fly,swim: no training answer has any of them; they have up, a"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny_model", "tiny_qwen"])
def test_scores_are_those_of_whole_sequences_one_at_a_time(
    family: str, records: tuple[Record, ...], request: pytest.FixtureRequest
) -> None:
    """Shared beginnings, several tokens, prompts of several lengths: all as without cache, batch and padding."""
    from transformers import AutoModelForImageTextToText

    from trainer.model.base import load_processor

    folder = request.getfixturevalue(family)
    processor = load_processor(str(folder))
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()
    texts = [["why? " * index, "and then " * (7 - index)] for index in range(4)]
    some = [
        *(
            replace(r, turns=(replace(r.turns[0], parts=(*r.turns[0].parts, " and then" * index)),))
            for index, r in enumerate(records[:7])
        ),
        # After pictures, whose positions must not be left in the model for these.
        *(replace(records[0], turns=(replace(records[0].turns[0], parts=tuple(t)),)) for t in texts),
    ]
    choices = found(processor, records, "up,down,upwards,up the long winding road")
    lengths = {len(rest) for rest in choices.rest}
    assert len(lengths) > 1 and len({rest[0] for rest in choices.rest}) < len(choices.rest)

    wanted = []
    for record in some:
        row = []
        for rest in choices.rest:
            example = encode(processor, record, [*choices.shared, *rest])
            with torch.inference_mode():
                logprobs = model(**example).logits[0].log_softmax(-1)
            places = range(len(logprobs) - 1 - len(rest), len(logprobs) - 1)
            row.append(sum(float(logprobs[p, t]) for p, t in zip(places, rest, strict=True)))
        wanted.append(row)
    assert len({round(value, 3) for row in wanted for value in row}) > 20

    for part, rows in itertools.product(
        (slice(0, 7), slice(7, None)), (12, 3, 1)
    ):  # several batches, and candidates apart
        scores = score_actions(model, processor, some[part], choices, accelerator=ALONE, room=Room(most=rows))
        assert torch.tensor(scores).allclose(torch.tensor(wanted[part]), rtol=1e-4, atol=1e-4)


def test_the_prompt_is_computed_once_a_record(tiny_model: Path, processor: Any, records: tuple[Record, ...]) -> None:
    """In FLOPs: scoring five actions costs little more than one forward pass over the prompts."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tiny_model, attn_implementation="sdpa").eval()
    choices = found(processor, records)
    some = records[:6]
    batch = pad_and_stack([encode(processor, record, choices.shared) for record in some], pad_id=0, side="left")
    with FlopCounterMode(display=False) as once, torch.inference_mode():
        model(**batch, logits_to_keep=1)
    with FlopCounterMode(display=False) as counted:
        score_actions(model, processor, some, choices, accelerator=ALONE)
    assert 1 < counted.get_total_flops() / once.get_total_flops() < 1.1


def test_the_next_records_are_read_while_the_model_works(
    processor: Any, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch ahead, so that a large held-out set does not pile up in memory."""
    begun: list[Record] = []
    changed = threading.Condition()

    def reading(processor: Any, record: Record, behind: Any = ()) -> Any:
        with changed:
            begun.append(record)
            changed.notify_all()
        return encode(processor, record, behind)

    def work(batch: dict[str, torch.Tensor], rows: int) -> list[int]:
        with changed:
            changed.wait_for(lambda: len(begun) >= min(3, len(seen) + 2), timeout=20)
        seen.append(len(begun))
        return [len(seen)]

    seen: list[int] = []
    monkeypatch.setattr("trainer.evaluation.batches.encode", reading)
    model, some = torch.nn.Linear(1, 1), records[:3]
    answers = map_batches(work, model, processor, some, accelerator=ALONE, what="reading", room=Room(most=1))
    assert seen == [2, 3, 3]
    assert [answers[some.index(record)] for record in begun] == [1, 2, 3]
