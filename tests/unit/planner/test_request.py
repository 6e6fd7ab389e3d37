"""What a person types becomes one complete JobSpec, or one line that says what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from off_default import off_default
from specs import CHECKOUT, request, write_measured

from planner import values
from planner.choose import choose
from planner.job import FIELDS, JobSpec
from planner.request.asked import Request, Value
from planner.request.resolve import resolve
from planner.request.site import Site
from planner.request.variables import BY_NAME, VARIABLES, Variable, help_text, parse_given, read_given
from trainer.architecture.shape_file import SHAPE_FILE, digest, user_folder
from trainer.architecture.shapes import resolve_shape
from trainer.config import TrainConfig
from trainer.flags import options, word
from trainer.other_trainers import NEEDLESS
from trainer.outcome import ConfigError
from trainer.settings import resolve_settings


def error(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Variables that are a setting, with a default.
OF_SETTINGS = [
    variable for variable in VARIABLES
    if variable.setting and options(TrainConfig)[variable.setting].default is not MISSING
]  # fmt: skip


def test_nothing_given_is_one_assumed_24_gib_gpu() -> None:
    spec = request()
    assert spec == JobSpec.of(
        model="google/gemma-3-4b-it",
        shape=resolve_shape("google/gemma-3-4b-it"),
        data="data",
        output="runs",
        project_dir="/home/ada/trainyard",
        name="gemma-3-4b-it",
        run_id=spec.run_id,
        gpus=1,
        nodes=1,
        vram_gib=24.0,
        vram_source="assumed",
        cpus=4,
        mem_gib=32,
    )


def test_every_variable_reaches_its_field(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").touch()
    file = str(tmp_path / "train.yaml")
    given = {
        "GPUS": "4",
        "NODES": "2",
        "VRAM": "80GiB",
        "GPU_TYPE": "a100-sxm",
        "TIME": "1-02:00:30",
        "MODEL": "Qwen/Qwen2.5-VL-3B-Instruct",
        "DATA": "/some where/it's.jsonl",
        "OUTPUT": "out",
        "NAME": "n",
        "RUN": "r-1",
        "CONFIG": "multi_gpu",
        "CONFIG_FILE": file,
        "DEVICE": "cpu",
        "RUNTIME": "apptainer",
        "IMAGE": "registry.example.org:5000/team/trainyard:0.1.0",
        "BINDS": "/big,/some where:/data:ro",
        "ACCOUNT": "acc_1",
        "WCKEY": "vision",
        "CLUSTER": "fast",
        "PARTITION": "gpu,big",
        "QOS": "high",
        "CONSTRAINT": "a100&ib",
        "EXCLUDE": "n1,n[3-5]",
        "RESERVATION": "res_1",
        "MAIL_USER": "ada@example.org",
        "MAIL_TYPE": "END,FAIL",
        "GPU_FLAG": "gpus-per-node",
        "EXTRA_FLAGS": "--nice=100 --licenses=a:1,b:2,--exclusive",
        "MODULES": "StdEnv/2023,cuda/12.4",
        "ENVIRONMENT": "NCCL_IB_HCA=mlx5_0,mlx5_1,HF_HOME=/big disk/hf",
        "NAMESPACE": "vision",
        "QUEUE": "team-a",
        "PVC": "team-runs",
        "CPUS": "9",
        "MEM": "100",
        "MAX_STEPS": "7",
        "LEARNING_RATE": "1e-3",
        "LORA": "16",
        "LORA_ALPHA": "24",
        "LORA_DROPOUT": "0",
        "VISION": "lora",
        "QUANTIZATION": "none",
        "EFFECTIVE_BATCH": "16",
        "MAX_LENGTH": "512",
        "SEED": "0",
    }
    assert {variable.name for variable in VARIABLES if variable.field} - set(given) <= {v.name for v in OF_SETTINGS}
    assert request(**given) == JobSpec.of(
        model="Qwen/Qwen2.5-VL-3B-Instruct",
        shape=resolve_shape("Qwen/Qwen2.5-VL-3B-Instruct"),
        data="/some where/it's.jsonl",
        output="out",
        project_dir="/home/ada/trainyard",
        name="n",
        run_id="r-1",
        gpus=4,
        nodes=2,
        vram_gib=80.0,
        vram_source="given",
        gpu_type="a100-sxm",
        device="cpu",
        accelerate_config="multi_gpu",
        config_file=file,
        time_limit_min=26 * 60 + 1,
        runtime="apptainer",
        namespace="vision",
        queue="team-a",
        pvc="team-runs",
        image="registry.example.org:5000/team/trainyard:0.1.0",
        binds=("/big", "/some where:/data:ro"),
        account="acc_1",
        wckey="vision",
        cluster="fast",
        partition="gpu,big",
        qos="high",
        constraint="a100&ib",
        exclude="n1,n[3-5]",
        reservation="res_1",
        mail_user="ada@example.org",
        mail_type="END,FAIL",
        gpu_flag="gpus-per-node",
        extra_flags=("--nice=100", "--licenses=a:1,b:2", "--exclusive"),
        modules=("StdEnv/2023", "cuda/12.4"),
        environment=(("HF_HOME", "/big disk/hf"), ("NCCL_IB_HCA", "mlx5_0,mlx5_1")),
        cpus=9,
        mem_gib=100,
        vision="lora",
        quantization="none",
        lora_r=16,
        lora_alpha=24,
        lora_dropout=0.0,
        effective_batch_size=16,
        max_length=512,
        max_steps=7,
        learning_rate=1e-3,
        seed=0,
    )


@pytest.mark.parametrize("variable", OF_SETTINGS, ids=lambda variable: variable.name)
def test_a_variable_of_a_setting_is_what_the_trainer_is_told(variable: Variable, tmp_path: Path) -> None:
    name = str(variable.setting)
    value = off_default(name)
    plan = choose(request(**{variable.name: word(value)}))
    told = resolve_settings(plan.launch.setting_words(), {}).values
    assert (plan.spec.value(name), told[name]) == (value, value)
    # From the YAML file too, and not beside what is typed.
    (tmp_path / "train.yaml").write_text(f"{name}: {word(value)}\n")
    assert request(CONFIG_FILE=str(tmp_path / "train.yaml")).value(name) == value


@pytest.mark.parametrize("variable", OF_SETTINGS, ids=lambda variable: variable.name)
def test_a_variables_default_is_the_settings_in_the_request_and_in_the_help(variable: Variable) -> None:
    default = options(TrainConfig)[str(variable.setting)].default
    assert FIELDS[str(variable.field)].default == default
    said = re.search(r"\((\S+)\)$", variable.help)
    assert said and variable.parse(variable.name, said[1]) == default


def test_gpu_type_gives_the_memory_and_vram_wins_over_it() -> None:
    assert (request(GPU_TYPE="H100").resources.vram_gib, request(GPU_TYPE="H100").sources.vram_source) == (
        80,
        "GPU_TYPE=H100",
    )
    assert request(GPU_TYPE="a100").resources.vram_gib == 40
    assert request(GPU_TYPE="a100", VRAM="80").resources.vram_gib == 80


def test_cpus_and_memory_follow_the_gpus_of_a_node() -> None:
    assert [(s.gpus, s.cpus, s.mem_gib) for s in (request(GPUS=g).resources for g in ("1", "2", "8"))] == [
        (1, 4, 32),
        (2, 8, 32),
        (8, 32, 128),
    ]


def test_device_cpu_has_no_gpu_unless_one_is_asked_for() -> None:
    assert request(DEVICE="cpu").resources.gpus == 0
    assert request(DEVICE="cpu", GPUS="2").resources.gpus == 2


def test_the_same_request_has_the_same_run_id_and_any_other_another() -> None:
    one, again, other = request(SEED="1"), request(SEED="1"), request(SEED="2")
    assert one == again
    assert one.run_id != other.run_id
    assert one.but(run_id="", seed=2) == other.but(run_id="")


def test_a_suffix_names_the_run_and_run_wins_over_it() -> None:
    assert request(NAME="n", suffix="20300101-abcdef").run_id == "n-20300101-abcdef"
    assert request(NAME="n", RUN="mine", suffix="20300101-abcdef").run_id == "mine"


def test_a_home_folder_is_expanded() -> None:
    spec = resolve({"DATA": "~/d.jsonl"}, project_dir=CHECKOUT, environ={"HOME": "/home/ada"})
    assert spec.data == "/home/ada/d.jsonl"


def _cache(home: Path) -> tuple[Path, dict[str, Any]]:
    """A hub cache below `home` with foo/bar, and that model's configuration."""
    config = {"model_type": "gemma3", "text_config": {"hidden_size": 48}}
    snapshot = home / "hub" / "models--foo--bar" / "snapshots" / "f00d"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("f00d")
    return home, config


@pytest.mark.parametrize("source", [".env", "ENVIRONMENT", "site", "exported"])
def test_the_model_is_looked_for_where_the_job_will(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    home, config = _cache(tmp_path / "hf")
    # Its shape is kept under its configuration's digest alone: it is found only where config.json is.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    measured = write_measured(tmp_path / "measured", config, hidden=48)
    user_folder(os.environ).mkdir(parents=True)
    shutil.copy(measured / SHAPE_FILE, user_folder(os.environ) / f"{digest(config)}.json")

    (tmp_path / ".env").write_text(f"HF_HOME={home if source == '.env' else tmp_path / 'none'}\n")
    monkeypatch.setenv("HF_HOME", str(home if source == "exported" else tmp_path / "other"))
    given = {"MODEL": "foo/bar"} | ({"ENVIRONMENT": f"HF_HOME={home}"} if source == "ENVIRONMENT" else {})
    site = Site(source="site.yaml", texts={"ENVIRONMENT": f"HF_HOME={home}"} if source == "site" else {})
    assert resolve(given, project_dir=tmp_path, environ={}, site=site).shape.hidden == 48


def test_both_spellings_of_a_flag_are_read_and_flags_win_over_make() -> None:
    environ = {"TRAINYARD_GIVEN": "GPUS SEED", "TRAINYARD_GPUS": "4", "TRAINYARD_SEED": "3"}
    assert read_given(["--gpus=2", "--gpu-type", "a100"], environ) == {"GPUS": "2", "GPU_TYPE": "a100", "SEED": "3"}


def test_the_environment_counts_only_for_names_that_make_lists() -> None:
    assert read_given([], {"TRAINYARD_GPUS": "4", "GPUS": "5", "TRAINYARD_GIVEN": ""}) == {}


def test_unknown_names_are_refused_with_the_nearest_and_who_lists_all() -> None:
    assert error(read_given, ["--gpu", "2"], {}).startswith("unknown '--gpu', did you mean --gpus? --help lists all")
    assert error(read_given, [], {"TRAINYARD_GIVEN": "GPU"}).startswith(
        "unknown 'GPU', did you mean GPUS? make help lists"
    )
    assert error(read_given, ["--zzzzz=1"], {}).startswith("unknown '--zzzzz': --help lists all")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        # Names in a settings file and in .env, of sbatch and of accelerate, and in small letters.
        ("BATCH_SIZE", ", did you mean EFFECTIVE_BATCH?"), ("GRAD_ACCUM", ", did you mean EFFECTIVE_BATCH?"),
        ("MODEL_NAME", ", did you mean MODEL?"), ("GRID_DATASET_PATH", ", did you mean DATA?"),
        ("OUTPUT_DIR", ", did you mean OUTPUT?"), ("ACCELERATE_CONFIG", ", did you mean CONFIG?"),
        ("LR", ", did you mean LEARNING_RATE?"), ("LORA_R", ", did you mean LORA?"),
        ("RUN_NAME", ", did you mean RUN?"), ("GRES", ", did you mean GPUS?"), ("gpus", ", did you mean GPUS?"),
        ("NUM_PROCESSES", ", did you mean GPUS?"),
        ("CPUS_PER_TASK", ", did you mean CPUS?"), ("--job-name", ", did you mean --name?"),
        ("--lr", ", did you mean --learning-rate?"), ("--batch_size", ", did you mean --effective-batch?"),
        ("MICRO_BATCH_SIZE", ": the plan decides micro_batch_size: EFFECTIVE_BATCH= asks for the samples a step"),
        ("WEIGHT_DECAY", ": weight_decay is a line of a settings file, which CONFIG_FILE= names"),
        ("EPOCHS", f": {NEEDLESS['epochs'][1]}"),
        ("CUDA_VISIBLE_DEVICES", ": this belongs in .env"),
        ("HF_TOKEN", ": tokens belong into .env: HF_TOKEN, WANDB_API_KEY"),
    ],
)  # fmt: skip
def test_a_name_of_another_program_is_answered_with_what_it_is(name: str, said: str) -> None:
    flag = name.startswith("--")
    found = error(read_given, [f"{name}=1"] if flag else [], {} if flag else {"TRAINYARD_GIVEN": name})
    lists = {"?": " --help lists all" if flag else " make help lists all"}.get(said[-1], "")
    assert found == f"unknown '{name}'{said}{lists}"


def test_what_is_read_of_a_request_by_name_is_a_variable() -> None:
    read = [name.upper() for name, found in vars(Request).items() if isinstance(found, Value)]
    assert read == [name for name in BY_NAME if name in read] and "GPUS" in read
    assert (parse_given({"GPUS": "2"}).gpus, parse_given({"MEM": "none"}).mem, Request().gpus) == (2, None, None)
    assert Request() == parse_given({})
    none = parse_given({"IMAGE": "none", "MEM": "none"})
    assert none == Request(values={"IMAGE": None, "MEM": None}) != Request()


def test_dashes_and_underscores_in_flags_are_the_same() -> None:
    words = ["--gpu_type", "a100", "--effective-batch=8", "--config_file=x.yaml", "--extra_flags", "--nice=1"]
    assert read_given(words, {}) == read_given([w.replace("_", "-") for w in words], {})


def test_all_that_is_wrong_with_what_was_typed_is_one_message(tmp_path: Path) -> None:
    assert error(read_given, ["--gpu", "2", "--tme=3", "x", "--vram"], {"TRAINYARD_GIVEN": "WXYZ"}) == (
        "unknown 'WXYZ': make help lists all; unexpected 'x': options are written --gpus 2 or --gpus=2; see --help; "
        "--vram needs a value: memory of one GPU in GiB (GPU_TYPE's, else 24); unknown '--gpu', did you mean --gpus?; "
        "unknown '--tme', did you mean --time? --help lists all"
    )
    assert error(request, VRAM="abc", GPUS="0", SEED="").startswith("VRAM=abc: takes a number of GiB from 1 to 1024; ")
    for name in ("GPUS=0: takes", "SEED= is empty"):
        assert name in error(request, VRAM="abc", GPUS="0", SEED="")
    # The files' mistakes beside those on the command line, each with where it is from.
    (tmp_path / ".env").write_text("MAX_STEPS=0\n")
    (tmp_path / "train.yaml").write_text("fsdp: full\nseed: x\n")
    given = {"CONFIG_FILE": "train.yaml", "GPUS": "none"}
    said = error(resolve, given, project_dir=tmp_path, environ={}).replace(str(tmp_path), ".")
    assert said.startswith("./train.yaml: seed=x: takes a whole number from 0 to 4294967295; fsdp is not a setting")
    assert "; .env line 1: MAX_STEPS=0: takes a whole number" in said and "; GPUS=none: takes a whole number" in said


def test_all_contradictions_of_a_request_are_one_message(tmp_path: Path) -> None:
    assert error(request, GPUS="3", EFFECTIVE_BATCH="8", MEM="1", CONFIG="single_gpu") == (
        "CONFIG=single_gpu: is not for 3 GPUs: try CONFIG=multi_gpu or CONFIG=deepspeed_zero3; EFFECTIVE_BATCH=8: "
        "cannot be shared evenly by 3 GPUs: try 6 or 9; MEM=1: the processes of a node alone take 5 GiB: try MEM=5 or "
        "more"
    )
    said = error(request, MODEL="no/where", GPU_TYPE="h10")
    assert said.startswith("GPU_TYPE=h10: not known, did you mean h100?") and "; MODEL=no/where: not a folder, " in said


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("GPUS", "0", "GPUS=0: takes a whole number from 1 to 64; for a run without GPUs leave it out"),
        ("GPUS", "two", "GPUS=two: takes a whole number from 1 to 64"),
        ("GPUS", "\u0662", "GPUS='\u0662': takes a whole number"),
        ("GPUS", "1_0", "GPUS=1_0: takes a whole number"),
        ("GPUS", "65", "GPUS=65: takes a whole number"),
        ("NODES", "-1", "NODES=-1: takes a whole number from 1 to 1024"),
        ("VRAM", "1e-10", "VRAM=1e-10: takes a number of GiB from 1 to 1024"),
        ("VRAM", "-1", "VRAM=-1: takes a number of GiB from 1 to 1024"),
        ("VRAM", "nan", "VRAM=nan: takes a number of GiB"),
        ("VRAM", "24T", "VRAM=24T: takes a number of GiB"),
        ("VRAM", "1e999", "VRAM=1e999: takes a number of GiB"),
        ("LEARNING_RATE", "0", "LEARNING_RATE=0: takes a number from 1e-30 to 1"),
        ("TIME", "1:30", "TIME=1:30: takes a time of one minute to a year as minutes (90),"),
        ("TIME", "0", "TIME=0: takes a time"),
        ("NAME", "a\nb", r"NAME='a\nb': takes at most 40 of a-z, 0-9 and -"),
        ("NAME", "it's", 'NAME="it\'s": takes at most 40 of a-z, 0-9 and -'),
        ("NAME", "a" * 41, "takes at most 40 of a-z"),
        ("RUN", "../x", "RUN=../x: takes at most 63 of a-z, 0-9 and -"),
        ("CONFIG", "zero", "CONFIG=zero: takes one of auto, single_gpu, single_gpu_low_mem, multi_gpu,"),
        ("CONFIG", "multi_gpus", "deepspeed_zero3, cpu_mps, did you mean multi_gpu?"),
        ("DEVICE", "gpu", "DEVICE=gpu: takes one of cuda, cpu, mps"),
        ("PARTITION", "-x", "PARTITION=-x: takes letters, digits and _.,-"),
        ("ACCOUNT", "a b", "ACCOUNT='a b': takes letters"),
        ("DATA", "a\nb", r"DATA='a\nb': takes a path of at most 1024 printable characters on one line"),
        ("DATA", "--x", "DATA=--x: begins with -"),
        ("DATA", "a\u202eb", r"DATA='a\u202eb': takes a path"),
        ("DATA", "a\udc80", r"DATA='a\udc80': takes a path"),
        ("DATA", f"a/{'b' * 256}", "holds a name of more than 255 bytes, which no file system takes: shorten it"),
        ("SITE", "ä" * 128, "holds a name of more than 255 bytes"),
        (
            "MODEL",
            "https://u:hf_x@huggingface.co/google/gemma-3-4b-it",
            "MODEL: an address in it holds a user or a password",
        ),
        ("MODEL", "hf_x@hf.co/google/gemma-3-4b-it", "MODEL: it holds a token"),
        ("MODEL", "https://huggingface.co/google/gemma-3-4b-it", "MODEL is an address: give the hub id alone"),
        ("OUTPUT", "runs/%j", "OUTPUT=runs/%j: holds %, which Slurm reads as a pattern"),
        ("RUNTIME", "docker", "RUNTIME=docker: escapes the allocation"),
        ("RUNTIME", "singularity", "RUNTIME=singularity: is apptainer's old name"),
        ("RUNTIME", "pixis", "RUNTIME=pixis: takes one of none, apptainer, pyxis, did you mean pyxis?"),
        ("EXTRA_FLAGS", "--output=/x", "EXTRA_FLAGS=--output=/x: '--output' is not passed on: OUTPUT= says it"),
        ("EXTRA_FLAGS", "--mem=3G --nice=1 --gres=gpu:1", "'--mem', '--gres' are not passed on: MEM=, GPUS= say them"),
        ("CONFIG", "accelerate_configs/multi_gpu.yaml", "deepspeed_zero3, cpu_mps, did you mean multi_gpu?"),
        ("CONFIG", "train.yaml", "deepspeed_zero3, cpu_mps; a file of settings is CONFIG_FILE="),
        ("GPU_TYPE", "RTX 4070 Ti", "takes letters, digits and ._-, did you mean rtx4070ti? known are a10"),
        ("GPU_TYPE", "NVIDIA GeForce RTX 4090", ", did you mean rtx4090? known are"),
        ("MEM", "32X", "MEM=32X: takes a whole number of GiB from 1 to 65536, or none"),
        ("MEM", "0.5G", "MEM=0.5G: takes a whole number of GiB"),
        ("MEM", "99999999G", "MEM=99999999G: takes a whole number of GiB"),
        ("EXTRA_FLAGS", "--mem=3", "EXTRA_FLAGS=--mem=3: '--mem' is not passed on: MEM= says it"),
        ("EXTRA_FLAGS", "--clusters=x", "EXTRA_FLAGS=--clusters=x: '--clusters' is not passed on: CLUSTER= says it"),
        ("DEVICE", "gpu", "DEVICE=gpu: takes one of cuda, cpu, mps, did you mean cuda?"),
        ("DEVICE", "nvidia", "DEVICE=nvidia: takes one of cuda, cpu, mps, did you mean cuda?"),
        ("EXTRA_FLAGS", "--wrap=x", "EXTRA_FLAGS=--wrap=x: '--wrap' is not passed on"),
        ("EXTRA_FLAGS", "-p x", "EXTRA_FLAGS='-p x': '--partition' is not passed on: PARTITION= says it"),
        ("EXTRA_FLAGS", "-N2", "'--nodes' is not passed on: NODES= says it"),
        ("EXTRA_FLAGS", "--nice=1 -C a", "'--constraint' is not passed on: CONSTRAINT= says it"),
        ("EXTRA_FLAGS", "--exclude n1 n2", "'--exclude' is not passed on: EXCLUDE= says it"),
        ("EXTRA_FLAGS", "--mem-per-gpu=3", "'--mem-per-gpu' is not passed on: MEM= says it (MEM is a whole node's)"),
        ("EXTRA_FLAGS", "--error=x", "'--error' is not passed on: it would change how the job's script runs"),
        ("EXTRA_FLAGS", "-H", "EXTRA_FLAGS=-H: write '--hold' in place of '-H'"),
        ("EXTRA_FLAGS", "-L a:1", "write '--licenses=a:1' in place of '-L a:1'"),
        ("EXTRA_FLAGS", "--hold=1", "EXTRA_FLAGS=--hold=1: takes --hold without a value"),
        ("EXTRA_FLAGS", "--exclusive=no", "EXTRA_FLAGS=--exclusive=no: takes --exclusive=user|mcs|topo, or nothing"),
        ("EXTRA_FLAGS", "--no-requeue", "EXTRA_FLAGS=--no-requeue: '--no-requeue' is not passed on"),
        ("EXTRA_FLAGS", "--no-kill", "EXTRA_FLAGS=--no-kill: '--no-kill' is not passed on"),
        ("CLUSTER", "a,b", "CLUSTER=a,b: takes one cluster's name: sacctmgr show cluster lists them"),
        ("EXTRA_FLAGS", "--signal=USR2", "'--signal' is not passed on: it would change how the job's script runs"),
        ("EXTRA_FLAGS", "--gres=nvme:1,gpu:2", "'--gres' is not passed on: GPUS= says it"),
        ("EXTRA_FLAGS", "--gres=shard:2", "'--gres' is not passed on: GPUS= says it"),
        ("EXTRA_FLAGS", "--gres none", "'--gres' is not passed on: GPUS= says it"),
        ("EXTRA_FLAGS", "--nodelist n1", "write '--nodelist=n1' in place of '--nodelist n1'"),
        ("EXTRA_FLAGS", "-w n1", "write '--nodelist=n1' in place of '-w n1'"),
        ("PVC", "a..b", "PVC=a..b: takes at most 253 of a-z, 0-9, - and ."),
        ("EXTRA_FLAGS", "--nice", "EXTRA_FLAGS=--nice: takes --nice=value"),
        ("EXTRA_FLAGS", "--comment=$(x)", "EXTRA_FLAGS='--comment=$(x)': takes --comment=value"),
        ("EXTRA_FLAGS", "--nice=1 --nice=2", "EXTRA_FLAGS='--nice=1 --nice=2': says --nice twice"),
        ("BINDS", "data", "BINDS=data: takes absolute paths with commas between: /scratch,"),
        ("BINDS", "/a:/b:no", "BINDS=/a:/b:no: takes absolute paths"),
        ("BINDS", "/a,", "BINDS=/a,: takes absolute paths"),
        ("CONSTRAINT", "a;b", "CONSTRAINT='a;b': takes features, joined by & or |"),
        ("EXCLUDE", "$(x)", "EXCLUDE='$(x)': takes node names"),
        ("MAIL_USER", "a b", "MAIL_USER='a b': takes an address or a user's name"),
        ("MAIL_TYPE", "END,FALE", "MAIL_TYPE=END,FALE: 'FALE' is unknown, did you mean FAIL?"),
        ("GPU_FLAG", "gpus", "GPU_FLAG=gpus: takes one of gres, gpus-per-node"),
        ("MODULES", "cuda;reboot", "MODULES='cuda;reboot': takes modules with commas between"),
        ("MODULES", "-x", "MODULES=-x: takes modules"),
        ("ENVIRONMENT", "x", "ENVIRONMENT: part 1 begins with no NAME=: it takes NAME=value with commas between"),
        ("ENVIRONMENT", "A B=1", "ENVIRONMENT: part 1 begins with no NAME=: it takes NAME=value"),
        ("ENVIRONMENT", "HF_TOKEN=hf_x", "ENVIRONMENT: HF_TOKEN holds a secret, which scripts show to all"),
        ("ENVIRONMENT", "P=http://u:x@h", "ENVIRONMENT: P holds a secret"),
        ("ENVIRONMENT", "LD_PRELOAD=x", "ENVIRONMENT: LD_PRELOAD is not to be set here"),
        ("ENVIRONMENT", "SLURM_X=x", "ENVIRONMENT: SLURM_X is not to be set here"),
        *(
            (
                "ENVIRONMENT",
                f"{name}=high,A=1",
                f"ENVIRONMENT: {name} is not to be set here: it would change how the job",
            )
            for name in (
                *("SQUEUE_PARTITION", "SQUEUE_STATES", "SCONTROL_ALL", "SRUN_EXPORT_ENV", "SINFO_FORMAT"),
                *("SBATCH_QOS", "SLURMD_DEBUG", "SACCT_FORMAT"),
            )
        ),
        ("ENVIRONMENT", "UID=1", "ENVIRONMENT: UID is not to be set here: bash lets nobody set it"),
        ("ENVIRONMENT", "BASHOPTS=x", "ENVIRONMENT: BASHOPTS is not to be set here: bash lets nobody set it"),
        (
            "ENVIRONMENT",
            "PET_NNODES=2",
            "ENVIRONMENT: PET_NNODES is not to be set here: the launcher sets it, from GPUS",
        ),
        ("ENVIRONMENT", "MASTER_PORT=1", "ENVIRONMENT: MASTER_PORT is not to be set here: the launcher sets it"),
        (
            "ENVIRONMENT",
            "LOCAL_WORLD_SIZE=1",
            "ENVIRONMENT: LOCAL_WORLD_SIZE is not to be set here: the launcher sets it",
        ),
        (
            "ENVIRONMENT",
            "CUDA_VISIBLE_DEVICES=0",
            "CUDA_VISIBLE_DEVICES is not to be set here: the scheduler says which",
        ),
        ("ENVIRONMENT", "CONFIG_FILE=x", "ENVIRONMENT: CONFIG_FILE is not to be set here: say CONFIG_FILE= itself"),
        ("IMAGE", "Foo/bar:1", "IMAGE=Foo/bar:1: takes registry/name:tag, the name in small letters"),
        ("IMAGE", "example.org/Foo/bar", "the name in small letters"),
        ("ENVIRONMENT", "A=x\ny", "ENVIRONMENT: A takes at most 1024 printable characters"),
        ("GPU_TYPE", "v100", "GPU_TYPE=v100: has no bfloat16"),
        ("GPU_TYPE", "a100;x", "GPU_TYPE='a100;x': takes letters"),
        ("SEED", "", "SEED= is empty: give a value, or leave SEED out"),
    ],
)
def test_a_bad_value_is_one_line_with_what_is_allowed(name: str, text: str, said: str) -> None:
    message = error(parse_given, {name: text})
    assert said in message
    assert message.isprintable() and "hf_x" not in message


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MODULES", "cuda/12.4,python/3.11", ("cuda/12.4", "python/3.11")),
        ("MODULES", f"a{'b' * 127}", (f"a{'b' * 127}",)),
        ("MODULES", "none", ()),
        ("EXTRA_FLAGS", "--nice=100 --exclusive", ("--nice=100", "--exclusive")),
        ("EXTRA_FLAGS", "--exclusive=user,--hold", ("--exclusive=user", "--hold")),
        ("EXTRA_FLAGS", "--gres=gpu_mem:4,tmpgpu:1", ("--gres=gpu_mem:4,tmpgpu:1",)),
        ("MEM", "64g", 64),
        ("ACCOUNT", "ada@lab.org", "ada@lab.org"),
        ("PVC", "team.data", "team.data"),
        ("QUEUE", "team.night", "team.night"),
        ("BINDS", "/scratch,/sets:/data/sets:ro", ("/scratch", "/sets:/data/sets:ro")),
        ("BINDS", "none", ()),
        ("MAIL_TYPE", "END,FAIL", "END,FAIL"),
        ("ENVIRONMENT", "B=1,2,A=x y", (("A", "x y"), ("B", "1,2"))),
        ("ENVIRONMENT", f"A={'x' * 1024}", (("A", "x" * 1024),)),
        ("QOS", "NONE", None),
    ],
)
def test_a_good_value_is_read_as_what_it_means(name: str, text: str, value: object) -> None:
    assert parse_given({name: text}) == Request(values={name: value})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MODULES", f"a{'b' * 128}"), ("MODULES", "a,,b"), ("MODULES", "-a"), ("MAIL_TYPE", "END,LATE"),
        ("EXTRA_FLAGS", "--hold=1"), ("EXTRA_FLAGS", "--nice="), ("EXTRA_FLAGS", "--hold --hold"),
        ("EXTRA_FLAGS", "--exclusive=all"), ("BINDS", "scratch"), ("BINDS", "/a:b"), ("BINDS", "/a:/b:rx"),
        ("ENVIRONMENT", f"A={'x' * 1025}"), ("ENVIRONMENT", "1A=x"), ("QOS", "null"),
    ],
)  # fmt: skip
def test_a_value_that_a_scheduler_would_take_otherwise_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_given({name: text})
    assert caught.value.name == name


def test_bash_can_set_whatever_the_environment_may_hold() -> None:
    """Of all the variables that a bash knows: an assignment that it refuses would end the job's script."""
    known = subprocess.run(["bash", "-c", "compgen -v"], capture_output=True, text=True, check=True).stdout.split()
    for name in {*known, "EUID", "PPID", "SHELLOPTS", "TMPDIR", "GROUPS", "RANDOM"}:
        try:
            parse_given({"ENVIRONMENT": f"{name}=1"})
        except ConfigError:
            continue
        subprocess.run(["bash", "-euc", f"export {name}=1"], capture_output=True, check=True)


@pytest.mark.parametrize("image", ["foo/bar:1", "localhost/a", "Host:5000/a/b", "Example.org/a@sha256:" + "0" * 64])
def test_an_image_may_have_a_host(image: str) -> None:
    assert request(IMAGE=image, RUNTIME="apptainer").container.image == image


def test_an_unknown_gpu_type_needs_its_memory() -> None:
    assert error(request, GPU_TYPE="h10").startswith("GPU_TYPE=h10: not known, did you mean")
    assert error(request, GPU_TYPE="h10").endswith("for others add VRAM=<GiB>")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90m", 90),
        ("12h", 720),
        ("2d", 2880),
        ("00:00:01", 1),
        ("10:00:00", 600),
        ("2-00:00:00", 2880),
        ("1-12", 2160),
        ("0-01:30", 90),
    ],
)
def test_times_become_whole_minutes(text: str, minutes: int) -> None:
    assert parse_given({"TIME": text}) == Request(values={"TIME": minutes})


@pytest.mark.parametrize("text", ["64", "64G", "64GB", "64Gi", "64GiB"])
def test_memory_may_have_the_unit_that_a_scheduler_would_want(text: str) -> None:
    assert parse_given({"MEM": text, "VRAM": text}) == Request(values={"MEM": 64, "VRAM": 64})


@pytest.mark.parametrize("kind", ["nvidia_a100_3g.20gb", "A100_3G.20GB"])
@pytest.mark.parametrize("asked", [{"GPUS": "2"}, {"NODES": "2"}])
def test_a_run_has_one_slice_of_a_card(kind: str, asked: dict[str, str]) -> None:
    ((name, _),) = asked.items()
    said = error(request, GPU_TYPE=kind, VRAM="20", **asked)
    assert said == (
        f"{name}=2: one run uses one slice of a card (MIG): its processes cannot talk to each other across slices: "
        f"try {name}=1, or a GPU_TYPE of whole cards"
    )


@hypothesis_given(st.sampled_from(sorted(BY_NAME)), st.text(max_size=30))
def test_whatever_is_typed_is_taken_or_refused_in_one_printable_line(name: str, text: str) -> None:
    try:
        value = parse_given({name: text}).values[name]
    except ConfigError as refused:
        assert str(refused).isprintable()
    else:
        assert str(value).isprintable()


def test_help_says_where_none_is_a_value() -> None:
    lines = {line.split()[1]: line for line in help_text("").splitlines() if line.startswith("  --")}
    assert [name for name in ("MEM", "GPU_FLAG", "RUNTIME", "SITE", "QUANTIZATION") if "none" not in lines[name]] == []


def test_help_lists_every_variable_in_both_spellings() -> None:
    text = help_text("usage")
    assert [v for v in VARIABLES if f"  {v.flag} " not in text or f" {v.name} " not in text] == []


@pytest.mark.parametrize(
    ("text", "found"), [("~", "/home/ada"), ("~/x", "/home/ada/x"), ("~root/x", "/root/x"), ("a~/x", "a~/x"), ("", "")]
)
def test_a_tilde_is_a_home_as_in_a_shell(text: str, found: str) -> None:
    assert values.expand_home(text, {"HOME": "/home/ada"}, name="DATA") == found
    with pytest.raises(
        ConfigError, match=r"^DATA=\S*~nobody-here/x\S*: this machine knows no 'nobody-here': write the path"
    ):
        values.expand_home("~nobody-here/x", {}, name="DATA")
