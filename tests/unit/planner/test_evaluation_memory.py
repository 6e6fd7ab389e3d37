"""What an evaluation takes is part of the plan: worked out by hand for Gemma 3, and decisive where it is the most."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from specs import known_shape, make_spec

from planner.choose import choose
from planner.job import JobSpec
from planner.memory.estimate import estimate
from planner.memory.evaluation import sizes
from planner.plan import Estimate
from planner.request.resolve import resolve
from planner.table import plan_table
from trainer.evaluation.rows import Asked, needed_bytes, rows_that_fit
from trainer.outcome import ConfigError
from trainer.text import GIB

SMOL = "HuggingFaceTB/SmolVLM-Instruct"
ANSWERED = Asked(tokens=1024, patches=4096, written=132)


def low_mem(spec: JobSpec) -> Estimate:
    return estimate(
        spec, config="single_gpu_low_mem", checkpointing=True, offload=False, optimizer="paged_adamw_8bit",
        micro_batch_size=1,
    )  # fmt: skip


def test_an_evaluation_of_gemma_3_4b_by_hand() -> None:
    """QLoRA r=64, 1,024 tokens of which an answer is 128; one record and one candidate at a time.

    h=2560, f=10240, q=2048, kv=1024, 34 layers, V=262208; bytes:
      keys and values     2 x 34 x 1024 x 2 a token; the prompt's 1024, and a copy with the candidate's 127 more
      logits              64 positions x V x 16
      forward of a layer  127 tokens x (16h + 2 x (5f + 2q + 2kv)) that see 1151: 4q + 4kv each; 4 a pair in the masks
      autocast copies     2 x 119,209,984;  LoRA weights 4 x, 8-bit AdamW (2 + 1/32) x; no gradients between two steps
      written out         one linear, h x f x 2
    """
    found = dict(low_mem(make_spec()).evaluation)
    assert found["keys and values"] == 2 * 34 * 1024 * 2 * (1024 + 1024 + 127) == 302_899_200
    assert found["logits"] == 64 * 262_208 * 16 == 268_500_992
    layer = 127 * (16 * 2560 + 2 * (5 * 10_240 + 2 * 2048 + 2 * 1024)) + 1151 * 4 * (2048 + 1024) + 4 * 127 * 1151
    assert found["forward of a layer"] == layer == 34_495_492
    assert found["autocast copies"] == 2 * 119_209_984
    assert found["written out of 4 bits"] == 2560 * 10_240 * 2
    weights = 1_604_321_280 + 50_918_400 + 1_343_241_216 + 839_632_608
    adapters = 4 * 119_209_984 + 119_209_984 * 65 // 32
    beside = 302_899_200 + 268_500_992 + 34_495_492 + 238_419_968 + 52_428_800
    assert sum(found.values()) == pytest.approx((weights + adapters + beside) * 1.03 + 564 * 1024**2, abs=1)
    assert "gradients" not in found


@pytest.mark.parametrize(
    ("model", "vram", "evaluation", "step", "micro", "rows"),
    [
        # GiB:                    weights LoRA 8-bit copies | keys, layer, logits, linear | x 1.03, context 0.55
        #                            3.58 0.44  0.23   0.22 | 0.28   0.03    0.25    0.05 | 5.08
        ("google/gemma-3-4b-it", 8.0, 5.78, 6.06, 4, 5),
        #                            7.83 0.98  0.50   0.49 | 0.80   0.06    0.25    0.11 | 11.0
        ("google/gemma-3-12b-it", 16.0, 11.88, 12.3, 4, 4),
        #                           15.72 1.69  0.86   0.85 | 1.03   0.07    0.25    0.22 | 20.7
        ("google/gemma-3-27b-it", 32.0, 21.84, 22.94, 4, 8),
    ],
)
def test_gemma_3_fits_where_one_record_at_a_time_does_and_evaluates_as_many_as_that_card_holds(
    model: str, vram: float, evaluation: float, step: float, micro: int, rows: int
) -> None:
    """On each of these cards 32 records at once would not have fitted beside what training keeps."""
    spec = make_spec(model, vram_gib=vram)
    found = low_mem(spec)
    assert (round(found.evaluation_bytes / GIB, 2), round(found.step_bytes / GIB, 2)) == (evaluation, step)
    chosen = choose(spec).chosen
    assert (chosen.label, chosen.fits, chosen.micro_batch_size) == ("single_gpu_low_mem", True, micro)
    beside = {"keys and values", "forward of a layer", "logits", "written out of 4 bits", "allocator rounding"}
    kept = sum(size for name, size in found.evaluation if name not in beside)
    need = partial(needed_bytes, sizes(spec.shape, width=2), ANSWERED)
    assert rows_that_fit(chosen.usable_bytes - kept, need) == rows
    assert need(32) + kept > vram * GIB
    assert rows_that_fit(80 * GIB - kept, need) == 32


@pytest.mark.parametrize(("model", "vram"), [("4b", 6.0), ("12b", 12.0), ("27b", 24.0)])
def test_gemma_3_is_refused_on_the_next_smaller_card(model: str, vram: float) -> None:
    with pytest.raises(ConfigError, match="even with single_gpu_low_mem at micro-batch 1"):
        choose(make_spec(f"google/gemma-3-{model}-it", vram_gib=vram))


def test_a_job_fits_only_if_its_evaluation_does() -> None:
    """SmolVLM has as many key heads as query heads: at 4,096 tokens two copies of their keys and values are more than
    a step with recomputed activations takes."""
    spec = make_spec(SMOL, max_length=4096, lora_r=32, lora_dropout=0.0, vram_gib=4.8, images_per_sample=0)
    found = low_mem(spec)
    assert found.step_bytes < int(4.8 * GIB * 0.92) < found.evaluation_bytes == found.peak_bytes
    with pytest.raises(ConfigError, match=r"SmolVLM-Instruct needs 4\.58 GiB a GPU .* usable are 4\.42 of 4\.8 GiB"):
        choose(spec)
    without = choose(spec.but(evaluates=False))
    assert without.chosen.fits and without.chosen.estimate.evaluation == ()
    assert "evaluation" not in plan_table(without)


@pytest.mark.parametrize("config", ["single_gpu", "multi_gpu", "deepspeed_zero3", "cpu_mps"])
def test_longer_records_larger_adapters_and_more_pictures_never_take_less(config: str) -> None:
    spec = make_spec(gpus=1 if config == "single_gpu" else 2)

    def peak(**changed: Any) -> int:
        return estimate(
            spec.but(**changed), config=config, checkpointing=True, offload=False, optimizer="adamw",
            micro_batch_size=1,
        ).evaluation_bytes  # fmt: skip

    for series in (
        [peak(max_length=n) for n in (512, 1024, 2048, 8192)],
        [peak(lora_r=rank) for rank in (8, 16, 32, 64, 128)],
        [peak(supervised_tokens=n) for n in (2, 16, 64, 512)],
        [peak(images_per_sample=n) for n in (4, 8, 16)],
    ):
        assert series == sorted(set(series))


def test_the_table_says_what_an_evaluation_needs() -> None:
    plan = choose(make_spec(gpus=2))
    (line,) = [line for line in plan_table(plan).splitlines() if line.startswith("peak of an evaluation ")]
    assert [float(word) for word in line.split()[4:]] == [
        round(c.estimate.evaluation_bytes / GIB, 2) for c in plan.candidates
    ]
    record = plan.to_dict()["chosen"]["estimate"]
    assert record["evaluation"] == dict(plan.chosen.estimate.evaluation)
    assert record["evaluation_bytes"] == sum(record["evaluation"].values()) > record["evaluation"]["keys and values"]


@pytest.mark.parametrize(
    ("settings", "files", "evaluates"),
    [
        ("{}", ["train.jsonl"], True),
        ("eval_samples: 0\n", ["train.jsonl"], True),  # actions are still scored
        ("eval_samples: 0\nscore_samples: 0\n", ["train.jsonl", "eval.jsonl"], False),
        ("eval_fraction: 0\n", ["train.jsonl"], False),
        ("eval_fraction: 0\n", ["train.jsonl", "eval.jsonl"], True),
        ("eval_fraction: 0\n", [], True),  # the job may see a folder that this machine does not
    ],
)
def test_an_evaluation_is_planned_where_one_takes_place(
    settings: str, files: list[str], evaluates: bool, tmp_path: Path
) -> None:
    (tmp_path / "train.yaml").write_text(settings)
    for name in files:
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_text("")
    given = {"CONFIG_FILE": str(tmp_path / "train.yaml"), "DATA": "set", "MODEL": "google/gemma-3-4b-it"}
    assert resolve(given, project_dir=tmp_path, environ={}).records.evaluates is evaluates


@pytest.mark.parametrize(
    "model", ["google/gemma-3-12b-it", "Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct",
              "HuggingFaceTB/SmolVLM-256M-Instruct"]
)  # fmt: skip
def test_the_plan_and_the_trainer_count_with_the_same_sizes(model: str) -> None:
    """The trainer reads them from the model's own configuration."""
    pytest.importorskip("transformers")
    from trainer.evaluation.memory import sizes_of
    from trainer.measure.ship import published_config

    assert sizes_of(published_config(model), width=2) == sizes(known_shape(model), width=2)


def configuration(vision: dict[str, Any], **text: Any) -> Any:
    sizes = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100, **text}
    whole = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**sizes))
    if vision:
        whole.vision_config = SimpleNamespace(**vision)
    return whole


@pytest.mark.parametrize(
    ("vision", "text", "sizes"),
    [
        ({"hidden_size": 32}, {}, (256, 64, 64, 32, 128)),
        ({"hidden_size": 32, "mlp_ratio": 3.5}, {}, (256, 64, 64, 32, 112)),
        ({"hidden_size": 64, "embed_dim": 32, "intermediate_size": 90}, {}, (256, 64, 64, 32, 90)),
        ({}, {"intermediate_size": [70, 80], "head_dim": 24, "num_key_value_heads": 2}, (80, 96, 48, 0, 0)),
    ],
)
def test_what_a_configuration_does_not_say_of_its_sizes_is_what_models_mostly_have(
    vision: dict[str, Any], text: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    """(MLP, queries, keys, tower, tower's MLP)."""
    pytest.importorskip("transformers")
    from trainer.evaluation.memory import sizes_of

    found = sizes_of(configuration(vision, **text), width=4)
    assert (found.mlp, found.q_width, found.kv_width, found.vision_hidden, found.vision_mlp) == sizes
    assert (found.layers, found.hidden, found.vocab, found.width) == (3, 64, 100, 4)


@pytest.mark.parametrize(
    ("vision", "shape", "patches"),
    [
        ({"hidden_size": 32}, (1, 3, 28, 28), 4),
        ({"patch_size": 16, "num_channels": 1}, (2, 1, 32, 48), 12),
        ({"patch_size": 14, "in_channels": 3, "temporal_patch_size": 2}, (20, 3 * 14 * 14 * 2), 20),
        ({}, (1, 3, 28, 28), 0),
    ],
)
def test_a_towers_rows_are_its_patches(vision: dict[str, Any], shape: tuple[int, ...], patches: int) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")

    from trainer.evaluation.memory import patches_of

    assert patches_of(configuration(vision), torch.zeros(shape)) == patches
    assert patches_of(configuration(vision), None) == 0
