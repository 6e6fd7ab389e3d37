"""How much is evaluated at once: what the free memory holds, half of it when that was too much, and never more logits
than those that count."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scored import ALONE, found
from short_of_memory import room_for_two
from training import run_forked

from trainer.data.endings import AnswerEnd
from trainer.data.records import Record, load_dataset
from trainer.evaluation import batches, memory
from trainer.evaluation.generation import generate_answers
from trainer.evaluation.rows import (
    FP32_BYTES,
    LOGIT_BYTES,
    SCORED_POSITIONS,
    Asked,
    Room,
    Sizes,
    needed_bytes,
    parts,
    rows_that_fit,
)
from trainer.evaluation.scoring import Choices, score_actions
from trainer.node import cgroups
from trainer.outcome import SickNode, is_out_of_memory

GIB = 1024**3
# Gemma 3 4B in bf16, four frames as one picture, 1,024 tokens.
GEMMA = Sizes(
    layers=34, hidden=2560, mlp=10_240, q_width=2048, kv_width=1024, vocab=262_208, vision_hidden=1152, vision_mlp=4304,
    width=2,
)  # fmt: skip
PROMPT = Asked(tokens=1024, patches=4096, written=128)
SCORED = replace(PROMPT, written=0, candidates=(63,) * 60)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(tiny_model, attn_implementation="sdpa").eval()


@pytest.fixture(scope="module")
def processor(tiny_model: Path) -> Any:
    from trainer.model.base import load_processor

    return load_processor(str(tiny_model))


@pytest.fixture(scope="module")
def records(walks: Path) -> tuple[Record, ...]:
    return load_dataset(str(walks)).train[:9]


@pytest.fixture(scope="module")
def choices(processor: Any, walks: Path) -> Choices:
    return found(processor, load_dataset(str(walks)).train, "up,down,upwards,up the long winding road")


def test_keys_and_values_of_a_row_are_what_the_cache_holds() -> None:
    """2 x layers x key heads x head size x tokens x 2 bytes: 0.133 GiB for 1,024 tokens of Gemma 3 4B."""
    assert GEMMA.kept(1024) == 2 * 34 * 4 * 256 * 1024 * 2
    assert round(GEMMA.kept(1024) / GIB, 3) == 0.133
    assert parts(GEMMA, PROMPT, 32)["keys and values"] == 32 * GEMMA.kept(1024 + 128)


def test_scoring_holds_the_prompt_a_copy_for_each_candidate_and_a_few_logits() -> None:
    one = parts(GEMMA, SCORED, 1)
    assert one["keys and values"] == GEMMA.kept(1024) + GEMMA.kept(1024 + 62)
    assert one["logits"] == 62 * 262_208 * LOGIT_BYTES
    all_at_once = parts(GEMMA, SCORED, 32)
    assert all_at_once["keys and values"] == GEMMA.kept(1024) + 32 * GEMMA.kept(1024 + 62)
    assert all_at_once["logits"] == SCORED_POSITIONS * 262_208 * LOGIT_BYTES
    # 60 x 62 positions at once, as fp32 alone, would be:
    assert 60 * 62 * 262_208 * FP32_BYTES > 3.6 * GIB > needed_bytes(GEMMA, SCORED, 1)


@pytest.mark.parametrize("asked", [PROMPT, SCORED, replace(SCORED, candidates=(1, 1)), replace(PROMPT, tokens=8192)])
def test_more_rows_never_need_less(asked: Asked) -> None:
    needs = [needed_bytes(GEMMA, asked, rows) for rows in range(1, 33)]
    assert needs == sorted(needs) and needs[0] < needs[-1]


@pytest.mark.parametrize("rows", [2, 5, 31, 32])
def test_as_many_rows_as_the_free_memory_holds(rows: int) -> None:
    """Four parts of five are used; one byte less is one row less."""

    def need(count: int) -> int:
        return needed_bytes(GEMMA, PROMPT, count)

    enough = -(-need(rows) * 5 // 4) + 1
    assert rows_that_fit(enough, need) == rows
    assert rows_that_fit(enough - 4, need) == rows - 1


def test_32_rows_at_most_or_as_many_as_10240_tokens_and_never_less_than_one() -> None:
    """A card of 180 GiB holds more: a stop waits for a batch, and one of so many tokens is quick."""
    short = replace(PROMPT, tokens=65, written=15)
    asked = [PROMPT, SCORED, replace(PROMPT, tokens=311, written=9), replace(PROMPT, tokens=310, written=0), short]
    assert [one.most_rows for one in asked] == [32, 32, 32, 33, 128]
    assert replace(short, written=0, candidates=(2, 63, 3)).most_rows == 80
    assert rows_that_fit(10**15, lambda rows: rows, short.most_rows) == 128
    assert rows_that_fit(10**15, lambda rows: rows) == 32
    assert rows_that_fit(0, lambda rows: rows) == rows_that_fit(-5, lambda rows: rows) == 1


class Watched:
    """A model in which the sequences of each pass, and the positions that go through the head, are counted."""

    def __init__(self, model: Any) -> None:
        self.sequences: list[int] = []
        self.positions: list[int] = []
        self.hooks = [
            model.get_input_embeddings().register_forward_pre_hook(self._embed),
            model.get_output_embeddings().register_forward_pre_hook(self._head),
        ]

    def _embed(self, _: Any, arguments: Any) -> None:
        self.sequences.append(len(arguments[0]))

    def _head(self, _: Any, arguments: Any) -> None:
        self.positions.append(arguments[0].shape[:-1].numel())

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "sequences"), [(32, [8, 32, 1, 4]), (9, [2, 8] * 4 + [1, 4]), (3, [1, 3, 1] * 9)])
def test_candidates_share_the_rows_and_only_their_own_tokens_have_logits(
    rows: int, sequences: list[int], model: Any, processor: Any, records: Sequence[Record], choices: Choices
) -> None:
    with Watched(model) as seen:
        score_actions(model, processor, records, choices, accelerator=ALONE, room=Room(most=rows))
    assert seen.sequences == sequences
    counted = sum(len(rest) - 1 for rest in choices.rest)
    assert sum(seen.positions) == len(records) * (1 + counted)
    assert max(seen.positions) <= SCORED_POSITIONS


@pytest.mark.slow
@pytest.mark.parametrize(("free", "sequences"), [(10**12, 9), (1, 1)])
def test_the_rows_are_those_that_are_free_where_the_model_is(
    free: int, sequences: int, model: Any, processor: Any, records: Sequence[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "free_bytes", lambda device: free)
    with Watched(model) as seen:
        answers = generate_answers(model, processor, records, accelerator=ALONE, budget=2)
    assert max(seen.sequences) == sequences and len(answers) == len(records)


def test_answers_are_generated_greedily_with_a_cache(
    model: Any, processor: Any, records: Sequence[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def generate(**given: Any) -> torch.Tensor:
        asked.update({name: value for name, value in given.items() if not isinstance(value, torch.Tensor)})
        return torch.nn.functional.pad(given["input_ids"], (0, 2), value=tokenizer.eos_token_id)

    tokenizer = processor.tokenizer
    monkeypatch.setattr(model, "generate", generate)
    answers = generate_answers(
        model, processor, records[:2], accelerator=ALONE, budget=7, end=AnswerEnd(stop=(tokenizer.eos_token_id,))
    )
    assert answers == ["", ""]
    assert asked == {
        "max_new_tokens": 7, "do_sample": False, "use_cache": True, "top_k": None, "top_p": None, "synced_gpus": False,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": [tokenizer.eos_token_id],
        "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["tiny_model", "tiny_qwen"])
def test_what_a_record_costs_is_read_off_its_tensors_and_the_model(
    family: str, records: Sequence[Record], request: pytest.FixtureRequest
) -> None:
    from transformers import AutoModelForImageTextToText

    from trainer.model.base import load_processor

    folder = request.getfixturevalue(family)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    example = batches.encode(load_processor(str(folder)), records[0], [70, 71])
    sizes, asked = memory.cost_of(model, example, 7, [2, 3])
    worked_on: list[int] = []
    tower = next(module for name, module in model.named_modules() if name.endswith(("vision_tower", "visual")))
    layer = next(module for name, module in tower.named_modules() if name.endswith((".layers.0", "blocks.0")))
    layer.register_forward_pre_hook(lambda _, given: worked_on.append(given[0].shape[:-1].numel()))
    with torch.inference_mode():
        cache = model(**example, use_cache=True).past_key_values
    assert asked == Asked(tokens=example["input_ids"].shape[1], patches=worked_on[0], written=7, candidates=(2, 3))
    held = sum(tensor.untyped_storage().nbytes() for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert sizes.kept(asked.tokens) == held


def out_of_memory(model: Any, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let more than `most` sequences at once run out of memory in the last layer; returns the sequences of each try."""
    layer, tries = model.base_model.language_model.layers[-1], []
    run = layer.forward

    def forward(states: Any, *args: Any, **kwargs: Any) -> Any:
        tries.append(len(states))
        if len(states) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore about that.")
        return run(states, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", forward)
    return tries


@pytest.mark.slow
def test_scores_are_the_same_when_memory_runs_out_on_the_way(
    model: Any, processor: Any, records: Sequence[Record], choices: Choices, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    wanted = score_actions(model, processor, records, choices, accelerator=ALONE)
    room = Room()
    tries = out_of_memory(model, 5, monkeypatch)
    scores = score_actions(model, processor, records, choices, accelerator=ALONE, room=room)
    assert torch.tensor(scores).allclose(torch.tensor(wanted), rtol=0, atol=1e-5)
    assert room.most == 4 and max(tries) == 16  # prompts of 8 first, and then four candidates behind each of four
    said = [f"trainyard: scoring: memory ran out with {n} sequences at once, {n // 2} from now on" for n in (36, 18, 9)]
    assert capsys.readouterr().err.splitlines() == said
    # What did not fit once is not tried again.
    tries.clear()
    assert score_actions(model, processor, records, choices, accelerator=ALONE, room=room) == scores
    assert max(tries) == 4 and capsys.readouterr().err == ""


@pytest.mark.slow
def test_answers_are_the_same_when_memory_runs_out_on_the_way(
    model: Any, processor: Any, records: Sequence[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = generate_answers(model, processor, records, accelerator=ALONE, budget=3)
    tries = out_of_memory(model, 2, monkeypatch)
    assert generate_answers(model, processor, records, accelerator=ALONE, budget=3) == wanted
    assert tries[:3] == [9, 4, 2]


@pytest.mark.slow
def test_a_models_generation_config_makes_no_more_of_a_sequence(
    model: Any, processor: Any, records: Sequence[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 1000 beams, as anybody's generation_config.json may say, each sequence takes a thousand times its memory."""
    wanted = generate_answers(model, processor, records[:2], accelerator=ALONE, budget=3)
    asked: list[dict[str, Any]] = [{"num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True}]
    asked += [
        {"max_time": 1e-9},
        {"stop_strings": ["u"]},
        {"dola_layers": "high"},
        {"cache_implementation": "quantized"},
    ]
    asked += [{"prefill_chunk_size": 0}, {"token_healing": True}]
    for said in asked:
        with monkeypatch.context() as patched:
            for name, value in said.items():
                patched.setattr(model.generation_config, name, value)
            assert generate_answers(model, processor, records[:2], accelerator=ALONE, budget=3) == wanted, said


@pytest.mark.slow
def test_one_sequence_that_does_not_fit_is_one_line(
    model: Any, processor: Any, records: Sequence[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory(model, 0, monkeypatch)
    with pytest.raises(SickNode) as caught:
        generate_answers(model, processor, records, accelerator=ALONE, budget=3)
    assert caught.value.args[0] == (
        "answering: memory ran out with one sequence at once (OutOfMemoryError: CUDA out of memory. Tried to allocate "
        "2.00 GiB.): it takes more memory (VRAM=, on the CPU MEM=) or shorter records (MAX_LENGTH=)"
    )
    assert is_out_of_memory(caught.value)  # find-batch-size takes it for what it is
    assert not model.training


def test_an_error_of_another_kind_is_not_tried_again(
    model: Any, processor: Any, records: Sequence[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: Any, **__: Any) -> Any:
        raise ValueError("shapes differ")

    monkeypatch.setattr(model.base_model.language_model.layers[-1], "forward", forward)
    with pytest.raises(ValueError, match="shapes differ"):
        generate_answers(model, processor, records, accelerator=ALONE, budget=3)


def test_the_host_has_what_is_available_to_each_process_and_within_its_limits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import psutil

    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    available = memory.free_bytes(torch.device("cpu"))
    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.free_bytes(torch.device("cpu")) == pytest.approx(available / 4, rel=0.2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    # A control group of 300 MiB, of which 200 are held, 50 of them files that can go.
    for name, text in {"max": 300 << 20, "current": 200 << 20, "stat": f"anon 5\ninactive_file {50 << 20}\n"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}")
    assert memory.free_bytes(torch.device("cpu")) == 150 << 20
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + (60 << 20), before[1]))
        assert memory.free_bytes(torch.device("cpu")) == pytest.approx(60 << 20, rel=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def shared_out(folder: str, data: str, log: str, together: bool) -> int:
    """Score and answer on this rank; the second one has memory for two sequences at once."""
    from accelerate import Accelerator
    from transformers import AutoModelForImageTextToText

    from trainer.model.base import load_processor

    accelerator, processor = Accelerator(cpu=True), load_processor(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()
    train = load_dataset(data).train
    choices = found(processor, train, "up,down,upwards,up the long winding road")
    with pytest.MonkeyPatch.context() as patched:
        tries = out_of_memory(model, 2 if accelerator.process_index and not together else 99, patched)
        if together:  # as under ZeRO-3, where a process that falls out of a pass would leave the others waiting
            patched.setattr(batches, "must_run_in_lockstep", lambda accelerator: True)
            room_for_two()
        with Watched(model) as seen:
            scores = score_actions(model, processor, train[:7], choices, accelerator=accelerator)
            answers = generate_answers(model, processor, train[:7], accelerator=accelerator, budget=3)
    report = {"scores": scores, "answers": answers, "passes": len(tries), "heads": len(seen.positions)}
    Path(f"{log}-{accelerator.process_index}").write_text(json.dumps(report))
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_all_ranks_go_down_together_when_one_has_less_memory(
    together: bool, tiny_model: Path, walks: Path, tmp_path: Path, model: Any, processor: Any, choices: Choices
) -> None:
    log = tmp_path / "found"
    ended = run_forked(tmp_path, shared_out, str(tiny_model), str(walks), str(log), together, world_size=2)
    assert ended.codes == (0, 0), ended.output
    first, second = (json.loads(Path(f"{log}-{rank}").read_text()) for rank in (0, 1))
    some = load_dataset(str(walks)).train[:7]
    wanted = score_actions(model, processor, some, choices, accelerator=ALONE)
    answers = generate_answers(model, processor, some, accelerator=ALONE, budget=3)
    for each in (first, second):
        assert torch.tensor(each["scores"]).allclose(torch.tensor(wanted), rtol=0, atol=1e-5)
        assert each["answers"] == answers
    said = [line for line in ended.output.splitlines() if "memory ran out" in line]
    assert len(said) > 2 and len(set(said)) == len(said)
    if together:
        assert (first["passes"], first["heads"]) == (second["passes"], second["heads"])
