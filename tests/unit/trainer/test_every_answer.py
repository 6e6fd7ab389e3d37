"""All answers of a conversation are learned in one forward pass: the very tokens of the answers and their ends, in
three families; what a template does not allow is learned one answer at a time, and said."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from trainer.config import TrainConfig
from trainer.data.examples import Encoder, Rewritten, describe_example, load_pictures, render
from trainer.data.inspection import inspect_dataset
from trainer.data.records import Dataset, Record, each_answer, load_dataset
from trainer.data.tensors import IGNORED
from trainer.evaluation.heldout import build_heldout
from trainer.model import base as models

FAMILIES = {
    "tiny_model": ("<start_of_turn>model\n", "<end_of_turn>\n"),
    "tiny_qwen": ("<|im_start|>assistant\n", "<|im_end|>\n"),
    "tiny_idefics": ("Assistant:", "<end_of_utterance>\n"),
}
ANSWERS = ('{"button": "up"}', "wait", '{"button": "down"}', '{"button": "a"}')
CONFIG = TrainConfig(model="-", data="-", output_dir="-", run_id="-", quantization="none")


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four answers, the second of which is only shown; two pictures in one turn, none in another."""
    folder = tmp_path_factory.mktemp("episode")
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green")):
        Image.new("RGB", (56, 56), colour).save(folder / f"{name}.png")
    asked = ("<image>and <image> now?", "why?", "<image>", "and then? ")
    turns = []
    for said, answer in zip(asked, ANSWERS, strict=True):
        turns += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
    turns[3]["weight"] = 0
    entry = {"messages": turns, "images": ["a.png", "b.png", "c.png"], "session": "s"}
    other = {"messages": turns[:2], "images": ["a.png", "c.png"], "session": "t"}
    (folder / "d.jsonl").write_text(json.dumps(entry) + "\n" + json.dumps(other) + "\n")
    return folder / "d.jsonl"


@pytest.fixture(scope="module")
def records(episode: Path) -> tuple[Record, ...]:
    return load_dataset(str(episode), eval_fraction=0).train


def plain_turns(record: Record) -> list[dict[str, Any]]:
    """What a reader of the file alone would hand to apply_chat_template."""
    turns = [
        {
            "role": t.role,
            "content": [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in t.parts],
        }
        for t in record.turns
    ]
    return [*turns, {"role": "assistant", "content": [{"type": "text", "text": record.answer}]}]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_learned_tokens_are_the_answers_and_their_ends(
    request: pytest.FixtureRequest, family: str, records: tuple[Record, ...]
) -> None:
    processor = models.load_processor(str(request.getfixturevalue(family)))
    record, (before, end) = records[0], FAMILIES[family]
    example = Encoder(processor, records)(0)
    ids, learned = example["input_ids"][0], example["labels"][0] != IGNORED

    text = processor.apply_chat_template(plain_turns(record), tokenize=False)
    spans, start = [], 0
    for answer in ANSWERS:
        start = text.index(before + answer + end, start) + len(before)
        spans.append((start, start + len(answer + end)))
    del spans[1]  # which is only shown
    found = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = list(zip(found["input_ids"], found["offset_mapping"], strict=True))
    wanted = [[token for token, (a, b) in pairs if start <= a < b <= stop] for start, stop in spans]
    assert ids[learned].tolist() == [token for span in wanted for token in span]
    assert processor.tokenizer.decode(ids[learned]) == "".join(a + end for a in ANSWERS if a != "wait")
    assert torch.equal(example["labels"][0][learned], ids[learned])
    # Three runs, with something masked before each; all else is what the plain processor makes of the whole text.
    parts = describe_example(processor, example).splitlines()
    assert [part.split(" ")[0] for part in parts] == ["masked", "trained"] * 3
    plain = processor(text=[text], images=[load_pictures(record)], add_special_tokens=False, return_tensors="pt")
    assert {key: tensor.tolist() for key, tensor in example.items() if key != "labels"} == {
        key: tensor.tolist() for key, tensor in plain.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_forward_learns_what_one_forward_an_answer_would(
    request: pytest.FixtureRequest, family: str, records: tuple[Record, ...]
) -> None:
    config = replace(CONFIG, model=str(request.getfixturevalue(family)))
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    model = models.load_base(config, anatomy, dtype=torch.float32, device_map=None).eval()
    processor = models.load_processor(config.model)

    def losses(some: tuple[Record, ...]) -> torch.Tensor:
        batch = Encoder(processor, some).collate([{"index": index} for index in range(len(some))])
        positions, targets = batch.pop("loss_positions"), batch.pop("loss_targets")
        del batch["labels"]
        with torch.no_grad():
            logits = model(**batch).logits.flatten(0, 1)[positions]
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")

    together, apart = losses(records), losses(each_answer(records))
    assert len(together) == len(apart) > 30
    assert torch.allclose(together, apart, atol=2e-4)


@pytest.fixture(scope="module")
def thoughtful(tiny_qwen: Path) -> Any:
    """A processor whose template takes the thoughts out of all answers but the last."""
    processor = models.load_processor(str(tiny_qwen))
    said = "item['text']"
    kept = f"({said}.split('</think>')[-1] if message.role == 'assistant' and not loop_last else {said})"
    template = processor.chat_template or processor.tokenizer.chat_template
    template = template.replace(
        "{%- for message in messages -%}", "{%- for message in messages -%}{%- set loop_last = loop.last -%}"
    )
    processor.chat_template = template.replace(f"else {said}", f"else {kept}")
    return processor


def thinking(record: Record) -> Record:
    turns = tuple(replace(t, parts=("<think>hm</think>go",)) if t.role == "assistant" else t for t in record.turns)
    return replace(record, turns=turns, answer="<think>so</think>stop")


def test_what_a_template_rewrites_is_learned_one_answer_at_a_time_and_said(
    thoughtful: Any, records: tuple[Record, ...]
) -> None:
    plain, record = records[1], thinking(records[0])
    assert render(thoughtful, plain)[1] == [ANSWERS[0] + "<|im_end|>\n"]
    with pytest.raises(Rewritten):
        render(thoughtful, record)
    inspection = inspect_dataset(Dataset(train=(plain, record), eval=(), split=""), thoughtful, max_length=2000)
    assert inspection.notes() == [
        "1 records are learned one answer at a time, each behind what was said before it: in later turns the chat "
        "template renders earlier answers otherwise, or without their end"
    ]
    kept = inspection.kept().train
    assert kept == (plain, *each_answer([record]))
    encoder = Encoder(thoughtful, kept)
    for index, answer in enumerate((ANSWERS[0], "<think>hm</think>go", "<think>hm</think>go", "<think>so</think>stop")):
        masked, trained = describe_example(thoughtful, encoder(index)).splitlines()
        assert trained.endswith(repr(answer + "<|im_end|>\n"))
        assert "hm" not in masked
    lengths = [(c.tokens, c.supervised) for c in inspection.checked["train"]]
    assert lengths == [(e["input_ids"].shape[1], int((e["labels"] != IGNORED).sum())) for e in map(encoder, range(4))]


def test_every_held_out_answer_is_asked_behind_the_true_turns_before_it(
    tiny_qwen: Path, records: tuple[Record, ...]
) -> None:
    processor, lines = models.load_processor(str(tiny_qwen)), list[str]()
    dataset = Dataset(train=records, eval=records, split="")
    held_out = build_heldout(processor, dataset, replace(CONFIG, eval_samples=3), lines.append)
    assert lines[:2] == [
        "held out to score: 4 answers of 2 records",
        "held out to score: 4 are few: 50% right may be anything from 15.0 to 85.0%; hold out more (eval_fraction)",
    ]
    assert [record.answer for record in held_out.records] == [ANSWERS[0], ANSWERS[2], ANSWERS[3], ANSWERS[0]]
    assert [len(record.turns) for record in held_out.records] == [1, 5, 7, 1]
    assert len(held_out.answered) == 3
    assert held_out.choices is not None
    assert set(held_out.choices.actions) == {"up", "down", "a"}


def test_lengths_and_leaks_are_those_of_all_answers(tiny_qwen: Path, records: tuple[Record, ...]) -> None:
    processor = models.load_processor(str(tiny_qwen))
    long, short = records
    cut = replace(long, turns=long.turns[:5], answer=ANSWERS[2])
    dataset = Dataset(train=(short, cut, long), eval=(long,), split="")
    inspection = inspect_dataset(replace(dataset, eval=()), processor, max_length=2000)
    examples = map(Encoder(processor, dataset.train), range(3))
    assert [(c.tokens, c.supervised) for c in inspection.checked["train"]] == [
        (e["input_ids"].shape[1], int((e["labels"] != IGNORED).sum())) for e in examples
    ]
    # A beginning of a held-out conversation is all there in it, and so is the reverse.
    for train, eval_, reason in (
        (cut, long, "also among the held-out records"),
        (long, cut, "also among the held-out records"),
        (short, long, None),
    ):
        dataset = Dataset(train=(train,), eval=(eval_,), split="")
        assert inspect_dataset(dataset, processor, max_length=2000).checked["train"][0].reason == reason
    other = replace(long, turns=(*long.turns[:2], *long.turns[4:]))
    notes = inspect_dataset(Dataset(train=(long,), eval=(other,), split=""), processor, max_length=2000).notes()
    assert notes == [
        "1 of 3 held-out answers follow the same pictures and words as training answers, as where conversations begin "
        "alike",
        "3 of 3 held-out pictures are shown in training too, pixel for pixel: scores say less about pictures that are "
        "new",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_labels_of_an_episode_of_fifteen_turns_are_its_fifteen_answers_and_their_ends(
    request: pytest.FixtureRequest, family: str, episode: Path, tmp_path: Path
) -> None:
    answers = [json.dumps({"button": "abxy"[n % 4], "step": n}) for n in range(15)]
    turns = [
        {"role": role, "content": text}
        for n, answer in enumerate(answers)
        for role, text in (("user", f"<image>step {n}: which?"), ("assistant", answer))
    ]
    entry = {"messages": turns, "images": [str(episode.parent / f"{'abc'[n % 3]}.png") for n in range(15)]}
    (tmp_path / "d.jsonl").write_text(json.dumps(entry) + "\n")
    records = load_dataset(str(tmp_path / "d.jsonl"), eval_fraction=0).train
    processor = models.load_processor(str(request.getfixturevalue(family)))
    example, (_, end) = Encoder(processor, records)(0), FAMILIES[family]
    ids, labels = example["input_ids"][0].tolist(), example["labels"][0].tolist()
    pairs = groupby(zip(ids, labels, strict=True), lambda pair: pair[1] != IGNORED)
    runs = [[token for token, _ in run] for learned, run in pairs if learned]
    assert runs == [processor.tokenizer(answer + end, add_special_tokens=False)["input_ids"] for answer in answers]
    assert [token for token in labels if token != IGNORED] == [token for run in runs for token in run]
