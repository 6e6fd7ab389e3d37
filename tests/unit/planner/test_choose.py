"""The choice: what is taken, how the batch is shared out, what is refused and in which words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from specs import make_spec

from planner.choose import CONFIGS, choose
from planner.job import JobSpec
from planner.memory.estimate import merge_bytes
from planner.plan import Plan
from planner.table import Screen, plan_summary, plan_table
from planner.values import GPU_GIB
from trainer.outcome import ConfigError
from trainer.text import GIB

GEMMA_27B = "google/gemma-3-27b-it"


def refusal(spec: JobSpec) -> str:
    with pytest.raises(ConfigError) as error:
        choose(spec)
    message = str(error.value)
    assert "\n" not in message
    return message


def brief(plan: Plan) -> tuple[str, int, int]:
    return plan.chosen.label, plan.chosen.micro_batch_size, plan.chosen.gradient_accumulation_steps


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"vram_gib": 8.0}, ("single_gpu_low_mem", 4, 2)),
        ({"vram_gib": 16.0}, ("single_gpu", 1, 8)),
        ({"vram_gib": 24.0}, ("single_gpu", 2, 4)),
        ({"vram_gib": 80.0}, ("single_gpu", 8, 1)),
        ({"vram_gib": 24.0, "gpus": 2}, ("multi_gpu", 2, 2)),
        ({"vram_gib": 80.0, "gpus": 2}, ("multi_gpu", 4, 1)),
        ({"vram_gib": 24.0, "nodes": 2}, ("multi_gpu", 2, 2)),
        ({"vram_gib": 9.0, "gpus": 2}, ("multi_gpu + checkpointing", 2, 2)),
        ({"vram_gib": 8.0, "gpus": 2}, ("multi_gpu + checkpointing + 8-bit AdamW", 2, 2)),
        ({"vram_gib": 24.0, "gpus": 4, "model": GEMMA_27B}, ("deepspeed_zero3 + checkpointing", 2, 1)),
        ({"gpus": 0, "device": "cpu"}, ("cpu_mps", 1, 8)),
    ],
)
def test_the_fastest_way_that_fits_is_taken(request_: dict[str, Any], expected: tuple[str, int, int]) -> None:
    plan = choose(make_spec(**request_))
    assert brief(plan) == expected
    assert plan.chosen.fits and plan.chosen.estimate.peak_bytes <= plan.chosen.usable_bytes


@pytest.mark.parametrize("vram", [8.0, 16.0, 24.0, 48.0, 80.0])
@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
def test_the_chosen_candidate_is_the_first_that_fits_and_the_batch_is_kept(vram: float, gpus: int) -> None:
    plan = choose(make_spec(gpus=gpus, vram_gib=vram))
    assert plan.chosen is next(c for c in plan.candidates if c.fits)
    for c in plan.candidates:
        assert c.micro_batch_size * c.gradient_accumulation_steps * gpus == plan.effective_batch_size
    assert plan.effective_batch_size == {1: 8, 2: 8, 3: 9, 8: 8}[gpus]


def test_every_candidate_is_shown_with_its_verdict() -> None:
    plan = choose(make_spec(gpus=2, vram_gib=9.0))
    assert [(c.label, c.fits) for c in plan.candidates] == [
        ("multi_gpu", False),
        ("multi_gpu + checkpointing", True),
        ("multi_gpu + checkpointing + 8-bit AdamW", True),
        ("deepspeed_zero3 + checkpointing", True),
        ("deepspeed_zero3 + checkpointing + offload", True),
    ]
    assert [c.reason for c in plan.candidates][1:] == ["chosen", *["fits, slower"] * 3]
    assert plan.candidates[0].reason.endswith(" GiB over")


def test_usable_memory_is_what_is_sold_less_eight_percent() -> None:
    assert choose(make_spec(vram_gib=24.0)).chosen.usable_bytes == int(24 * GIB * 0.92)


def test_the_same_request_gives_the_same_plan() -> None:
    assert choose(make_spec(gpus=2)) == choose(make_spec(gpus=2))


def test_a_default_batch_is_rounded_up_to_the_gpus_and_said() -> None:
    plan = choose(make_spec(gpus=3))
    assert plan.notes[0] == "The effective batch is 9, not 8: a multiple of the 3 GPUs."
    assert choose(make_spec(gpus=4, nodes=4)).effective_batch_size == 16


@pytest.mark.parametrize(("asked", "near"), [(10, "8 or 12"), (2, "4"), (17, "16 or 20")])
def test_a_given_batch_that_the_gpus_cannot_share_is_refused_with_the_nearest_two(asked: int, near: str) -> None:
    expected = f"EFFECTIVE_BATCH={asked}: cannot be shared evenly by 4 GPUs: try {near}"
    assert refusal(make_spec(gpus=4, effective_batch_size=asked)) == expected


def test_a_given_batch_is_kept() -> None:
    plan = choose(make_spec(gpus=2, vram_gib=80.0, effective_batch_size=12))
    assert (plan.effective_batch_size, *brief(plan)[1:]) == (12, 2, 3)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            {"accelerate_config": "single_gpu", "gpus": 2},
            "CONFIG=single_gpu: is not for 2 GPUs: try CONFIG=multi_gpu or CONFIG=deepspeed_zero3",
        ),
        (
            {"accelerate_config": "multi_gpu"},
            "CONFIG=multi_gpu: is not for 1 GPU: try CONFIG=single_gpu or CONFIG=single_gpu_low_mem",
        ),
        (
            {"accelerate_config": "single_gpu", "gpus": 0, "device": "cpu"},
            "CONFIG=single_gpu: is not for no GPU: try CONFIG=cpu_mps",
        ),
        (
            {"accelerate_config": "cpu_mps"},
            "CONFIG=cpu_mps: is not for 1 GPU: try CONFIG=single_gpu or CONFIG=single_gpu_low_mem or DEVICE=cpu",
        ),
        ({"gpus": 0, "device": "cpu", "nodes": 2}, "NODES=2: without GPUs there is one process, cpu_mps: try NODES=1"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(request_: dict[str, Any], expected: str) -> None:
    assert refusal(make_spec(**request_)) == expected


def test_host_memory_holds_the_processes_of_a_node_at_least() -> None:
    said = "MEM=11: the processes of a node alone take 12 GiB: try MEM=12 or more"
    assert refusal(make_spec(gpus=8, mem_gib=11)) == said
    assert choose(make_spec(gpus=8, mem_gib=12)).spec.resources.mem_gib == 12


def test_a_forced_config_is_taken_though_a_faster_one_fits() -> None:
    plan = choose(make_spec(accelerate_config="single_gpu_low_mem"))
    assert (plan.chosen.label, [c.reason for c in plan.candidates]) == ("single_gpu_low_mem", ["fits", "chosen"])


def test_a_forced_config_that_overflows_runs_and_says_so() -> None:
    plan = choose(make_spec(accelerate_config="single_gpu", vram_gib=8.0))
    assert (plan.chosen.label, plan.chosen.fits, plan.chosen.micro_batch_size) == ("single_gpu", False, 1)
    assert plan.chosen.reason.startswith("asked, ") and plan.chosen.reason.endswith(" GiB over")
    assert plan.notes[0].startswith("CONFIG=single_gpu was asked for; it is predicted to overflow by ")


def test_a_forced_config_that_overflows_runs_in_the_way_that_takes_the_least() -> None:
    plan = choose(make_spec(accelerate_config="multi_gpu", gpus=2, vram_gib=4.0))
    asked = [c for c in plan.candidates if c.config == "multi_gpu"]
    assert len(asked) > 1 and not any(c.fits for c in asked) and not asked[0].checkpointing
    assert plan.chosen == min(asked, key=lambda c: c.estimate.peak_bytes) and plan.chosen.checkpointing


def test_what_a_request_gives_the_job_wins_over_what_it_is_given_otherwise() -> None:
    ours = dict(choose(make_spec()).env)
    assert ours["OMP_NUM_THREADS"] != "3" and ours["TOKENIZERS_PARALLELISM"] == "false"
    given = (("OMP_NUM_THREADS", "3"), ("TOKENIZERS_PARALLELISM", "true"))
    assert dict(choose(make_spec(environment=given)).env) == {**ours, **dict(given)}


@pytest.mark.parametrize(
    "request_",
    [
        {"model": GEMMA_27B, "vram_gib": 24.0},
        {"model": GEMMA_27B, "vram_gib": 16.0, "gpus": 2},
        {"vram_gib": 4.0},
        {"model": "Qwen/Qwen2.5-VL-72B-Instruct", "vram_gib": 40.0, "max_length": 8192},
        {"gpus": 0, "device": "cpu", "mem_gib": 16, "max_length": 2048},
        {"quantization": "none", "vram_gib": 10.0},
        {"vision": "lora", "vram_gib": 7.0},
    ],
)
def test_what_a_refusal_proposes_fits_and_what_is_a_step_smaller_does_not(request_: dict[str, Any]) -> None:
    spec = make_spec(**request_)
    proposed = refusal(spec).rpartition(": try ")[2].split(" or ")
    field = {
        "VRAM": "vram_gib",
        "MEM": "mem_gib",
        "GPUS": "gpus",
        "MAX_LENGTH": "max_length",
        "LORA": "lora_r",
        "LORA_TARGETS": "lora_targets",
        "VISION": "vision",
        "QUANTIZATION": "quantization",
    }
    assert proposed
    for name, _, value in (change.partition("=") for change in proposed):
        parsed: Any = value if name in ("LORA_TARGETS", "VISION", "QUANTIZATION") else int(value)
        assert choose(spec.but(**{field[name]: parsed})).chosen.fits
        if name == "MAX_LENGTH":
            refusal(spec.but(max_length=parsed + 128))
        if name == "VRAM":
            for size in [size for size in GPU_GIB.values() if spec.resources.vram_gib <= size < parsed]:
                refusal(spec.but(vram_gib=float(size)))
        if name == "MEM":
            refusal(spec.but(mem_gib=parsed - 1))


def test_a_refusal_says_what_was_needed_offered_and_would_fit() -> None:
    message = refusal(make_spec(GEMMA_27B))
    assert message.startswith(f"{GEMMA_27B} needs 22.9 GiB a GPU")
    assert " even with single_gpu_low_mem at micro-batch 1, usable are 22.1 of 24 GiB a GPU: " in message
    assert message.endswith("try VRAM=32 or GPUS=2 or LORA=32 or LORA_TARGETS=attention")


def test_the_largest_common_rank_that_fits_is_proposed() -> None:
    ranks = []
    for tenths in range(80, 50, -1):  # less and less memory
        found = re.search(r"LORA=(\d+)", refusal(make_spec(vram_gib=tenths / 10, lora_r=128)))
        ranks.append(int(found[1]) if found else 0)
    assert list(dict.fromkeys(ranks)) == [64, 32, 16, 8, 0]


def test_fewer_targets_are_proposed_only_where_they_would_be_fewer() -> None:
    """Names that leave the MLP out already, and a model without attention."""
    spec = make_spec(GEMMA_27B, vram_gib=22.0)
    assert "LORA_TARGETS=attention" in refusal(spec)
    assert "LORA_TARGETS" in refusal(spec.but(lora_targets="q_proj,mlp"))
    assert "LORA_TARGETS" not in refusal(spec.but(lora_targets="q_proj,k_proj", max_length=4096))
    (layer,) = spec.shape.layers[:1]
    mixers = tuple(replace(one, path=one.path.replace("self_attn", "mixer")) for one in layer.linears)
    shape = replace(spec.shape, layers=(replace(layer, linears=mixers),) * len(spec.shape.layers))
    assert "LORA_TARGETS" not in refusal(spec.but(shape=shape))


def test_a_model_for_which_no_card_is_large_enough_is_said_to_be_too_large() -> None:
    spec = make_spec("Qwen/Qwen2.5-VL-72B-Instruct", quantization="none", vram_gib=80.0, max_length=912)
    assert refusal(spec.but(quantization="nf4", vram_gib=16.0)).count("try") == 1
    assert refusal(spec).endswith("try VRAM=180 or QUANTIZATION=nf4")
    spec = spec.but(vram_gib=40.0)
    assert refusal(spec).endswith("try VRAM=180 or QUANTIZATION=nf4 with VRAM=80")
    longer = spec.but(max_length=8192)
    assert refusal(longer).endswith("GiB a GPU: try QUANTIZATION=nf4 with VRAM=80")
    layers = tuple(replace(layer, count=4000) for layer in spec.shape.layers)
    deep = spec.but(shape=replace(spec.shape, layers=layers), quantization="nf4")
    assert refusal(deep).endswith("GiB a GPU: not even 180 GiB would do, take a smaller model")


def test_the_nearest_card_is_named_and_on_this_machine_no_other_memory() -> None:
    assert refusal(make_spec(vram_gib=6.0)).partition(": try ")[2].split(" or ")[0] == "VRAM=8"
    spec = make_spec(GEMMA_27B, gpus=0, device="cpu", mem_gib=24, max_length=512)
    assert "MEM=" in refusal(spec)
    with pytest.raises(ConfigError) as caught:
        choose(spec, here=())
    assert str(caught.value).endswith("of 24 GiB of host memory: take a smaller model")


def test_the_command_is_complete_and_in_the_agreed_words() -> None:
    assert choose(make_spec(gpus=2, nodes=2, vram_gib=80.0)).launch.words() == (
        *("accelerate", "launch", "--config_file", "accelerate_configs/multi_gpu.yaml"),
        *("--num_processes", "4", "--num_machines", "2", "-m", "trainer.train"),
        *("--model", "google/gemma-3-4b-it", "--data", "data", "--output_dir", "runs/gemma-0123abcd"),
        *("--run_id", "gemma-0123abcd", "--device", "cuda", "--world_size", "4", "--micro_batch_size", "2"),
        *("--gradient_accumulation_steps", "1", "--activation_checkpointing", "false", "--optimizer", "adamw"),
        *(
            "--quantization",
            "nf4",
            "--vision",
            "frozen",
            "--lora_r",
            "64",
            "--lora_alpha",
            "128",
            "--lora_dropout",
            "0.05",
            "--lora_targets",
            "all",
        ),
        *("--max_length", "1024", "--max_steps", "1500", "--learning_rate", "0.0002", "--seed", "0"),
    )


def test_numbers_in_the_command_read_back_as_the_same_numbers() -> None:
    argv = choose(make_spec(learning_rate=1 / 3e5, lora_dropout=0.1)).launch.words()
    values = dict(zip(argv[argv.index("--model") :: 2], argv[argv.index("--model") + 1 :: 2], strict=True))
    assert (float(values["--learning_rate"]), float(values["--lora_dropout"])) == (1 / 3e5, 0.1)


def test_low_memory_travels_as_trainer_arguments() -> None:
    argv = choose(make_spec(vram_gib=8.0)).launch.words()
    assert argv[argv.index("--activation_checkpointing") + 1] == "true"
    assert argv[argv.index("--optimizer") + 1] == "paged_adamw_8bit"


@pytest.mark.parametrize(
    ("request_", "env"),
    [
        (
            {"cpus": 8},
            {
                "OMP_NUM_THREADS": "8",
                "PYTORCH_ALLOC_CONF": "expandable_segments:True",
                "TRAINYARD_VRAM_GIB": "24",
                "TRAINYARD_PEAK_GIB": "20.58",
            },
        ),
        (
            {"cpus": 8, "environment": (("PYTORCH_CUDA_ALLOC_CONF", "a:1"),)},
            {
                "OMP_NUM_THREADS": "8",
                "PYTORCH_CUDA_ALLOC_CONF": "a:1",
                "TRAINYARD_VRAM_GIB": "24",
                "TRAINYARD_PEAK_GIB": "20.58",
            },
        ),
        (
            {"gpus": 2, "cpus": 8, "device": "cpu"},
            {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive", "ACCELERATE_USE_CPU": "true"},
        ),
        (
            {"gpus": 2, "cpus": 1, "device": "cpu", "accelerate_config": "deepspeed_zero3"},
            {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "DS_ACCELERATOR": "cpu"},
        ),
    ],
)
def test_the_environment_fits_the_device(request_: dict[str, Any], env: dict[str, str]) -> None:
    plan = choose(make_spec(**request_))
    common = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    assert plan.env == tuple(sorted({**common, **env}.items()))


def test_pretend_gpus_are_planned_like_real_ones_and_said() -> None:
    real, pretend = (choose(make_spec(gpus=2, device=device)) for device in ("cuda", "cpu"))
    assert pretend.candidates == real.candidates
    assert any(note.startswith("DEVICE=cpu: planned as for GPUs") for note in pretend.notes)


def test_zero3_is_said_to_gain_little_for_a_4_bit_4b_model_only() -> None:
    small, large = (
        choose(make_spec(model, gpus=4, vram_gib=80.0)).notes[-1] for model in ("google/gemma-3-4b-it", GEMMA_27B)
    )
    assert small.startswith("ZeRO-3 gains little here: ")
    assert large.startswith("ZeRO-3 helps here: ")


@pytest.mark.parametrize("request_", [{}, {"gpus": 4, "model": GEMMA_27B}, {"gpus": 0, "device": "cpu"}, {"gpus": 3}])
def test_the_table_shows_every_item_of_every_candidate_within_110_columns(request_: dict[str, Any]) -> None:
    plan = choose(make_spec(**request_))
    text = plan_table(plan)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110 and not text.endswith("\n")
    assert [line.split()[0] for line in lines[:2]] == ["job", "memory"] and lines[2] == ""
    decided = [line.split()[0] for line in text.rpartition("\n\n")[2].splitlines() if not line.startswith(" ")]
    assert decided == ["chosen", *(["why"] if len(plan.candidates) > 1 else []), "batch", "peak"]
    assert text.isascii()
    for name, _ in (item for c in plan.candidates for item in c.estimate.items if item[1]):
        assert any(line.startswith(f"{name}  ") for line in lines)
    verdicts = next(line for line in lines if line.startswith("verdict"))
    assert all(c.reason in verdicts for c in plan.candidates)


def test_the_table_begins_with_the_request_and_where_its_memory_comes_from() -> None:
    spec = make_spec(gpus=2, vram_source="GPU_TYPE=a10", vram_gib=24.0)
    lines = plan_table(choose(spec)).splitlines()
    assert [*lines[:2], *lines[-5:]] == [
        "job    google/gemma-3-4b-it (4.3 B, 4-bit NF4), LoRA r=64 (119 M trained), 1024 tokens a sample, on 2 GPUs",
        "memory 24 GiB a GPU (GPU_TYPE=a10), 22.1 usable (8% is kept free)",
        "chosen multi_gpu, without activation checkpointing",
        "why    likely fastest: others recompute activations, use an 8-bit optimizer, gather shards, update on the "
        "host",
        "batch  micro-batch 2 x accumulation 2 x 2 GPUs = 8 samples an optimizer step",
        "peak   21.4 of 22.1 GiB a GPU predicted (97%), tight",
        "       [####################################-...] 24 GiB",
    ]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({}, "likely fastest: others recompute activations, use an 8-bit optimizer"),
        ({"vram_gib": 8.0}, "likely fastest that fits: single_gpu is 6.21 GiB over"),
        (
            {"gpus": 2, "vram_gib": 12.0},
            "likely fastest that fits: multi_gpu is 3.37 GiB over; others use an 8-bit optimizer, gather shards, "
            "update on the host",
        ),
        (
            {"gpus": 2, "vram_gib": 8.0},
            "likely fastest that fits: multi_gpu + checkpointing is 0.23 GiB over; others gather shards, update on the "
            "host",
        ),
        (
            {"gpus": 2, "accelerate_config": "deepspeed_zero3"},
            "CONFIG= (or ACCELERATE_CONFIG in .env) asks for it; multi_gpu fits too and is likely faster",
        ),
        ({"gpus": 2, "accelerate_config": "multi_gpu"}, "CONFIG= (or ACCELERATE_CONFIG in .env) asks for it"),
        ({"gpus": 0, "device": "cpu"}, ""),
    ],
)
def test_one_line_says_why_the_chosen_one(request_: dict[str, Any], why: str) -> None:
    lines = plan_table(choose(make_spec(**request_)), Screen(width=160)).splitlines()
    assert [line.removeprefix("why    ") for line in lines if line.startswith("why ")] == ([why] if why else [])


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("request_", [{"gpus": 2}, {"gpus": 2, "accelerate_config": "deepspeed_zero3"}, {}])
def test_a_terminal_gets_the_candidates_that_it_has_room_for_the_chosen_one_always(
    request_: dict[str, Any], width: int
) -> None:
    plan = choose(make_spec(**request_))
    lines = plan_table(plan, Screen(width=width)).splitlines()
    assert max(map(len, lines)) <= width
    verdicts = next(line for line in lines if line.startswith("verdict"))
    also = lines[lines.index(verdicts) + 1 : lines.index("", lines.index(verdicts))]
    assert "chosen" in verdicts
    columns = len(re.split("  +", verdicts)) - 1
    assert columns + " ".join(also).count("(") == len(plan.candidates)
    assert bool(also) == (columns < len(plan.candidates)) and (columns == len(plan.candidates) or width < 120)


def test_only_a_terminal_gets_colour_and_blocks() -> None:
    text = plan_table(choose(make_spec()), Screen(width=80, colour=True, blocks=True))
    assert "\n\n\x1b[1mchosen single_gpu, without activation checkpointing\x1b[0m\nwhy " in text
    assert text.endswith(f"\n       [{34 * chr(0x2588)}{3 * chr(0x2591)}{3 * chr(0xB7)}] 24 GiB")


@pytest.mark.parametrize(("width", "cells"), [(30, 10), (50, 30), (59, 39), (60, 40), (61, 40), (200, 40)])
def test_the_bar_is_forty_cells_or_what_a_narrow_screen_leaves(width: int, cells: int) -> None:
    bar = plan_table(choose(make_spec()), Screen(width=width)).splitlines()[-1]
    assert re.fullmatch(rf" {{7}}\[[#.-]{{{cells}}}\] 24 GiB", bar)


def test_the_summary_is_the_table_without_its_candidates() -> None:
    plan = choose(make_spec(gpus=4))
    asked, _, notes, decision = plan_table(plan).split("\n\n")
    assert plan_summary(plan) == f"{asked}\n{notes}\n{decision}"


def test_a_plan_is_json() -> None:
    record = json.loads(json.dumps(choose(make_spec(gpus=2)).to_dict()))
    assert record["candidates"][0]["label"] == record["chosen"]["label"] == "multi_gpu"
    assert {c["config"] for c in record["candidates"]} <= set(CONFIGS)


@pytest.mark.parametrize("model", ["google/gemma-3-4b-it", GEMMA_27B, "Qwen/Qwen2.5-VL-7B-Instruct"])
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_tight_plan_names_a_safer_one_that_the_variable_it_names_gives(model: str, gpus: int) -> None:
    seen = set()
    for vram in sorted({*GPU_GIB.values(), 28}):
        spec = make_spec(model, gpus=gpus, vram_gib=vram)
        try:
            plan = choose(spec)
        except ConfigError:
            continue
        share = plan.chosen.estimate.peak_bytes / plan.chosen.usable_bytes
        assert plan.chosen.tight == (share > 0.9) == plan.to_dict()["chosen"]["tight"]
        assert (f"({share:.0%}), tight" in plan_table(plan)) == plan.chosen.tight
        notes = [note for note in plan.notes if note.startswith("Tight: ")]
        assert len(notes) == plan.chosen.tight
        for note in notes:
            if named := re.search(r" by VRAM=([\d.]+), is (.*) at micro-batch (\d+): ", note):
                safer = choose(spec.but(vram_gib=float(named[1]))).chosen
                assert (safer.label, str(safer.micro_batch_size)) == named.groups()[1:]
                assert safer.estimate.peak_bytes <= 0.9 * plan.chosen.usable_bytes
            else:
                assert "No plan of this request is safer" in note
            seen.add(bool(named))
    assert True in seen


def test_a_tight_plan_without_a_safer_one_says_what_would_give_one() -> None:
    tight = choose(make_spec(vram_gib=7.0))
    assert tight.notes == (
        "Tight: 98% of the usable memory, by formulas that no GPU has checked yet. No plan of this request is safer; "
        "VRAM=6.3 with GPUS=2 or LORA=32 or LORA_TARGETS=attention gives one.",
        "Merging the finished run takes 9.26 GiB on one GPU, for all weights in 16 bits; or python -m trainer merge "
        "--run runs/RUN --device cpu, which takes 18.5 GiB of host memory.",
    )
    for change in ({"gpus": 2}, {"lora_r": 32}, {"lora_targets": "attention"}):
        safer = choose(make_spec(vram_gib=6.3, **change)).chosen
        assert safer.estimate.peak_bytes <= 0.9 * tight.chosen.usable_bytes


def test_a_merge_that_the_gpu_cannot_hold_is_said_where_the_training_fits() -> None:
    """All weights in 16 bits and the fp32 adapters, with what the process and the allocator take."""
    for vram_gib, said in ((8, True), (12, False), (24, False)):
        plan = choose(make_spec(vram_gib=vram_gib))
        assert any("Merging" in note for note in plan.notes) == said
    weights = 2 * plan.spec.shape.total_params + 4 * plan.spec.lora_params
    assert merge_bytes(plan.spec) == pytest.approx(1.03 * weights + (500 + 64) * 2**20, rel=1e-3)
    assert merge_bytes(plan.spec.but(quantization="none")) == merge_bytes(plan.spec)


def test_a_measured_batch_is_not_called_tight() -> None:
    spec = make_spec(vram_gib=16.0)
    assert choose(spec).chosen.tight
    measured = spec.but(measured_with="single_gpu", measured_batch=1, measured_peak_gib=13.9)
    assert not choose(measured).chosen.tight


def test_the_tokens_of_a_picture_are_called_an_assumption_where_they_are_one() -> None:
    def said(model: str, **request: Any) -> str:
        return " ".join(n for n in choose(make_spec(model, vram_gib=80.0, **request)).notes if "picture" in n)

    qwen = "Qwen/Qwen2.5-VL-7B-Instruct"
    assert "784 at 784 x 784 px. The plan holds for records of up to MAX_LENGTH=1024 tokens" in said(qwen)
    assert not said(qwen, length_source="measured") and not said(qwen, images_per_sample=0)
    assert not said("google/gemma-3-4b-it")


def test_a_picture_of_any_size_is_planned_as_large_as_the_record_allows() -> None:
    spec = make_spec("Qwen/Qwen2.5-VL-7B-Instruct", max_length=2048)
    assert spec.patches_per_sample == 2048 * 3136 // 784 == 8192
    assert make_spec(max_length=2048, images_per_sample=2).patches_per_sample == 2 * 4096
    assert make_spec("google/gemma-3-1b-it").patches_per_sample == 0


def test_targets_that_the_model_does_not_have_are_refused_with_those_that_it_has() -> None:
    names = "self_attn, q_proj, k_proj, v_proj, o_proj, mlp, gate_proj, up_proj, down_proj"
    with pytest.raises(ConfigError) as refused:
        choose(make_spec(lora_targets="v_proj,qproj"))
    assert str(refused.value) == (
        "LORA_TARGETS=v_proj,qproj: no linear of the language model is, or lies in, qproj, did you mean q_proj? "
        f"take all, or some of {names}"
    )
