"""What docs/from-the-tutorial.md says of the things of the tutorial is so: each row has a claim that is tried here, or
names the test that tries it. A row's words stand there, and hold."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import tomllib
import yaml
from paths import ROOT
from tutorial import TRAINING_CONFIG

import k8s.scheduler
import local.__main__
import local.scheduler
import trainer.__main__
from launcher.command import VERBS
from launcher.starting import planned
from planner.fitting import batch_path
from planner.plan import Plan
from planner.request.file_settings import check_trainer_accepts
from planner.request.variables import parse_given, read_given
from planner.table import plan_table
from slurm.scheduler import SCHEDULER
from trainer.config import TrainConfig
from trainer.env_file import read_env_file, watched, with_env_file
from trainer.flags import options
from trainer.outcome import ConfigError
from trainer.placeholder import is_placeholder
from trainer.settings import main, resolve_settings

PAGE = (ROOT / "docs" / "from-the-tutorial.md").read_text(encoding="utf-8")
ROWS = {
    int(number): cells
    for numbers, cells in re.findall(r"^\| ([\d, ]+) \| (.*) \|$", PAGE, re.M)
    for number in numbers.split(", ")
}
NEEDED = ("--model", "google/gemma-3-4b-it", "--data", "data", "--output_dir", "runs", "--run_id", "x")


@cache
def plan(folder: Path, **given: str) -> Plan:
    return planned(SCHEDULER, {"SITE": "none", **given}, {}, folder)[1].plans[0]


def refusal(folder: Path, **given: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(folder, **given)
    return str(caught.value)


def plan_of_the_tutorials_file(folder: Path, card: str) -> Plan:
    """The plan for a run with the tutorial's settings, which the trainer accepts."""
    (folder / "tutorial.yaml").write_text(TRAINING_CONFIG)
    found = plan(folder, GPU_TYPE=card, CONFIG_FILE="tutorial.yaml")
    with contextlib.redirect_stderr(io.StringIO()):
        check_trainer_accepts(found, folder)
    return found


def not_accepted(folder: Path, card: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_of_the_tutorials_file(folder, card)
    return str(caught.value)


def plan_with_env(folder: Path, text: str, **given: str) -> Plan:
    """The plan where `.env` holds these lines."""
    (folder / ".env").write_text(text.replace("; ", "\n") + "\n")
    try:
        return planned(SCHEDULER, {"SITE": "none", "VRAM": "24", **given}, {}, folder)[1].plans[0]
    finally:
        (folder / ".env").unlink()


def trained(folder: Path, **given: str) -> str:
    """How many parameters are trained, as the plan's first line says it."""
    return re.findall(r"\(([\d.]+ [MB]) trained", plan_table(plan(folder, VRAM="24", **given)))[0]


def members(folder: Path, grid: str) -> list[Plan]:
    given = {"SITE": "none", "VRAM": "24", "GRID": grid}
    return list(planned(SCHEDULER, given, {}, folder, sweeps=True)[1].plans)


def printed(*words: str) -> str:
    """What `python -m trainer` with these words prints."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert trainer.__main__.main(words) == 0
    return shown.getvalue()


def answer_to(*words: str, make: str = "") -> str:
    """What flags, or a variable of make, are answered with."""
    with pytest.raises(ConfigError) as caught:
        read_given(words, {"TRAINYARD_GIVEN": make})
    return str(caught.value)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(folder, text)
    return str(caught.value)


def is_refused(act: Callable[[], object], said: str) -> bool:
    with pytest.raises(ConfigError) as caught:
        act()
    return str(caught.value) == said


def config(name: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((ROOT / "accelerate_configs" / f"{name}.yaml").read_text())
    return found


def settings(folder: Path, text: str) -> tuple[dict[str, object], str]:
    """The settings of a file with these lines, and the notices about it."""
    (folder / "train.yaml").write_text(text.replace("; ", "\n") + "\n")
    found = resolve_settings([*NEEDED, "--config", str(folder / "train.yaml")], {})
    return dict(found.values), " ".join(found.notices)


def is_set(folder: Path, text: str, **wanted: object) -> bool:
    values, _ = settings(folder, text)
    return {name: values[name] for name in wanted} == wanted


def is_dropped(folder: Path, text: str) -> bool:
    _, notices = settings(folder, text)
    return re.search(r"(is|are) not needed", notices) is not None and text.partition(":")[0] in notices


def defaults() -> dict[str, object]:
    return {name: option.default for name, option in options(TrainConfig).items()}


def manifest(folder: Path, **given: str) -> list[str]:
    """The kinds of the objects that a request becomes."""
    target, batch = planned(k8s.scheduler.SCHEDULER, {"SITE": "none", **given}, {}, folder)
    return sorted(found["kind"] for found in yaml.safe_load_all(target.render(batch)))


def in_env_file(folder: Path, *names: str) -> bool:
    (folder / ".env").write_text("".join(f"{name}=1\n" for name in names))
    found = set(read_env_file(folder / ".env"))
    (folder / ".env").unlink()
    return found == {*names}


def sweep() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((ROOT / "wandb_sweep.yaml").read_text())
    return found


def said_of_settings(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(["--help"])
    return capsys.readouterr().out


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    row: int
    words: str
    """What the row has about it."""
    holds: Callable[[Path], bool]


def claim(row: int, words: str, holds: Callable[[Path], bool]) -> Claim:
    return Claim(row=row, words=words, holds=holds)


CLAIMS: Sequence[Claim] = (
    claim(1, "`make plan GPU_TYPE=rtx3070` fits", lambda at: plan(at, GPU_TYPE="rtx3070").chosen.fits),
    claim(2, "`single_gpu.yaml`", lambda _: config("single_gpu")["num_processes"] == 1),
    claim(3, "`multi_gpu.yaml`", lambda _: config("multi_gpu")["distributed_type"] == "MULTI_GPU"),
    claim(4, "no offload, both others false", lambda _: config("deepspeed_zero3")["deepspeed_config"] == {
        "zero_stage": 3, "zero3_init_flag": False, "zero3_save_16bit_model": False, "offload_optimizer_device": "none",
        "offload_param_device": "none", "deepspeed_multinode_launcher": "standard"}),
    claim(4, "a separate candidate", lambda at: any(
        "offload" in one.label for one in plan(at, GPUS="2", VRAM="24").candidates)),
    claim(5, "fp32", lambda _: config("cpu_mps")["mixed_precision"] == "no"),
    claim(5, "`DEVICE=cpu`", lambda at: plan(at, DEVICE="cpu").chosen.label == "cpu_mps"),
    claim(6, "`single_gpu_low_mem.yaml`", lambda _: config("single_gpu_low_mem")["mixed_precision"] == "bf16"),
    claim(7, "`WANDB_PROJECT`, `WANDB_TAGS`, `WANDB_NOTES`, `WANDB_RUN_GROUP` in `.env`", lambda at: in_env_file(
        at, "WANDB_PROJECT", "WANDB_TAGS", "WANDB_NOTES", "WANDB_RUN_GROUP")),
    claim(8, "`.env.example`", lambda _: (ROOT / ".env.example").is_file()),
    claim(9, "`make run` on this machine, `make submit` on a cluster", lambda _: {"run", "submit"} <= {
        *local.__main__.OWN, *VERBS}),
    claim(10, "`--num_processes`", lambda at: {
        gpus: words[words.index("--num_processes") + 1] for gpus in ("1", "2")
        if (words := list(plan(at, GPUS=gpus, VRAM="24").launch.words()))} == {"1": "1", "2": "2"}),
    claim(11, "T4 and V100, which have no bf16, are refused", lambda at: all(
        "bfloat16" in refusal(at, GPU_TYPE=card) for card in ("t4", "v100"))),
    claim(12, "`make hardware`", lambda _: "hardware" in local.__main__.OWN),
    claim(12, "`GPU_TYPE=` or `VRAM=` says it", lambda at: [plan(at, **given).spec.resources.vram_gib for given in (
        {"GPU_TYPE": "a100"}, {"VRAM": "16"})] == [40, 16]),
    claim(13, "`make plan`", lambda _: "plan" in VERBS),
    claim(14, "a prediction in GiB, item by item", lambda at: len(plan(at, VRAM="24").chosen.estimate.items) > 10),
    claim(14, "GPUs do not add up", lambda at: "needs 22.9 GiB a GPU" in refusal(
        at, VRAM="24", MODEL="google/gemma-3-27b-it") and "usable are 14.7 of 16 GiB a GPU" in refusal(
        at, VRAM="16", GPUS="2", MODEL="google/gemma-3-27b-it")),
    claim(15, "fits without ZeRO", lambda at: plan(at, GPU_TYPE="rtx3070").chosen.label == "single_gpu_low_mem"),
    claim(15, "with several GPUs the plan's note says what ZeRO-3 would save", lambda at: all(
        "ZeRO-3" in " ".join(plan(at, GPUS="2", VRAM=vram).notes) for vram in ("8", "24"))),
    claim(16, "119 M", lambda at: "(119 M trained)" in plan_table(plan(at, VRAM="24")).splitlines()[0]),
    claim(17, "`load_in_4bit`", lambda at: is_set(at, "load_in_4bit: true", quantization="nf4")),
    *(claim(17, "dropped with a notice", lambda at, line=line: is_dropped(at, line)) for line in (
        "bnb_4bit_quant_type: nf4", "bnb_4bit_compute_dtype: bfloat16", "bnb_4bit_use_double_quant: true",
        "torch_dtype: bfloat16")),
    claim(17, "`QUANTIZATION=none` is without", lambda at: plan(
        at, VRAM="80", QUANTIZATION="none").spec.training.quantization == "none"),
    claim(18, "the same defaults", lambda _: [defaults()[name] for name in ("lora_r", "lora_alpha", "lora_dropout")]
        == [64, 128, 0.05]),
    claim(18, "(or `r`)", lambda at: is_set(at, "r: 32; lora_alpha: 64", lora_r=32, lora_alpha=64)),
    claim(18, "`bias` and `task_type` are dropped", lambda at: is_dropped(at, "bias: none")
        and is_dropped(at, "task_type: CAUSAL_LM")),
    claim(19, "translated to `lora_targets: all`", lambda at: is_set(
        at, "target_modules: all-linear", lora_targets="all")),
    claim(19, "`LORA_TARGETS=attention` or names choose fewer, `VISION=lora` adds the tower and the projector",
        lambda at: [trained(at, **given) for given in (
            {}, {"LORA_TARGETS": "attention"}, {"LORA_TARGETS": "q_proj,v_proj"}, {"VISION": "lora"})]
        == ["119 M", "35.7 M", "17.8 M", "154 M"]),
    claim(20, "flash attention, which ignores the image mask, is refused", lambda at: "flash ignores the image mask"
        in refused(at, "attn_implementation: flash_attention_2")),
    claim(20, "dropped with a notice", lambda at: is_dropped(at, "attn_implementation: eager")),
    claim(24, "`LORA=high`, `medium`, `low`, or any rank: `LORA=16` is 16/32", lambda at: [
        (training.lora_r, training.lora_alpha) for rank in ("high", "medium", "low", "16")
        if (training := plan(at, VRAM="80", LORA=rank).spec.training)] == [(128, 256), (64, 128), (32, 64), (16, 32)]),
    claim(24, "`LORA_ALPHA=`, `LORA_DROPOUT=` and `LORA_TARGETS=` change the others", lambda at: [
        (training.lora_alpha, training.lora_dropout, training.lora_targets) for training in [plan(
            at, VRAM="80", LORA="16", LORA_ALPHA="16", LORA_DROPOUT="0", LORA_TARGETS="attention").spec.training]]
        == [(16, 0, "attention")]),
    claim(25, "of 16 keys", lambda _: TRAINING_CONFIG.count(":") == 16),
    claim(25, "all are understood in a settings file", lambda at: all(
        plan_of_the_tutorials_file(at, card).effective_batch_size == 8 for card in ("rtx4090", "a100"))),
    claim(25, "`gradient_checkpointing` is left out where the plan fits without it", lambda at: not
        plan_of_the_tutorials_file(at, "rtx4090").chosen.checkpointing),
    claim(25, "have the same names and defaults", lambda _: [
        defaults()[name] for name in ("learning_rate", "max_steps", "weight_decay", "max_grad_norm")]
        == [2e-4, 1500, 0.01, 1.0]),
    claim(25, "`EFFECTIVE_BATCH=8`", lambda at: plan(at, VRAM="24").effective_batch_size == 8),
    claim(26, "dropped with a notice", lambda at: is_dropped(at, "dataloader_num_workers: 0")),
    claim(26, "`keep_checkpoints`, 3 by default", lambda at: defaults()["keep_checkpoints"] == 3 and is_set(
        at, "save_total_limit: 2", keep_checkpoints=2)),
    claim(27, "`warmup_fraction`", lambda at: is_set(at, "warmup_ratio: 0.2", warmup_fraction=0.2)),
    claim(27, "`optimizer: adamw`", lambda at: is_set(at, "optim: adamw_torch", optimizer="adamw")),
    claim(27, "dropped with a notice", lambda at: is_dropped(at, "lr_scheduler_type: cosine")
        and is_dropped(at, "bf16: true")),
    claim(27, "as on 8 and 12 GB: there the refusal says to take the `optim` line out", lambda at: all(
        re.search("take .*optim.* out", not_accepted(at, card)) for card in ("rtx3070", "rtx4070ti"))),
    claim(28, "the same names and defaults", lambda _: [
        defaults()[name] for name in ("logging_steps", "save_steps", "eval_steps")] == [10, 250, 250]),
    claim(30, "bayes, five parameters", lambda _: (sweep()["method"], len(sweep()["parameters"])) == ("bayes", 5)),  # type: ignore[arg-type]
    claim(31, "`eval/action_accuracy`", lambda _: sweep()["metric"] == {
        "name": "eval/action_accuracy", "goal": "maximize"}),
    claim(32, "`make sweep TRIALS=12`", lambda _: "sweep" in VERBS and parse_given(
        {"TRIALS": "12"}).trials == 12),
    claim(33, "`python -m local find-batch-size`", lambda _: "find-batch-size" in local.__main__.OWN),
    claim(34, "`batch_size.json` beside the data", lambda at: batch_path(str(at)) == at / "batch_size.json"),
    claim(35, '`make plan GRID="EFFECTIVE_BATCH=1,2,4,8"`', lambda at: [
        (one.effective_batch_size, one.chosen.micro_batch_size) for one in members(at, "EFFECTIVE_BATCH=1,2,4,8")]
        == [(1, 1), (2, 2), (4, 2), (8, 2)]),
    claim(36, "the rows of `make plan`", lambda at: {"activations", "optimizer", "language model"} <= set(
        dict(plan(at, VRAM="24").chosen.estimate.items))),
    claim(37, "`make plan GPU_TYPE=rtx4070ti`", lambda at: plan(at, GPU_TYPE="rtx4070ti").chosen.fits),
    claim(41, "`WANDB_PROJECT`, `WANDB_TAGS`, `WANDB_NOTES` in `.env`", lambda at: in_env_file(
        at, "WANDB_PROJECT", "WANDB_TAGS", "WANDB_NOTES")),
    claim(42, "`trainyard`", lambda _: "\nWANDB_PROJECT=trainyard\n" in (ROOT / ".env.example").read_text()),
    claim(44, "`WANDB_WATCH=all`", lambda _: watched({"WANDB_WATCH": "all"}) == "all"),
    *(claim(row, f"`{name}`", lambda at, name=name: in_env_file(at, name)) for row, name in (
        (51, "HUGGINGFACE_TOKEN"), (52, "WANDB_API_KEY"), (53, "MODEL_NAME"), (53, "GRID_DATASET_PATH"),
        (53, "OUTPUT_DIR"), (53, "MAX_STEPS"), (53, "LEARNING_RATE"), (55, "CUDA_VISIBLE_DEVICES"),
        (55, "TOKENIZERS_PARALLELISM"), (56, "PYTORCH_CUDA_ALLOC_CONF"), (56, "PYTORCH_ALLOC_CONF"))),
    claim(51, "`HF_TOKEN` is taken too", lambda at: in_env_file(at, "HF_TOKEN")),
    claim(52, "an empty value counts as not given", lambda at: in_env_file(at) and not any(
        "TOKEN" in name or "KEY" in name for name in read_env_file(ROOT / ".env.example"))),
    claim(52, "so does a placeholder such as `your_key_here`", lambda _: is_placeholder("your_key_here")),
    claim(53, "the same", lambda at: [
        (one.spec.model, one.spec.data, one.spec.output, one.spec.training.max_steps, one.spec.training.learning_rate)
        for one in [plan_with_env(at, "MODEL_NAME=Qwen/Qwen2.5-VL-3B-Instruct; GRID_DATASET_PATH=grids; "
            "OUTPUT_DIR=out; MAX_STEPS=77; LEARNING_RATE=1e-3")]]
        == [("Qwen/Qwen2.5-VL-3B-Instruct", "grids", "out", 77, 1e-3)]),
    claim(54, "multiplied to the effective batch, which the plan divides", lambda at: [
        plan_with_env(at, f"BATCH_SIZE={batch}; GRAD_ACCUM={steps}", GPUS="2").effective_batch_size
        for batch, steps in ((2, 4), (2, 3))] == [8, 6]),
    claim(56, "the job gets the value under that name", lambda _: all(
        with_env_file({name: "x:1"}, {}, {})["PYTORCH_ALLOC_CONF"] == "x:1"
        for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"))),
    claim(57, "honoured", lambda at: "deepspeed_zero3" in plan_with_env(
        at, "ACCELERATE_CONFIG=accelerate_configs/deepspeed_zero3.yaml", GPUS="2").chosen.label),
    claim(57, "a file that is not for your GPUs is refused", lambda at: is_refused(
        lambda: plan_with_env(at, "ACCELERATE_CONFIG=accelerate_configs/multi_gpu.yaml"),
        "CONFIG=multi_gpu: is not for 1 GPU: try CONFIG=single_gpu or CONFIG=single_gpu_low_mem "
        "(CONFIG is from ACCELERATE_CONFIG in .env)")),
    claim(56, "the plan sets the newer name", lambda at: "PYTORCH_ALLOC_CONF" in dict(plan(at, VRAM="24").env)),
    *(claim(row, f"`python -m trainer {verb}", lambda _, verb=verb: verb in trainer.__main__.VERBS) for row, verb in (
        (22, "layers"), (29, "config"), (63, "setup-wandb"), (66, "setup-wandb"))),
    claim(60, "`make hardware`, `python -m local find-batch-size`", lambda _: {"hardware", "find-batch-size"} <= {
        *local.__main__.OWN}),
    claim(64, "`python -m local profile-memory`", lambda _: "profile-memory" in local.__main__.OWN),
    claim(67, "`early_stopping_patience`", lambda _: "early_stopping_patience" in defaults()),
    claim(67, "`make resume RUN=`", lambda _: "resume" in VERBS),
    claim(68, "`docker/`, `slurm/`, `k8s/`, `trainer/`, `accelerate_configs/`, `Makefile`, `tests/`", lambda _: all(
        (ROOT / name).exists() for name in re.findall("`([^`]+)`", ROWS[68].partition(" | ")[0]))),
    claim(69, "exact pins in `pyproject.toml`", lambda _: all("==" in pin for pin in tomllib.loads(
        (ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"])),
    claim(71, "`make render TO=k8s", lambda at: manifest(at, GPUS="2", VRAM="24", IMAGE="x.org/y:1")
        == ["ConfigMap", "Job"]),
    claim(72, "`make docker-run`", lambda _: "docker-run" in local.__main__.OWN),
    claim(74, "this page", lambda _: "(docs/from-the-tutorial.md)" in (ROOT / "README.md").read_text()),
    claim(73, "`make plan GPUS=2 VRAM=24`", lambda at: plan(at, GPUS="2", VRAM="24").chosen.label == "multi_gpu"),
)  # fmt: skip

# What takes a training, a service or a pretended card to try, and the test that does: row, words, test.
TRIED_BY: Sequence[tuple[int, str, str]] = (
    (4, "transformers skips zero.Init", "test_zero3_is_stage_3_without_hostfile_pdsh_or_zero_init"),
    (9, "the plan fills in", "test_every_variable_reaches_its_field"),
    (12, "`make run` and `make plan TO=local` take what it finds", "test_hardware_shows_each_card_and_what_a_run_gets"),
    (12, "the job compares what it finds with the plan", "test_what_is_wrong_with_the_gpus_is_one_line"),
    (21, "the log at the start of a run", "test_a_loaded_model_keeps_the_contract"),
    (23, "the second table of `layers`", "test_the_figures_that_are_counted_are_those_of_layers"),
    (29, "seven rows", "test_the_table_of_what_matters_has_seven_rows"),
    (34, "the next plan takes it", "test_a_plan_takes_the_measured_micro_batch_over_its_own_prediction"),
    *(
        (row, "the table below", "test_the_tables_of_every_card_are_what_the_planner_chooses")
        for row in (37, 38, 39, 40)
    ),
    (
        41,
        "one W&B run over all its attempts",
        "test_the_whole_trainer_preempted_ends_with_the_losses_and_the_wandb_run_of_one_that_was_not",
    ),
    (
        43,
        "`parameters` in the run's configuration too",
        "test_a_run_reaches_the_service_whole_with_its_plan_and_versions_and_the_trainers_own_steps",
    ),
    (44, "only trained parameters are watched", "test_wandb_watches_the_trained_parameters_alone"),
    (
        45,
        "`eval/action_accuracy`",
        "test_a_run_reaches_the_service_whole_with_its_plan_and_versions_and_the_trainers_own_steps",
    ),
    (
        46,
        "`eval/predictions`, `eval/targets` in W&B",
        "test_rows_media_and_summary_reach_the_service_under_group_tags_and_notes",
    ),
    (
        46,
        "histograms of the same in TensorBoard",
        "test_tensorboard_goes_on_after_a_resume_without_a_step_twice_and_ties_settings_to_the_result",
    ),
    (47, "the table `eval/samples`", "test_rows_media_and_summary_reach_the_service_under_group_tags_and_notes"),
    (
        48,
        "tied to the final accuracy",
        "test_tensorboard_goes_on_after_a_resume_without_a_step_twice_and_ties_settings_to_the_result",
    ),
    (
        49,
        "`train/loss`",
        "test_tensorboard_goes_on_after_a_resume_without_a_step_twice_and_ties_settings_to_the_result",
    ),
    (
        50,
        "resident memory on the CPU",
        "test_a_window_has_its_records_and_tokens_without_padding_evaluation_and_saving",
    ),
    (58, "exit code 78 when something fails", "test_what_fails_says_what_to_do_and_ends_with_78"),
    (59, "the row `settings`", "test_settings_that_nobody_uses_are_said_with_what_is_usual"),
    (61, "`accelerate test`", "test_accelerate_test_succeeds_with_the_file_for_the_cpu"),
    (62, "trains two steps", "test_all_ends_with_two_real_steps_and_leaves_nothing"),
    (
        63,
        "`python -m trainer setup-wandb --test-run`",
        "test_without_a_key_the_test_run_is_kept_with_its_upload_command",
    ),
    (65, "`make validate`", "test_all_ends_with_two_real_steps_and_leaves_nothing"),
    (67, "a stop saves the current step", "test_a_stop_saves_the_very_step_and_ends_with_75"),
    (70, "without records there is nothing to train on", "test_submit_refuses_bad_data_before_anything_is_written"),
    (72, "`make docker-run`", "test_docker_gets_the_plans_own_words_and_nothing_of_the_machine_but_what_it_needs"),
)


def test_every_row_is_tried_and_every_test_that_tries_one_is_there() -> None:
    assert {one.row for one in CLAIMS} | {row for row, _, _ in TRIED_BY} == set(range(1, 75))
    assert [(row, words) for row, words, _ in TRIED_BY if words not in ROWS[row]] == []
    known = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M)
    }
    assert {name for _, _, name in TRIED_BY} - known == set()


def test_what_a_row_says_stands_there_and_holds(tmp_path: Path) -> None:
    assert [(one.row, one.words) for one in CLAIMS if one.words not in ROWS[one.row]] == []
    assert [(one.row, one.words) for one in CLAIMS if not one.holds(tmp_path)] == []


def test_the_table_of_what_matters_has_seven_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert '"What matters", seven rows' in ROWS[29]
    shown = said_of_settings(capsys).partition("What matters")[2].partition("Settings:")[0]
    assert len(re.findall(r"^  \w.*  (?:critical|high|medium|low)  ", shown, re.M)) == 7


def test_the_figures_that_are_counted_are_those_of_layers() -> None:
    """And the two tables of `layers` have what the rows about them say."""
    import transformers  # noqa: F401 - which `layers` loads: make test-fast runs such a file where that is done once

    shown = printed("layers", "--model", "google/gemma-3-4b-it")
    said = re.findall(r"\d+,\d{3},\d{3}", PAGE.partition("| counted |")[2].partition("| eager")[0])
    assert said == ["1,048,576", "153,991,168", "119,209,984"]
    assert [figure in shown for figure in said] == [False, True, True]
    assert "what each choice would train" in ROWS[23] and "names ending in q_proj" in shown


@pytest.mark.parametrize(
    ("said", "words", "make", "answer"),
    [
        ("`BATCH_SIZE=2` is answered with\n`EFFECTIVE_BATCH`", (), "BATCH_SIZE", "did you mean EFFECTIVE_BATCH?"),
        ("`LR=` with `LEARNING_RATE`", (), "LR", "did you mean LEARNING_RATE?"),
        ("`WEIGHT_DECAY=` is said to be a line of the settings file", (), "WEIGHT_DECAY", "a line of a settings file"),
        ("`WANDB_PROJECT=` to belong into `.env`", (), "WANDB_PROJECT", "and the like from .env"),
        ("`--gres`", ("--gres", "gpu:2"), "", "did you mean --gpus?"),
        ("`--cpus-per-task`", ("--cpus-per-task", "4"), "", "did you mean --cpus?"),
    ],
)
def test_a_name_of_the_tutorial_that_is_not_makes_is_answered(
    said: str, words: tuple[str, ...], make: str, answer: str
) -> None:
    assert said in PAGE
    assert answer in answer_to(*words, make=make)


def test_sbatchs_word_for_memory_is_taken() -> None:
    assert "`--mem=32G` is taken" in PAGE
    assert parse_given(read_given(["--mem=32G"], {})).mem == 32


def test_a_dash_is_an_underscore_and_what_is_wrong_below_a_heading_stands_beside_it(tmp_path: Path) -> None:
    assert "In a settings file `learning-rate` is `learning_rate`" in PAGE
    assert is_set(tmp_path, "learning-rate: 1e-3", learning_rate=1e-3)
    assert "Headings (`training:`, `lora_config:`) have to go" in PAGE
    said = refused(tmp_path, "training:;   foo: 3; lora_config:;   r: 0")
    assert re.search(r"unknown 'foo'.*; r=0: takes .*; training, lora_config are headings", said)


@pytest.mark.slow
def test_accelerate_test_succeeds_with_the_file_for_the_cpu() -> None:
    """accelerate starts its launcher by name, so the environment's programs are on PATH."""
    programs = Path(sys.executable).parent
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    words = [str(programs / "accelerate"), "test", "--config_file", "accelerate_configs/cpu_mps.yaml"]
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600)
    assert "Test is a success!" in done.stdout


@pytest.mark.slow
def test_the_hubs_command_has_whoami() -> None:
    assert "`hf auth whoami`" in ROWS[66]
    words = [str(Path(sys.executable).parent / "hf"), "auth", "whoami", "--help"]
    assert subprocess.run(words, capture_output=True, timeout=300).returncode == 0
