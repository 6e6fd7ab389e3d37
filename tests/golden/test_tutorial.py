"""What docs/from-the-tutorial.md says of the things of the tutorial is so: a row's words stand there, and hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml
from paths import ROOT

import local.__main__
import trainer.__main__
from launcher.starting import planned
from planner.fitting import batch_path
from planner.plan import Plan
from planner.table import plan_table
from slurm.scheduler import SCHEDULER
from trainer.config import TrainConfig
from trainer.env_file import read_env_file
from trainer.flags import options
from trainer.outcome import ConfigError
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


def in_env_file(folder: Path, *names: str) -> bool:
    (folder / ".env").write_text("".join(f"{name}=1\n" for name in names))
    return set(read_env_file(folder / ".env")) == {*names}


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
    claim(6, "`single_gpu_low_mem.yaml`", lambda _: config("single_gpu_low_mem")["mixed_precision"] == "bf16"),
    claim(7, "`WANDB_PROJECT`, `WANDB_TAGS`, `WANDB_NOTES`, `WANDB_RUN_GROUP` in `.env`", lambda at: in_env_file(
        at, "WANDB_PROJECT", "WANDB_TAGS", "WANDB_NOTES", "WANDB_RUN_GROUP")),
    claim(8, "`.env.example`", lambda _: (ROOT / ".env.example").is_file()),
    claim(10, "`--num_processes`", lambda at: {
        gpus: words[words.index("--num_processes") + 1] for gpus in ("1", "2")
        if (words := list(plan(at, GPUS=gpus, VRAM="24").launch.words()))} == {"1": "1", "2": "2"}),
    claim(11, "T4 and V100, which have no bf16, are refused", lambda at: all(
        "bfloat16" in refusal(at, GPU_TYPE=card) for card in ("t4", "v100"))),
    claim(15, "fits without ZeRO", lambda at: plan(at, GPU_TYPE="rtx3070").chosen.label == "single_gpu_low_mem"),
    claim(16, "119 M", lambda at: "(119 M trained)" in plan_table(plan(at, VRAM="24")).splitlines()[0]),
    claim(17, "`load_in_4bit`", lambda at: is_set(at, "load_in_4bit: true", quantization="nf4")),
    *(claim(17, "dropped with a notice", lambda at, line=line: is_dropped(at, line)) for line in (
        "bnb_4bit_quant_type: nf4", "bnb_4bit_compute_dtype: bfloat16", "bnb_4bit_use_double_quant: true",
        "torch_dtype: bfloat16")),
    claim(18, "the same defaults", lambda _: [defaults()[name] for name in ("lora_r", "lora_alpha", "lora_dropout")]
        == [64, 128, 0.05]),
    claim(18, "(or `r`)", lambda at: is_set(at, "r: 32; lora_alpha: 64", lora_r=32, lora_alpha=64)),
    claim(18, "`bias` and `task_type` are dropped", lambda at: is_dropped(at, "bias: none")
        and is_dropped(at, "task_type: CAUSAL_LM")),
    claim(19, "translated to `lora_targets: all`", lambda at: is_set(
        at, "target_modules: all-linear", lora_targets="all")),
    claim(20, "dropped with a notice", lambda at: is_dropped(at, "attn_implementation: eager")),
    claim(24, "`LORA=high`, `medium`, `low`, or any rank: `LORA=16` is 16/32", lambda at: [
        (training.lora_r, training.lora_alpha) for rank in ("high", "medium", "low", "16")
        if (training := plan(at, VRAM="80", LORA=rank).spec.training)] == [(128, 256), (64, 128), (32, 64), (16, 32)]),
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
    claim(28, "the same names and defaults", lambda _: [
        defaults()[name] for name in ("logging_steps", "save_steps", "eval_steps")] == [10, 250, 250]),
    claim(30, "bayes, five parameters", lambda _: (sweep()["method"], len(sweep()["parameters"])) == ("bayes", 5)),  # type: ignore[arg-type]
    claim(31, "`eval/action_accuracy`", lambda _: sweep()["metric"] == {
        "name": "eval/action_accuracy", "goal": "maximize"}),
    claim(33, "`python -m local find-batch-size`", lambda _: "find-batch-size" in local.__main__.OWN),
    claim(34, "`batch_size.json` beside the data", lambda at: batch_path(str(at)) == at / "batch_size.json"),
    claim(36, "the rows of `make plan`", lambda at: {"activations", "optimizer", "language model"} <= set(
        dict(plan(at, VRAM="24").chosen.estimate.items))),
    *(claim(row, f"`{name}`", lambda at, name=name: in_env_file(at, name)) for row, name in (
        (51, "HUGGINGFACE_TOKEN"), (52, "WANDB_API_KEY"), (53, "MODEL_NAME"), (53, "GRID_DATASET_PATH"),
        (53, "OUTPUT_DIR"), (53, "MAX_STEPS"), (53, "LEARNING_RATE"), (55, "CUDA_VISIBLE_DEVICES"),
        (55, "TOKENIZERS_PARALLELISM"), (56, "PYTORCH_CUDA_ALLOC_CONF"), (56, "PYTORCH_ALLOC_CONF"))),
    claim(54, "`BATCH_SIZE` 2, `GRAD_ACCUM` 4", lambda at: in_env_file(at, "BATCH_SIZE", "GRAD_ACCUM")),
    claim(56, "the plan sets the newer name", lambda at: "PYTORCH_ALLOC_CONF" in dict(plan(at, VRAM="24").env)),
    *(claim(row, f"`python -m trainer {verb}", lambda _, verb=verb: verb in trainer.__main__.VERBS) for row, verb in (
        (22, "layers"), (29, "config"), (63, "setup-wandb"), (66, "setup-wandb"))),
    claim(64, "`python -m local profile-memory`", lambda _: "profile-memory" in local.__main__.OWN),
    claim(67, "`early_stopping_patience`", lambda _: "early_stopping_patience" in defaults()),
    claim(68, "`docker/`, `slurm/`, `k8s/`, `trainer/`, `accelerate_configs/`, `Makefile`, `tests/`", lambda _: all(
        (ROOT / name).exists() for name in ("docker", "slurm", "k8s", "trainer", "accelerate_configs", "Makefile"))),
    claim(72, "`make docker-run`", lambda _: "docker-run" in local.__main__.OWN),
    claim(73, "`make plan GPUS=2 VRAM=24`", lambda at: plan(at, GPUS="2", VRAM="24").chosen.label == "multi_gpu"),
)  # fmt: skip


def test_what_a_row_says_stands_there_and_holds(tmp_path: Path) -> None:
    assert [(one.row, one.words) for one in CLAIMS if one.words not in ROWS[one.row]] == []
    assert [(one.row, one.words) for one in CLAIMS if not one.holds(tmp_path)] == []


def test_the_table_of_what_matters_has_seven_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert '"What matters", seven rows' in ROWS[29]
    shown = said_of_settings(capsys).partition("What matters")[2].partition("Settings:")[0]
    assert len(re.findall(r"^  \w.*  (?:critical|high|medium|low)  ", shown, re.M)) == 7
