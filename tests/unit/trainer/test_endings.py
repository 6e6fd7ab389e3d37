"""Where an answer ends: read off the chat template, learned in training, and cut off what is generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_families import qwen_processor

from trainer.data.endings import AnswerEnd, answer_end, describe_end
from trainer.data.examples import Encoder, encode, prompt_and_answer
from trainer.data.inspection import inspect_dataset
from trainer.data.records import Dataset, Record, load_dataset
from trainer.data.tensors import IGNORED
from trainer.data.turns import Turn
from trainer.evaluation.generation import answer_budget
from trainer.evaluation.scoring import Choices, find_choices
from trainer.model.processor import TextProcessor

ANSWERS = ['{"button": "up"}', '{\n "button": "down",\n "why": "é 🙂 </s> <b>"\n}', "up", "a\n\nb", "?"]
END = "{{ '<end_of_turn>\\n' }}"
TEMPLATES = {  # what stands in END's place: for every turn
    "as it is": END,
    "words first": "{{ '\\n--\\n<end_of_turn>' }}",
    "two": "{{ '<end_of_turn><eos>' }}",
    "end of sequence": "{{ eos_token }}",
    "nothing": "",
    "words alone": "{{ '\\n### End\\n' }}",
}
THINKING = "{% if message['role'] == 'assistant' %}{{ '<think>\\n<unk>\\n</think>\\n' }}{% endif %}"


@pytest.fixture(scope="module")
def gemma() -> Any:
    from examples.demo.tiny import build_processor

    return build_processor()


@pytest.fixture
def records(tmp_path: Path) -> tuple[Record, ...]:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "context": "", "question": "Which?", "output": answer} for answer in ANSWERS]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_dataset(str(tmp_path / "d.jsonl"), eval_fraction=0).train


def ended(gemma: Any, end: str, monkeypatch: pytest.MonkeyPatch, before: str = "") -> Any:
    """The processor with a template that ends turns with `end`."""
    template = gemma.chat_template
    assert template.count(END) == 1
    changed = template.replace(END, end)
    if before:
        head = "{{- prefix if loop.first else '' -}}"
        assert head in changed
        changed = changed.replace(head, before + head)
    monkeypatch.setattr(gemma, "chat_template", changed)
    return gemma


def learned(processor: Any, records: tuple[Record, ...]) -> list[list[int]]:
    encoder = Encoder(processor, records)
    examples = [encoder(place) for place in range(len(records))]
    return [e["input_ids"][0][e["labels"][0] != IGNORED].tolist() for e in examples]


@pytest.mark.parametrize("before", ["", THINKING])
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_cut_off_leaves_the_training_answer_to_the_letter(
    name: str, before: str, gemma: Any, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = ended(gemma, TEMPLATES[name], monkeypatch, before)
    end, tokenizer = answer_end(processor), processor.tokenizer
    budget = answer_budget(processor, records)
    for tokens, answer in zip(learned(processor, records), ANSWERS, strict=True):
        assert any(token in end.stop for token in tokens), "training teaches what stops generation"
        stopped = next(place for place, token in enumerate(tokens) if token in end.stop) + 1
        assert stopped <= budget
        padded = [*tokens[:stopped], tokenizer.pad_token_id, tokenizer.pad_token_id]
        assert end.answer(processor, padded) == answer
        # Whatever else would follow, as without the stop.
        assert end.answer(processor, [*tokens, *tokens]) == answer


def test_each_family_stops_where_its_template_ends_a_turn(gemma: Any) -> None:
    ids = gemma.tokenizer.convert_tokens_to_ids
    assert answer_end(gemma) == AnswerEnd(stop=(ids("<end_of_turn>"), ids("<eos>")))
    assert describe_end(gemma) is None
    qwen = qwen_processor(56 * 56)
    assert answer_end(qwen) == AnswerEnd(stop=(qwen.tokenizer.convert_tokens_to_ids("<|im_end|>"),))


@pytest.mark.parametrize("name", ["nothing", "words alone"])
def test_an_end_that_the_template_lacks_is_learned_counted_and_said(
    name: str, gemma: Any, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = ended(gemma, TEMPLATES[name], monkeypatch)
    eos = processor.tokenizer.eos_token_id
    assert answer_end(processor).stop == (eos,)
    tokens = learned(processor, records)
    assert all(one[-1] == eos and one.count(eos) == 1 for one in tokens)
    assert all(prompt_and_answer(processor, record)[1].endswith("<eos>") for record in records)
    counted = inspect_dataset(Dataset(train=records, eval=(), split=""), processor, max_length=999).checked["train"]
    assert [found.supervised for found in counted] == list(map(len, tokens))
    assert describe_end(processor) == (
        "the chat template puts no end of turn behind an answer: <eos> is learned there, and ends answers"
    )
    plain = find_choices(processor, records[2:], None)
    assert isinstance(plain, Choices)
    assert {plain.shared + rest for rest in plain.rest} == {tuple(one) for one in tokens[2:]} or name != "nothing"


def test_a_model_that_cannot_learn_to_stop_is_said() -> None:
    from examples.demo.tiny import build_processor

    processor = build_processor()
    processor.chat_template = processor.chat_template.replace(END, "")
    processor.tokenizer.eos_token = None
    assert describe_end(processor) == (
        "neither chat template nor tokenizer has an end for answers: the model will not learn to stop"
    )


def test_a_template_that_refuses_is_said_and_one_that_wants_a_picture_is_asked_with_one(
    gemma: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wants = "{% if messages[0]['content'][0]['type'] != 'image' %}{{ raise_exception('no picture') }}{% endif %}"
    plain, template = answer_end(gemma), gemma.chat_template
    monkeypatch.setattr(gemma, "chat_template", wants + template)
    assert answer_end(gemma) == plain
    monkeypatch.setattr(gemma, "chat_template", "{{ raise_exception('never\n again') }}")
    assert describe_end(gemma) == "the chat template refuses a plain question with its answer: never again"


REWRITTEN = {  # what stands in the template in place of what, and the text that is lost
    "the system turn is left out": ("{{- prefix if loop.first else '' -}}", "", " be brief"),
    "the second text of a turn is left out": (
        "in message['content'] -%}", "in message['content'][:1] -%}", "tell me now"),
    "a word of the question is another": (
        "item['text'] | trim", "item['text'] | trim | replace('way', 'path')", "Which  way?\n"),
    "thoughts are taken out of the answer": (
        "{{ message['content'] | trim }}", "{{ message['content'].split('</think>')[-1] }}", "<think>so</think>up"),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_record_whose_words_the_template_does_not_show_is_left_out_and_they_are_named(
    name: str, gemma: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training would go on without a word about it. Spaces may go: Gemma's own template trims them."""
    where, instead, lost = REWRITTEN[name]
    turns = (
        Turn(role="system", parts=(" be brief",)),
        Turn(role="user", parts=("Which  way?\n", "tell me now", "\n ")),
        Turn(role="assistant", parts=("<think>no</think>left",)),
        Turn(role="user", parts=("And now?",)),
    )
    record = Record(turns=turns, answer="<think>so</think>up", session="")
    template = gemma.chat_template.replace("item['text'] | trim }}", "(item['text'] | trim) + ' ' }}")
    if "answer" in name:  # as a template does that takes plain texts alone from the assistant
        template = template.replace("{%- for item in message['content'] -%}", "{%- for item in message['content'] "
                                    "if message['role'] != 'assistant' -%}")  # fmt: skip
    monkeypatch.setattr(gemma, "chat_template", template)
    data = Dataset(train=(record,), eval=(), split="")
    assert inspect_dataset(data, gemma, max_length=999).left_out() == []
    assert where in template
    monkeypatch.setattr(gemma, "chat_template", template.replace(where, instead))
    (found,) = inspect_dataset(data, gemma, max_length=999).checked["train"]
    said = f"the chat template leaves out, or writes otherwise, what the record says: {lost!r}"
    assert (found.reason, found.detail.strip()) == ("the chat template refuses it", said)


def word_marking() -> TextProcessor:
    """A tokenizer that puts a mark before the first word of whatever it encodes, as sentencepiece does, and that would
    merge the end of the prompt with the beginning of an answer."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({*"▁\n", *map(chr, range(33, 127))})
    words = ["<unk>", "</s>", *letters, "▁{", ":{", ":u", "up"]
    merges = [("▁", "{"), (":", "{"), (":", "u"), ("u", "p")]
    made = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=merges, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", pad_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = (
        "{% for turn in messages %}{% if turn['role'] == 'user' %}{{ 'Q:' + turn['content'] + '\nA:' }}"
        "{% else %}{{ turn['content'] + '</s>' }}{% endif %}{% endfor %}"
    )
    return TextProcessor(tokenizer)


def test_what_is_learned_stands_behind_the_very_tokens_that_are_asked() -> None:
    """As one text, prompt and answer would share a token, which no answer to that prompt could ever begin with."""
    processor = word_marking()
    said = ('{"button": "up"}', "up", '{"button": "a"}')
    question = (Turn(role="user", parts=("Which?",)),)
    records = tuple(Record(turns=question, answer=answer, session="") for answer in said)
    for record in records:
        asked = encode(processor, record)["input_ids"][0].tolist()
        (tokens,) = learned(processor, (record,))
        assert Encoder(processor, (record,))(0)["input_ids"][0].tolist() == [*asked, *tokens]
        (whole,) = processor(text=["".join(prompt_and_answer(processor, record))])["input_ids"]
        assert whole[: len(asked)] != asked
        assert answer_end(processor).answer(processor, tokens) == record.answer
    choices = find_choices(processor, (records[0], records[2]), "button")
    assert isinstance(choices, Choices)
    for action, rest in zip(choices.actions, choices.rest, strict=True):
        (tokens,) = learned(processor, tuple(record for record in records if f'"{action}"' in record.answer))
        candidate = [*choices.shared, *rest]
        assert tokens[: len(candidate)] == candidate
