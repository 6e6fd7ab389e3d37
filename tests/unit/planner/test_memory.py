"""The memory model: Gemma 3 4B's static items to the byte, and how the rest moves with what it depends on."""

from __future__ import annotations

from typing import Any

import pytest
from specs import known_shape, make_spec

from planner.job import JobSpec
from planner.memory.activations import layer_bytes, tower_layer_bytes
from planner.memory.estimate import estimate
from planner.plan import Estimate
from trainer.architecture.head_chunk import BYTES_PER_LOGIT, CHUNK_BYTES, chunk_positions

GB = 10**9
LORA = 119_209_984  # r=64 on the seven linears of 34 layers


def predict(spec: JobSpec, **way: Any) -> Estimate:
    base: dict[str, Any] = {
        "config": "single_gpu",
        "checkpointing": False,
        "offload": False,
        "optimizer": "adamw",
        "micro_batch_size": 1,
    }
    return estimate(spec, **{**base, **way})


def items(spec: JobSpec, **way: Any) -> dict[str, int]:
    return dict(predict(spec, **way).items)


def test_the_frozen_weights_of_gemma_3_4b_are_counted_to_the_byte() -> None:
    found = items(make_spec())
    assert found["language model"] == 3_208_642_560 // 2
    assert found["quantization constants"] == 3_208_642_560 // 64 + 3_208_642_560 // 16_384 * 4
    assert found["embedding and head"] == (3_880_263_168 - 3_208_642_560) * 2
    assert found["image tower"] == (416_866_032 + 2_950_272) * 2


def test_the_frozen_weights_of_gemma_3_4b_are_the_known_gigabytes() -> None:
    """1.60 + 0.05 + 1.34 + 0.83 GB (0.84 with the projector)."""
    found = items(make_spec())
    names = ("language model", "quantization constants", "embedding and head", "image tower")
    assert [round(found[name] / GB, 2) for name in names] == [1.60, 0.05, 1.34, 0.84]


@pytest.mark.parametrize(("optimizer", "gigabytes"), [("adamw", 1.91), ("paged_adamw_8bit", 1.20)])
def test_lora_weights_gradients_and_optimizer_of_gemma_3_4b(optimizer: str, gigabytes: float) -> None:
    """16 bytes a parameter with AdamW; with 8-bit AdamW 10 and its constants, 1 / 32 of a byte."""
    found = items(make_spec(), optimizer=optimizer)
    per_param = 8 if optimizer == "adamw" else 2 + 1 / 32
    assert found["LoRA weights"] == found["gradients"] == 4 * LORA
    assert found["optimizer"] == LORA * per_param
    total = found["LoRA weights"] + found["gradients"] + found["optimizer"]
    assert round(total / GB, 2) == gigabytes


def test_without_quantization_linears_take_two_bytes_and_no_constants() -> None:
    found = items(make_spec(quantization="none"))
    assert (found["language model"], found["quantization constants"]) == (2 * 3_208_642_560, 0)


def test_a_gemma_layer_keeps_what_was_measured() -> None:
    """16h + 4(q+k) norms, 8q + 32 attention, 6f MLP, 14r LoRA, 4h + 2f or 3(5h+q+f) LoRA inputs; and a mask
    row."""
    h, f, q, k, r, length = 2560, 10_240, 2048, 1024, 64, 1024
    common = 16 * h + 4 * (q + k) + 8 * q + 6 * f + 14 * r + 2 * length
    (layer,) = make_spec().shape.layers
    plain = layer_bytes(make_spec(lora_dropout=0.0), layer, width=2)
    dropped = layer_bytes(make_spec(), layer, width=2)
    assert plain == pytest.approx(common + 32 + 4 * h + 2 * f, rel=1e-3)
    assert dropped == pytest.approx(common + 32 + 3 * (5 * h + q + f), rel=1e-3)


def test_fewer_targets_take_the_memory_of_their_own_adapters() -> None:
    """On attention alone 8r, and of the inputs only what q, k and v share: attention itself keeps what o reads."""
    h, q, k, r = 2560, 2048, 1024, 64
    (layer,) = make_spec().shape.layers
    every, some = (
        [layer_bytes(make_spec(lora_targets=targets, lora_dropout=p), layer, width=2) for p in (0.0, 0.05)]
        for targets in ("all", "attention")
    )
    f = 10_240
    assert [a - b for a, b in zip(every, some, strict=True)] == [
        6 * r + 2 * (h + f), 6 * r + 3 * (2 * h + f)
    ]  # fmt: skip
    assert make_spec(lora_targets="attention").lora_params == 34 * r * (3 * h + q + q + 2 * k + h)
    assert items(make_spec(lora_targets="v_proj"))["LoRA weights"] == 4 * 34 * r * (h + k)
    same = ("self_attn,mlp", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", "layers")
    assert {make_spec(lora_targets=targets).lora_params for targets in same} == {make_spec().lora_params}


def test_a_tower_with_adapters_keeps_what_was_measured_and_is_part_of_the_plan() -> None:
    """SigLIP: 22d + 4f and 12r a patch and layer, with dropout 3(5d + f) more on CUDA."""
    d, f, r = 1152, 4304, 64
    plain = tower_layer_bytes(make_spec(vision="lora", lora_dropout=0.0), width=2)
    assert plain == pytest.approx(22 * d + 4 * f + 12 * r, rel=5e-3)
    assert tower_layer_bytes(make_spec(vision="lora"), width=2) == plain + 3 * (5 * d + f)
    frozen, tuned = (items(make_spec(vision=vision, lora_dropout=0.0)) for vision in ("frozen", "lora"))
    assert tuned["LoRA weights"] - frozen["LoRA weights"] == 4 * (153_991_168 - 119_209_984)
    assert tuned["activations"] - frozen["activations"] == 27 * 4096 * plain


def test_the_head_is_bounded_by_one_chunk() -> None:
    """Gemma 3's vocabulary makes a chunk of 102 positions; more samples add only their gradients."""
    one_chunk = 102 * 262_208 * BYTES_PER_LOGIT
    spec = make_spec(supervised_tokens=51, max_length=128, images_per_sample=0)
    few, many = (items(spec, micro_batch_size=m)["head"] for m in (1, 8))
    assert few == one_chunk // 2 + 2 * 51 * 2560 * 2
    assert many == one_chunk + 2 * 408 * 2560 * 2


@pytest.mark.parametrize(("vocabulary", "positions"), [(262_208, 102), (151_936, 176), (32_000, 838), (10**8, 1)])
def test_a_chunk_of_the_head_holds_as_many_positions_as_fit_its_bytes(vocabulary: int, positions: int) -> None:
    """As many bytes as the largest tile of TRL's head, whatever the vocabulary; one position at least."""
    assert CHUNK_BYTES == 4096 * 32_768 * 2
    assert chunk_positions(vocabulary, sharded=False) == positions


def test_a_chunk_of_a_sharded_head_is_larger_because_each_gathers_it() -> None:
    spec = make_spec(gpus=2, supervised_tokens=1024)
    assert chunk_positions(262_208, sharded=True) == 511
    found = items(spec, config="deepspeed_zero3", checkpointing=True)["head"]
    assert found == 511 * 262_208 * BYTES_PER_LOGIT + 2 * 1024 * 2560 * 2


@pytest.mark.parametrize(
    "model", ["google/gemma-3-4b-it", "Qwen/Qwen2.5-VL-7B-Instruct", "HuggingFaceTB/SmolVLM-Instruct"]
)
@pytest.mark.parametrize("config", ["single_gpu", "multi_gpu", "deepspeed_zero3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_more_work_never_needs_less_memory(model: str, config: str, checkpointing: bool) -> None:
    spec = make_spec(model, gpus=1 if config == "single_gpu" else 2)

    def peak(changed: JobSpec, micro: int = 1) -> int:
        return predict(changed, config=config, checkpointing=checkpointing, micro_batch_size=micro).step_bytes

    by_batch = [peak(spec, micro) for micro in (1, 2, 4, 8)]
    by_length = [peak(spec.but(max_length=n)) for n in (512, 1024, 2048, 8192)]
    by_rank = [peak(spec.but(lora_r=rank)) for rank in (1, 8, 16, 32, 64, 128)]
    for series in (by_batch, by_length, by_rank):
        assert series == sorted(set(series))


@pytest.mark.parametrize("micro", [1, 8])
def test_checkpointing_8_bit_adamw_and_offload_each_save_memory(micro: int) -> None:
    spec = make_spec(gpus=2)
    plain = predict(spec, config="multi_gpu", micro_batch_size=micro)
    checkpointed = predict(spec, config="multi_gpu", micro_batch_size=micro, checkpointing=True)
    eight_bit = predict(
        spec, config="multi_gpu", micro_batch_size=micro, checkpointing=True, optimizer="paged_adamw_8bit"
    )
    sharded = predict(spec, config="deepspeed_zero3", micro_batch_size=micro, checkpointing=True)
    offloaded = predict(spec, config="deepspeed_zero3", micro_batch_size=micro, checkpointing=True, offload=True)
    assert plain.step_bytes > checkpointed.step_bytes > eight_bit.step_bytes
    assert checkpointed.step_bytes > sharded.step_bytes > offloaded.step_bytes


def test_ddp_adds_buckets_and_nccl_and_nothing_else() -> None:
    one, two = items(make_spec()), items(make_spec(gpus=2), config="multi_gpu")
    changed = {name for name in one if one[name] != two[name]}
    assert changed == {"communication buckets", "NCCL", "allocator rounding"}
    assert two["communication buckets"] == 4 * LORA


def test_more_gpus_do_not_help_ddp() -> None:
    two, eight = (predict(make_spec(gpus=n), config="multi_gpu") for n in (2, 8))
    assert two == eight


def test_zero3_shards_weights_but_neither_constants_nor_the_load_peak() -> None:
    spec = make_spec(gpus=4)
    ddp, zero = items(spec, config="multi_gpu"), items(spec, config="deepspeed_zero3")
    for name in ("language model", "embedding and head", "image tower"):
        assert zero[name] == -(-ddp[name] // 4)
    assert zero["quantization constants"] == ddp["quantization constants"]
    assert zero["LoRA weights"] == (2 + 4) * LORA // 4
    assert predict(spec, config="deepspeed_zero3").load_peak_bytes == predict(spec, config="multi_gpu").load_peak_bytes


def test_offload_moves_masters_and_moments_to_the_host() -> None:
    found = items(make_spec(gpus=4), config="deepspeed_zero3", offload=True)
    assert (found["optimizer"], found["LoRA weights"]) == (0, 2 * LORA // 4)


def test_only_one_moment_of_the_step_is_counted() -> None:
    """The tower's forward, the head and a layer's backward are never alive together."""
    late = ("head", "backward of a layer", "image tower forward")
    for way in ({"checkpointing": True}, {"micro_batch_size": 8}, {"micro_batch_size": 8, "checkpointing": True}):
        found = items(make_spec(), **way)
        assert sum(found[name] > 0 for name in late) == 1
    # Many images and hardly any text: the tower decides, and the text's activations do not exist yet.
    found = items(make_spec(images_per_sample=16, max_length=16, supervised_tokens=1), checkpointing=True)
    assert found["image tower forward"] > 0 and found["activations"] == 0


def test_loading_is_the_peak_where_training_needs_little() -> None:
    spec = make_spec("google/gemma-3-27b-it", gpus=8, max_length=512)
    found = predict(spec, config="deepspeed_zero3", checkpointing=True)
    assert found.peak_bytes == found.load_peak_bytes > found.step_bytes


def test_loading_holds_the_whole_model_and_one_layer_in_bf16() -> None:
    shape = known_shape("google/gemma-3-4b-it")
    whole = sum(list(items(make_spec()).values())[:5])
    fixed = (500 + 64) * 1024**2
    layer = shape.linear_params // 34 * 2
    assert predict(make_spec()).load_peak_bytes == pytest.approx((whole + layer) * 1.03 + fixed, abs=2)


def test_every_configuration_lists_the_same_items_in_the_same_order() -> None:
    spec = make_spec(gpus=2)
    names = [
        tuple(name for name, _ in predict(spec, config=config).items)
        for config in ("single_gpu", "multi_gpu", "deepspeed_zero3", "cpu_mps")
    ]
    assert set(names) == {names[0]} and len(set(names[0])) == len(names[0])


def test_items_are_whole_bytes_and_never_negative() -> None:
    for model in ("google/gemma-3-4b-it", "HuggingFaceTB/SmolVLM-256M-Instruct"):
        for config in ("single_gpu", "multi_gpu", "deepspeed_zero3", "cpu_mps"):
            sizes = items(make_spec(model, gpus=3), config=config).values()
            assert all(type(size) is int and size >= 0 for size in sizes)


def test_qlora_of_gemma_3_27b_needs_more_than_a_24_gib_card() -> None:
    least = predict(make_spec("google/gemma-3-27b-it"), checkpointing=True, optimizer="paged_adamw_8bit")
    assert 22.08 < least.peak_bytes / 1024**3 < 30
