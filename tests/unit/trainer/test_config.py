"""Where a setting comes from, how it is spelled, and in which words a wrong one is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from specs import make_spec

from launcher.preconditions import check_planned
from planner.choose import choose
from planner.request.file_settings import SETTING_VARIABLES, check_trainer_accepts
from planner.request.resolve import resolve
from planner.request.site import Site
from trainer.__main__ import main
from trainer.config import KNOBS, LORA_PRESETS, SETTINGS, TrainConfig
from trainer.env_file import read_env_file, take_env_file
from trainer.flags import convert, field_help, help_table, options, word
from trainer.other_trainers import NEEDLESS
from trainer.outcome import ConfigError
from trainer.settings import PLANNED, Settings, resolve_settings, usage
from trainer.spellings import ENVIRONMENT, OURS

NEEDED = ("--model", "m", "--data", "d", "--output_dir", "o", "--run_id", "r")


def changed(settings: Settings) -> dict[str, tuple[Any, str]]:
    """(value, source) of everything that is no default."""
    return {
        name: (settings.values[name], source)
        for name, source in settings.sources.items()
        if source != "default" and f"--{name}" not in NEEDED
    }


def refusal(*argv: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_settings(argv, environ or {}).config()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, text: str) -> str:
    (folder / "train.yaml").write_text(text)
    return str(folder / "train.yaml")


def test_the_defaults_are_the_documented_ones() -> None:
    assert resolve_settings(NEEDED, {}).config() == TrainConfig(
        model="m", data="d", output_dir="o", run_id="r", image_root=None, device="cuda", world_size=1,
        micro_batch_size=1, gradient_accumulation_steps=8, activation_checkpointing=False, optimizer="adamw",
        quantization="nf4", lora_r=64, lora_alpha=128, lora_dropout=0.05, max_length=1024, max_steps=1500,
        learning_rate=2e-4, warmup_fraction=0.1, weight_decay=0.01, max_grad_norm=1.0, seed=0, logging_steps=10,
        eval_steps=250, eval_fraction=0.1, eval_samples=256, answer_field="auto",
    )  # fmt: skip


def test_command_line_wins_over_environment_over_env_file_over_yaml_over_default(tmp_path: Path) -> None:
    path = written(tmp_path, "max_steps: 1\nlearning_rate: 1e-3\nseed: 1\nweight_decay: 0.5\n")
    settings = resolve_settings(
        [*NEEDED, "--config", path, "--max-steps=4"],
        {"MAX_STEPS": "3", "LEARNING_RATE": "0.003"},
        {"MAX_STEPS": "2", "LEARNING_RATE": "0.002", "BATCH_SIZE": "2"},
    )
    assert changed(settings) == {
        "max_steps": (4, "command line"),
        "learning_rate": (0.003, "environment"),
        "micro_batch_size": (2, ".env"),
        "seed": (1, path),
        "weight_decay": (0.5, path),
    }
    assert settings.config().max_steps == 4


def test_the_yaml_file_may_be_named_in_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 7")
    assert changed(resolve_settings(NEEDED, {"CONFIG_FILE": path})) == {"seed": (7, path)}
    assert changed(resolve_settings(NEEDED, {}, {"CONFIG_FILE": path})) == {"seed": (7, path)}


def test_every_type_is_read_from_yaml_as_from_the_command_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "model: m\ndata: d\noutput_dir: o\nrun_id: 5\nactivation_checkpointing: yes\nlora_dropout: 0\n"
        "optimizer: paged_adamw_8bit\nlearning_rate: 1e-5\n",
    )
    assert resolve_settings(["--config", path], {}).config() == TrainConfig(
        model="m", data="d", output_dir="o", run_id="5", activation_checkpointing=True, lora_dropout=0.0,
        optimizer="paged_adamw_8bit", learning_rate=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("data: 2024-01-01", "data", "2024-01-01"), ("data: 007", "data", "007"), ("run_id: 1.50", "run_id", "1.50"),
        ("answer_field: yes", "answer_field", "yes"), ("actions: [no, 010, left turn]", "actions", "no,010,left turn"),
        ("seed: 010", "seed", 10), ("strict: Yes", "strict", True), ("strict: off", "strict", False),
        ("strict: TRUE", "strict", True), ("load_in_4bit: no", "quantization", "none"),
        ("lr: 1.e-3", "learning_rate", 1e-3),
    ],
)  # fmt: skip
def test_a_value_in_yaml_is_what_the_file_says(text: str, name: str, value: object, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    settings = resolve_settings(["--config", path, "--bf16", "yes"], {})
    assert (settings.values[name], settings.sources[name]) == (value, path)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(TrainConfig)])
def test_every_setting_is_documented_and_its_default_is_allowed(name: str) -> None:
    field = TrainConfig.__dataclass_fields__[name]
    assert len(field_help(TrainConfig)[name]) > 10
    if field.default not in (dataclasses.MISSING, None):
        assert convert(TrainConfig, name, word(field.default), shown_as=name) == field.default
    assert f"  --{name}  " in help_table(TrainConfig)


@pytest.mark.parametrize("preset", [*LORA_PRESETS, "16", "1"])
def test_lora_sets_rank_and_alpha_under_what_says_them_outright(preset: str) -> None:
    rank = {"high": 128, "medium": 64, "low": 32, "16": 16, "1": 1}[preset]
    values = resolve_settings([], {"LORA": preset}).values
    assert (values["lora_r"], values["lora_alpha"]) == (rank, 2 * rank)
    values = resolve_settings(["--lora", preset, "--lora_alpha", "7"], {}).values
    assert (values["lora_r"], values["lora_alpha"]) == (rank, 7)


@pytest.mark.parametrize(
    "argv",
    [["--lora_r", "16", "--lora", "high"], ["--lora", "high", "--lora_r", "16"], ["--lora", "high", "--rank=16"]],
)
def test_a_rank_that_is_said_outright_wins_over_a_preset_wherever_it_stands(argv: list[str]) -> None:
    assert resolve_settings(argv, {}).values["lora_r"] == 16


def test_what_is_exported_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"HF_TOKEN": "hf_exported"})
    (tmp_path / ".env").write_text("HF_TOKEN=hf_file\nHUGGINGFACE_TOKEN=hf_other\nHF_HOME=/hf\n")
    take_env_file()
    assert os.environ == {"HF_TOKEN": "hf_exported", "HUGGINGFACE_TOKEN": "hf_other", "HF_HOME": "/hf"}


@pytest.mark.parametrize("argv", [["--lora_r", "32"], ["--rank", "32"]])
def test_a_rank_alone_brings_twice_itself_as_alpha(argv: list[str], tmp_path: Path) -> None:
    assert changed(resolve_settings(argv, {})) == {"lora_r": (32, "command line"), "lora_alpha": (64, "twice lora_r")}
    path = written(tmp_path, "lora_alpha: 7\n")
    assert resolve_settings([*argv, "--config", path], {}).values["lora_alpha"] == 7
    assert resolve_settings(["--lora_alpha", "7"], {}).values["lora_r"] == 64


def test_a_preset_that_is_a_list_is_refused_like_any_other(tmp_path: Path) -> None:
    path = written(tmp_path, "lora: [high]\n")
    assert (
        refusal("--config", path)
        == f"{path}: lora=\"['high']\": takes high, medium, low or a rank, a whole number from 1 to 1024"
    )


LISTED = "python -m trainer config --help lists all"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning_rte", "1"], f"unknown '--learning_rte', did you mean learning_rate? {LISTED}"),
        (["--zzz"], f"unknown '--zzz': {LISTED}"),
        (["--jsn"], f"unknown '--jsn', did you mean json? {LISTED}"),
        (["--data_sed", "1"], f"unknown '--data_sed', did you mean data_seed? {LISTED}"),
        (["seed", "1"], "unexpected 'seed': options are written --name value or --name=value"),
        (["--seed"], "--seed='': takes a whole number from 0 to 4294967295"),
        (["--seed", "1", "--seed=2"], "--seed was given twice"),
        (["--config"], "--config='': takes a YAML file"),
        (["--seed", ""], "--seed='': takes a whole number from 0 to 4294967295"),
        (["--seed", "1_0"], "--seed=1_0: takes a whole number from 0 to 4294967295"),
        (["--max_steps", "0"], "--max_steps=0: takes a whole number from 1 to 10000000"),
        (["--learning_rate", "0"], "--learning_rate=0: takes a number from 1e-30 to 1"),
        (["--learning_rate", "nan"], "--learning_rate=nan: takes a number from 1e-30 to 1"),
        (["--learning_rate", "-1"], "--learning_rate=-1: takes a number from 1e-30 to 1"),
        (["--warmup_fraction", "1.5"], "--warmup_fraction=1.5: takes a number from 0 to 1"),
        (["--max_length", "8"], "--max_length=8: takes a whole number from 16 to 1048576"),
        (["--device", "tpu"], "--device=tpu: takes cuda or cpu or mps"),
        (["--activation_checkpointing", "maybe"], "--activation_checkpointing=maybe: takes true or false"),
        (["--lora", "huge"], "--lora=huge: takes high, medium, low or a rank, a whole number from 1 to 1024"),
        (["--answer_field", "a\nb"], "--answer_field='a\\nb': takes text on one line"),
        ([], "lacking --model, --data, --output_dir, --run_id: "
             "for example --model google/gemma-3-4b-it --data records.jsonl"),
        (["--epochs", "3"], "--epochs is not a setting here: runs are counted in optimizer steps: "
                            "give max_steps, which is epochs x records / effective batch"),
        (["--torch_dtype", "float16"], "--torch_dtype is not a setting here: GPUs compute in "
                                       "bf16, adapters are kept in fp32"),
        (["--max_seq_length", "64", "--max_length", "64"],
         "command line: max_seq_length and max_length are both max_length here: leave one out"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_refused_in_one_line(argv: list[str], message: str) -> None:
    assert refusal(*argv) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step: 3", f"{{path}}: unknown 'max_step', did you mean max_steps? {LISTED}"),
        ("max_steps: lots", "{path}: max_steps=lots: takes a whole number from 1 to 10000000"),
        ("max_steps: [1]", "{path}: max_steps=\"['1']\": takes a whole number from 1 to 10000000"),
        ("seed: 2024-13-41", "{path}: seed=2024-13-41: takes a whole number from 0 to 4294967295"),
        ("seed: 1_000", "{path}: seed=1_000: takes a whole number from 0 to 4294967295"),
        ("seed: !!timestamp 2024-13-41", "{path}: seed: line 1 has a tag, '!!timestamp': write the value alone"),
        ("seed: " + 500 * "[", "{path}: is not YAML: it nests deeper than 64 levels"),
        ("max_step:", f"{{path}}: unknown 'max_step', did you mean max_steps? {LISTED}"),
        ("max_steps: ''", "{path}: max_steps='': takes a whole number from 1 to 10000000"),
        ("max_steps: 'null'", "{path}: max_steps=null: takes a whole number from 1 to 10000000"),
        ("seed: 1\nseed: 2", "{path}: seed was given twice, in line 1 and 2"),
        ("- seed", "{path}: takes `name: value` on each line; see python -m trainer config --help"),
        ("seed: [", "{path}: is not YAML: line 1, column 8: while parsing a flow node: expected the node "
                    "content, but found '<stream end>'"),
        ("actions: [up, null]", "{path}: actions: the list holds an empty value: remove it"),
        ("max_steps: 0\nseed: x\nmax_step: 1", 
         "{path}: max_steps=0: takes a whole number from 1 to 10000000; seed=x: takes a whole number from 0 to "
         f"4294967295; unknown 'max_step', did you mean max_steps? {LISTED}"),
        ("max_steps: 0\nseed: x", "{path}: max_steps=0: takes a whole number from 1 to 10000000; seed=x: takes a "
                                  "whole number from 0 to 4294967295"),
        ("num_train_epochs: 3", "{path}: num_train_epochs is not a setting here: runs are counted "
                                "in optimizer steps: give max_steps, which is epochs x records / effective batch"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    assert refusal("--config", path) == message.format(path=path)


def test_a_file_that_is_not_there_and_a_wrong_variable_are_named() -> None:
    assert refusal("--config", "/no/where.yaml") == "/no/where.yaml: cannot be read (No such file or directory)"
    assert refusal(environ={"BATCH_SIZE": "0"}) == ("environment: BATCH_SIZE=0: takes a whole number from 1 to 4096")


def test_old_spellings_are_translated_and_said(tmp_path: Path) -> None:
    path = written(tmp_path, "warmup_ratio: 0.2\nmax_seq_length: 64\ntorch_dtype: bfloat16\noptim: adamw_torch\n"
                             "lora_rank: 32\nevaluation_strategy: steps\nload_in_4bit: false\n")  # fmt: skip
    settings = resolve_settings(["--config", path], {})
    assert changed(settings) == {
        "warmup_fraction": (0.2, path), "max_length": (64, path), "optimizer": ("adamw", path),
        "lora_r": (32, path), "lora_alpha": (64, "twice lora_r"), "quantization": ("none", path),
    }  # fmt: skip
    assert settings.notices == (
        f"{path}: warmup_ratio=0.2 is warmup_fraction=0.2 here",
        f"{path}: max_seq_length=64 is max_length=64 here",
        f"{path}: optim=adamw_torch is optimizer=adamw here",
        f"{path}: lora_rank=32 is lora_r=32 here",
        f"{path}: load_in_4bit=false is quantization=none here",
        f"{path}: torch_dtype is not needed: GPUs compute in bf16, adapters are kept in fp32",
        f"{path}: evaluation_strategy is not needed: there is an evaluation every eval_steps and at the last step",
    )


def test_every_name_in_the_tables_is_a_setting_or_a_variable() -> None:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    # No name is another setting's too.
    names = [other for setting in SETTINGS.values() for other in (setting.env, *setting.also.split()) if other]
    assert len(set(names)) == len(names) == len(OURS) - len(["LORA"])
    assert not (set(OURS) | set(NEEDLESS)) & fields
    assert all(name in usage() for name in (*OURS, *PLANNED))
    assert {name for name, *_ in KNOBS} - {"effective batch"} <= fields
    assert {"LORA", "LORA_ALPHA", "LORA_DROPOUT"} <= {variable.name for variable in SETTING_VARIABLES}


def test_config_prints_values_and_sources_and_says_what_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("MAX_STEPS=20\nHF_TOKEN=hf_secret\n")
    (tmp_path / ".env").chmod(0o600)
    assert main(["config", "--warmup_ratio", "0"]) == 78
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "model                        -                            required, given by nobody"
    assert "max_steps                    20                           .env" in lines
    assert "warmup_fraction              0.0                          command line" in lines
    assert len(lines) == len(dataclasses.fields(TrainConfig))
    assert said.err == "trainyard: command line: warmup_ratio=0 is warmup_fraction=0 here\n"
    del os.environ["MAX_STEPS"]  # put there for the libraries' sake
    assert main(["config", *NEEDED, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["max_steps"] == {"value": 20, "source": ".env"}
    assert report["lacking"] == []


def plan_for(folder: Path, **given: str) -> Any:
    return choose(resolve(given, project_dir=folder, environ={}, run_suffix="x"))


def test_the_planner_reads_the_same_files_and_the_command_line_wins(tmp_path: Path) -> None:
    written(tmp_path, "lora: low\nmax_length: 512\nlora_dropout: 0\nseed: 3\nweight_decay: 0.1\nmax_steps: 5\n")
    (tmp_path / ".env").write_text(
        "CONFIG_FILE=train.yaml\nBATCH_SIZE=2\nGRAD_ACCUM=8\nMAX_STEPS=6\nLEARNING_RATE=1e-4\n"
        "ACCELERATE_CONFIG=accelerate_configs/single_gpu.yaml\nWANDB_API_KEY=secret\nOUTPUT_DIR=out\n"
    )
    spec = plan_for(tmp_path, LEARNING_RATE="3e-4").spec
    assert (
        spec.training.lora_r,
        spec.training.lora_alpha,
        spec.training.max_length,
        spec.training.lora_dropout,
        spec.training.seed,
    ) == (32, 64, 512, 0.0, 3)
    assert (spec.training.effective_batch_size, spec.training.max_steps, spec.training.learning_rate) == (16, 6, 3e-4)
    assert (spec.training.accelerate_config, spec.output, spec.training.config_file) == (
        "single_gpu",
        "out",
        "train.yaml",
    )


def test_batch_size_and_accumulation_may_come_from_either_file_and_mean_their_product(tmp_path: Path) -> None:
    written(tmp_path, "gradient_accumulation_steps: 4\noutput_dir: elsewhere\n")
    assert plan_for(tmp_path, CONFIG_FILE="train.yaml").spec.training.effective_batch_size is None
    (tmp_path / ".env").write_text("CONFIG_FILE=train.yaml\nBATCH_SIZE=3\n")
    spec = plan_for(tmp_path).spec
    assert (spec.training.effective_batch_size, spec.output) == (12, "runs")


@pytest.mark.parametrize(
    ("env_file", "given", "said"),
    [
        ("BATCH_SIZE=3\nGRAD_ACCUM=2\n", {"GPUS": "4"}, "EFFECTIVE_BATCH=6: cannot be shared evenly by 4 GPUs: "
         "try 4 or 8 (EFFECTIVE_BATCH is from BATCH_SIZE x GRAD_ACCUM in .env)"),
        ("ACCELERATE_CONFIG=multi_gpu\n", {}, "CONFIG=multi_gpu: is not for 1 GPU: try CONFIG=single_gpu or "
         "CONFIG=single_gpu_low_mem (CONFIG is from ACCELERATE_CONFIG in .env)"),
        ("MODEL_NAME=no such/model\n", {}, "MODEL='no such/model': no folder here and no hub id: give a folder, or "
         "owner/name as in google/gemma-3-4b-it (MODEL is from MODEL_NAME in .env)"),
        ("MODEL_NAME=https://hf.co/a/b\n", {}, "MODEL is an address: give the hub id alone, owner/name, or a folder, "
         "as ./x@y if it has @ (MODEL is from MODEL_NAME in .env)"),
        ("BATCH_SIZE=3\nGRAD_ACCUM=2\n", {"GPUS": "4", "EFFECTIVE_BATCH": "6"}, "EFFECTIVE_BATCH=6: cannot be "
         "shared evenly by 4 GPUs: try 4 or 8"),
    ],
)  # fmt: skip
def test_what_nobody_typed_is_refused_with_where_it_comes_from(
    env_file: str, given: dict[str, str], said: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(env_file)
    with pytest.raises(ConfigError) as caught:
        plan_for(tmp_path, **given)
    assert str(caught.value) == said


def test_a_model_of_the_settings_file_and_memory_of_the_site_are_named_too(tmp_path: Path) -> None:
    path = written(tmp_path, "model: no such/model\n")
    with pytest.raises(ConfigError, match=re.escape(f"(MODEL is from model in {path})")):
        plan_for(tmp_path, CONFIG_FILE="train.yaml")
    site = Site(source="mine.yaml", texts={"MEM": "1"})
    with pytest.raises(ConfigError, match=r"try MEM=2 or more \(MEM is from mine\.yaml\)$"):
        resolve({}, project_dir=tmp_path, environ={}, site=site)


def test_where_a_value_comes_from_is_said_of_each_of_two_mistakes(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MODEL_NAME=nobody/none\n")
    with pytest.raises(ConfigError) as caught:
        plan_for(tmp_path, GPU_TYPE="foo")
    assert str(caught.value).startswith("GPU_TYPE=foo: not known")
    assert "(MODEL is from MODEL_NAME in .env)" in str(caught.value)


def test_home_folders_of_settings_and_images_are_expanded(tmp_path: Path) -> None:
    written(tmp_path, "max_steps: 7\n")
    given = {"CONFIG_FILE": "~/train.yaml", "IMAGE": "~/a.sif", "RUNTIME": "apptainer"}
    spec = resolve(given, project_dir=Path("/nowhere"), environ={"HOME": str(tmp_path)})
    assert (spec.training.config_file, spec.container.image, spec.training.max_steps) == (
        f"{tmp_path}/train.yaml",
        f"{tmp_path}/a.sif",
        7,
    )


def test_a_kind_of_gpu_for_the_cpu_is_refused_unless_the_site_says_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^GPU_TYPE=a100: DEVICE=cpu uses no GPU: leave one of them out$"):
        plan_for(tmp_path, DEVICE="cpu", GPU_TYPE="a100")
    assert plan_for(tmp_path, DEVICE="cpu", GPU_TYPE="a100", GPUS="1").spec.resources.gpu_type == "a100"
    site = Site(source="mine.yaml", texts={"GPU_TYPE": "a100"})
    assert resolve({"DEVICE": "cpu"}, project_dir=tmp_path, environ={}, site=site).resources.gpus == 0


def test_what_no_run_takes_is_refused_in_env_file_before_anything_is_planned(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_STEPS=0\n")
    with pytest.raises(ConfigError, match=r"^\.env line 1: MAX_STEPS=0: takes a whole number from 1 to .*$"):
        plan_for(tmp_path)
    (tmp_path / ".env").write_text("MAX_STEPS=0\nLEARNING_RATE=abc\n")
    with pytest.raises(ConfigError, match=r"^\.env line 1: MAX_STEPS=0: .*; \.env line 2: LEARNING_RATE=abc: .*$"):
        plan_for(tmp_path)


def test_the_ranks_get_the_file_and_are_told_that_it_was_planned(tmp_path: Path) -> None:
    assert "--config" not in plan_for(tmp_path).launch.words()
    argv = choose(make_spec(config_file="train.yaml")).launch.words()
    assert argv[-4:] == ("--config", "train.yaml", "--planned", "true")


def test_runs_cannot_lie_in_a_file(tmp_path: Path, records: Path) -> None:
    (tmp_path / "notes").write_text("")
    with pytest.raises(ConfigError) as caught:
        check_planned(plan_for(tmp_path, DATA=str(records), OUTPUT="notes/runs"))
    assert str(caught.value) == f"OUTPUT=notes/runs: {tmp_path}/notes is a file: give a folder"


def test_an_adapter_that_a_run_cannot_start_from_is_refused_before_submitting(tmp_path: Path, records: Path) -> None:
    given = {"CONFIG_FILE": "train.yaml", "DATA": str(records), "VRAM": "80"}
    written(tmp_path, "init_adapter: runs/earlier\n")
    with pytest.raises(ConfigError, match=r"^init_adapter=runs/earlier: no LoRA adapter: give a run's folder"):
        check_planned(plan_for(tmp_path, **given))
    adapter = tmp_path / "runs" / "earlier" / "adapter"
    adapter.mkdir(parents=True)
    saved = {"r": 8, "lora_alpha": 16, "base_model_name_or_path": "mirror/gemma-3-4b-it"}
    (adapter / "adapter_config.json").write_text(json.dumps(saved))
    with pytest.raises(
        ConfigError, match=r"^init_adapter=runs/earlier: it has lora_r 8, not 64, lora_alpha 16, not 128: "
    ):
        check_planned(plan_for(tmp_path, **given))
    (adapter / "adapter_config.json").write_text(json.dumps({**saved, "r": 64, "lora_alpha": 128}))
    check_planned(plan_for(tmp_path, **given))


def test_a_length_that_no_picture_fits_is_noted_and_refused_where_every_record_has_one(
    tmp_path: Path, records: Path
) -> None:
    said = "MAX_LENGTH=263 leaves out every record with a picture, which alone takes 256 tokens: say at least 264"
    plan = plan_for(tmp_path, DATA=str(records), MAX_LENGTH="263", VRAM="80")
    assert plan.notes == (f"{said}, unless the records are text alone.",)
    with pytest.raises(ConfigError) as caught:
        check_planned(plan)
    assert str(caught.value) == said
    words = tmp_path / "words.jsonl"
    lines = [{"image": None, "context": "", "question": f"{n}?", "output": "a"} for n in range(20)]
    words.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(
        ConfigError, match=r"words.jsonl: none of 20 records has a picture: .* text_only: true trains on"
    ):
        check_planned(plan_for(tmp_path, DATA=str(words), MAX_LENGTH="16"))
    written(tmp_path, "text_only: true\nlearn: last\n")
    check_planned(plan_for(tmp_path, DATA=str(words), MAX_LENGTH="16", CONFIG_FILE="train.yaml"))
    enough = plan_for(tmp_path, DATA=str(records), MAX_LENGTH="264", VRAM="80")
    assert enough.notes == ()
    check_planned(enough)


def test_a_picture_whose_size_decides_its_tokens_is_not_called_too_long(tmp_path: Path) -> None:
    (note,) = plan_for(tmp_path, MODEL="Qwen/Qwen2.5-VL-3B-Instruct", MAX_LENGTH="16").notes
    assert note.startswith("How many tokens a picture takes depends on its size: ")


def test_a_batch_and_checkpointing_of_a_file_are_the_plans_to_divide(tmp_path: Path, records: Path) -> None:
    """As the source tutorial's file has them."""
    text = "per_device_train_batch_size: 2\ngradient_accumulation_steps: 8\ngradient_checkpointing: true\n"
    path = written(tmp_path, text)
    plan = plan_for(tmp_path, CONFIG_FILE="train.yaml", DATA=str(records), VRAM="80")
    chosen = plan.chosen
    assert (plan.effective_batch_size, chosen.micro_batch_size, chosen.checkpointing) == (16, 8, False)
    assert check_trainer_accepts(plan, tmp_path).notices[-2:] == (
        f"{path}: the plan divides these 16 samples a step into 8 x 2 x 1 (processes)",
        f"{path}: activation checkpointing is left out: the plan fits without it, and faster",
    )
    # Also where the plan changes the accumulation alone.
    written(tmp_path, "per_device_train_batch_size: 8\ngradient_accumulation_steps: 2\n")
    halved = ["--planned", "--micro_batch_size", "8", "--gradient_accumulation_steps", "1", "--world_size", "2"]
    assert resolve_settings([*NEEDED, "--config", path, *halved], {}).notices[-1:] == (
        f"{path}: the plan divides these 16 samples a step into 8 x 1 x 2 (processes)",
    )
    written(tmp_path, text)
    typed = plan_for(tmp_path, CONFIG_FILE="train.yaml", DATA=str(records), VRAM="80", EFFECTIVE_BATCH="8")
    with pytest.raises(ConfigError, match="per_device_train_batch_size: 2, but the plan decides 8"):
        check_planned(typed)


def test_what_the_plan_decides_is_said_in_the_words_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "activation_checkpointing: false\n")
    with pytest.raises(ConfigError, match="activation_checkpointing: false, but the plan decides true: take "):
        resolve_settings([*NEEDED, "--config", path, "--planned", "--activation_checkpointing", "true"], {})


def test_a_file_that_contradicts_the_plan_is_refused_before_submitting(tmp_path: Path, records: Path) -> None:
    written(tmp_path, "weight_decay: 0.1\nmax_steps: 3\n")
    given = {"CONFIG_FILE": "train.yaml", "DATA": str(records), "VRAM": "80"}
    check_planned(plan_for(tmp_path, **given))
    plan = plan_for(tmp_path, **given)
    path = written(tmp_path, "gradient_accumulation_steps: 3\n")
    with pytest.raises(ConfigError) as caught:
        check_planned(plan)
    assert str(caught.value) == (
        f"{path} says gradient_accumulation_steps: 3, but the plan decides "
        f"{plan.chosen.gradient_accumulation_steps}: take gradient_accumulation_steps out of the file; "
        "EFFECTIVE_BATCH= asks for the samples a step"
    )
    path = written(tmp_path, "batch_size: 999\nrun_id: mine\n")
    with pytest.raises(ConfigError) as caught:
        check_planned(plan)
    assert str(caught.value).startswith(f"{path} says run_id: mine, but the plan decides {plan.spec.run_id}, and ")
    micro = plan.chosen.micro_batch_size
    said = f", and batch_size: 999, but the plan decides {micro}: take run_id and batch_size out of the file"
    assert said in str(caught.value)
    for name in ("output_dir", "run_id"):
        path = written(tmp_path, f"{name}: elsewhere\n")
        with pytest.raises(ConfigError, match=f"^{path} says {name}: elsewhere, but the plan decides "):
            check_planned(plan)
    path = written(tmp_path, "output_dir: out\nrun-id: mine\noptim: paged_adamw\nbatch_size: 999\n")
    with pytest.raises(ConfigError) as caught:
        check_planned(plan)
    assert str(caught.value).endswith(
        "optim: paged_adamw, but the plan decides adamw: take output_dir and run-id and batch_size and optim out of "
        "the file; OUTPUT= names the folder of all runs, RUN= names the run, EFFECTIVE_BATCH= asks for the samples a "
        "step, the plan takes the 8-bit AdamW where memory needs it"
    )


@pytest.mark.parametrize(
    ("text", "typed", "rank", "alpha"),
    [
        ("lora_r: 128", {}, 128, 256),
        ("lora: 48", {}, 48, 96),
        ("lora_r: 8\nlora_alpha: 16", {}, 8, 16),
        ("lora_alpha: 16", {}, 64, 16),
        ("lora_r: 8\nlora_alpha: 8", {"LORA_ALPHA": "32"}, 8, 32),
        ("lora_alpha: 7", {"LORA": "16"}, 16, 32),  # a rank that is typed brings its own alpha
        ("lora_r: 8", {"LORA": "low", "LORA_ALPHA": "32"}, 32, 32),
    ],
)
def test_rank_and_alpha_are_planned_as_the_file_says_below_what_is_typed(
    text: str, typed: dict[str, str], rank: int, alpha: int, tmp_path: Path
) -> None:
    plan = plan_for(tmp_path, CONFIG_FILE=written(tmp_path, f"{text}\n"), **typed)
    told = resolve_settings(plan.launch.setting_words(), {}).values
    assert (
        (told["lora_r"], told["lora_alpha"])
        == (plan.spec.training.lora_r, plan.spec.training.lora_alpha)
        == (rank, alpha)
    )
    trained = dict(plan.chosen.estimate.items)["LoRA weights"]
    assert trained == 4 * rank * 119_209_984 // 64


@pytest.mark.slow
def test_a_yaml_file_trains_like_flags(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    from training import train_forked

    path = written(tmp_path, "weight_decay: 0.5\nwarmup_ratio: 0.5\n")
    ended = train_forked(tmp_path, model=tiny_model, data=walks, config=path, max_steps=1)
    assert ended.codes == (0,), ended.output
    config = json.loads((tmp_path / "run" / "metrics.json").read_text())["config"]
    assert (config["weight_decay"], config["warmup_fraction"], config["max_steps"]) == (0.5, 0.5, 1)
    assert f"trainyard: {path}: warmup_ratio=0.5 is warmup_fraction=0.5 here" in ended.output.splitlines()


@pytest.mark.parametrize("nothing", ["", "~", "null", "NULL"])
def test_a_setting_whose_value_is_null_is_not_given(nothing: str, tmp_path: Path) -> None:
    names = (*options(TrainConfig), "lora", "lr", "report_to")
    file = written(tmp_path, "".join(f"{name}: {nothing}\n" for name in names))
    found, plain = resolve_settings(["--config", file], {}), resolve_settings([], {})
    assert (found.values, found.sources, found.notices) == (plain.values, plain.sources, ())


def test_the_example_of_an_env_file_is_one_once_uncommented(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text(re.sub(r"^# (?=[A-Z_]+=)", "", text, flags=re.MULTILINE))
    (tmp_path / "train.yaml").touch()  # which CONFIG_FILE names
    settings = resolve_settings(NEEDED, {}, read_env_file(tmp_path / ".env"), folder=tmp_path).config()
    assert (settings.max_steps, settings.learning_rate, settings.max_length) == (1500, 2e-4, 1024)
    assert settings.image_root == "/scratch/you/frames"
