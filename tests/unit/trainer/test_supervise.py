"""The supervisor's exit codes, the completed command, and the .env file, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import warm
from paths import ROOT
from toy_project import make_toy_project, toy_argv

from trainer.env_file import read_env_file, watched, with_env_file
from trainer.launch import PLANNED_ENVIRONMENT, Launch
from trainer.log import bare
from trainer.outcome import ConfigError
from trainer.spellings import ALLOCATOR, FORMER_ALLOCATOR
from trainer.supervise import complete_command, complete_environment

FAMILY = """
import os, time
from trainer.node import processes
supervisor = os.getpid()
processes.become_subreaper()
if not os.fork():
    launcher = os.getpid()
    if not os.fork():
        while os.getppid() == launcher:
            time.sleep(0.01)
        print(os.getppid() == supervisor, flush=True)
    os._exit(0)
os.wait(), os.wait()
asked, told = os.pipe()
if not os.fork():
    processes.die_with_parent()
    os.write(told, b"ready")
    time.sleep(30)
os.read(asked, 5)
os._exit(0)
"""
PLANNED = Launch(configuration="c.yaml", module="trainer.train", settings={"output_dir": "runs/r"})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_toy_project(tmp_path / "toy")


def run(project: Path, worker: str, processes: int = 1) -> tuple[int, str]:
    """(exit code, stderr) of a supervised launch whose workers do as told."""
    (project / "worker.py").write_text(f"import os\nfrom trainer.outcome import write_outcome\n{worker}\n")
    planned = ("accelerate", "launch", "--num_processes", str(processes), "-m", "worker")
    done = warm.run("trainer.supervise", "--", *planned, cwd=project, environ=warm.around())
    return done.returncode, bare(done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_orphans_are_the_supervisors_and_nobody_outlives_it() -> None:
    """The pipe is at its end only when every process has ended."""
    words = [sys.executable, "-c", FAMILY]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20).stdout == "True\n"


@pytest.mark.parametrize(("code", "worker_exit"), [(0, 0), (0, 1), (75, 0), (78, 0), (78, 1)])
def test_the_outcome_decides_not_the_launchers_exit_code(code: int, worker_exit: int, project: Path) -> None:
    assert run(project, f"write_outcome({code}, 'why'); raise SystemExit({worker_exit})")[0] == code


def test_a_worker_without_a_word_has_failed(project: Path) -> None:
    said = (
        "trainyard: the training failed: what stands above says why. If nothing does, no fatal error of Python either, "
        "a process of it was killed from outside, most often because the node's memory ran out (MEM=)\n"
    )
    assert run(project, "raise SystemExit(0)") == (1, said)


def test_a_crash_in_a_library_is_named_with_where_it_was_called(project: Path) -> None:
    code, said = run(project, "from trainer.node.processes import in_rank; in_rank(); os.kill(os.getpid(), 11)")
    assert code == 1
    assert said.startswith("Fatal Python error: Segmentation fault\n") and "/worker.py" in said
    assert said.endswith("most often because the node's memory ran out (MEM=)\n")


@pytest.mark.parametrize(("mode", "text", "warned"), [
    (0o644, "HF_TOKEN=hf_x\nWANDB_API_KEY=k\n", True), (0o640, "WANDB_API_KEY=k\nHF_TOKEN=x\n", True),
    (0o600, "HF_TOKEN=hf_x\n", False), (0o644, "WANDB_PROJECT=games\n", False),
])  # fmt: skip
def test_secrets_that_others_can_read_are_said(mode: int, text: str, warned: bool, project: Path) -> None:
    (project / ".env").write_text(text)
    (project / ".env").chmod(mode)
    said = ".env holds HF_TOKEN and WANDB_API_KEY, and others on this machine can read it: chmod 600 .env"
    assert run(project, "write_outcome(0)") == (0, f"trainyard: {said}\n" if warned else "")


def test_a_placeholder_reaches_no_rank_as_a_token(project: Path) -> None:
    (project / ".env").write_text("HF_TOKEN=hf_your_token_here\nHUGGINGFACE_TOKEN=hf_1\nWANDB_API_KEY=your_key_here\n")
    (project / ".env").chmod(0o600)
    worker = (
        "raise SystemExit(write_outcome(78, ' '.join([os.environ['HF_TOKEN'], repr(os.environ['WANDB_API_KEY'])])))"
    )
    said = "holds a placeholder, which counts as not given"
    assert run(project, worker) == (
        78, f"trainyard: HF_TOKEN {said}\ntrainyard: WANDB_API_KEY {said}\ntrainyard: hf_1 ''\n"
    )  # fmt: skip


def test_an_outcome_of_another_attempt_counts_for_nothing(project: Path) -> None:
    assert run(project, "os.environ['TRAINYARD_ATTEMPT_ID'] = 'an earlier one'; write_outcome(0)")[0] == 1


def test_only_local_rank_0_speaks_for_a_node(project: Path) -> None:
    assert run(project, "if os.environ['LOCAL_RANK'] == '1': write_outcome(0)", processes=2)[0] == 1


def test_a_configuration_error_is_repeated_on_one_line(project: Path) -> None:
    assert run(project, "write_outcome(78, 'no such model')") == (78, "trainyard: no such model\n")


def test_one_node_runs_the_planned_command_with_this_python() -> None:
    words = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *PLANNED.words()[2:]]
    assert complete_command(PLANNED, {}) == (words, {})


@pytest.mark.parametrize(("configuration", "overrides", "told"), [
    ("single_gpu", (), {"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "bf16"}),
    ("single_gpu_low_mem", (), {"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "bf16"}),
    ("cpu_mps", (), {"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no"}),
    ("cpu_mps", ("--cpu",), {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"}),
])  # fmt: skip
def test_the_only_process_of_a_job_is_started_without_a_launcher(
    configuration: str, overrides: tuple[str, ...], told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/unit/planner/test_accelerate_configs.py compares what it is told with accelerate's own variables."""
    monkeypatch.chdir(ROOT)
    planned = replace(PLANNED, configuration=f"accelerate_configs/{configuration}.yaml", overrides=overrides)
    command, variables = complete_command(planned, {"OMP_NUM_THREADS": "6"})
    assert command == [sys.executable, "-m", "trainer.train", "--output_dir", "runs/r"]
    assert told.items() | {("OMP_NUM_THREADS", "6")} <= variables.items()


@pytest.mark.parametrize("changed", [
    {"processes": 2}, {"overrides": ("--mixed_precision", "no")}, {"configuration": ""},
    {"configuration": "accelerate_configs/deepspeed_zero3.yaml"},
    {"configuration": "accelerate_configs/multi_gpu.yaml"},
])  # fmt: skip
def test_what_accelerate_does_more_for_is_started_by_its_launcher(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    planned = replace(PLANNED, **{"configuration": "accelerate_configs/single_gpu.yaml", **changed})
    command, variables = complete_command(planned, {})
    assert command[1:4] == ["-m", "accelerate.commands.launch", "--quiet"] and variables == {}


def test_several_processes_on_one_node_meet_at_a_port_that_is_free() -> None:
    planned = replace(PLANNED, processes=2)
    assert complete_command(planned, {})[0][3:7] == ["--quiet", "--main_process_port", "0", "--config_file"]


def test_each_of_several_nodes_learns_its_rank_and_the_first_nodes_address() -> None:
    planned = replace(PLANNED, processes=2, machines=2)
    slurm = {"SLURM_PROCID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    assert complete_command(planned, slurm)[0][3:12] == [
        "--quiet", "--machine_rank", "1", "--main_process_ip", "127.0.0.1", "--main_process_port", "29511",
        "--rdzv_conf", "timeout=300",
    ]  # fmt: skip
    unknown = {**slurm, "MASTER_ADDR": "n1.invalid", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}
    assert complete_command(planned, unknown)[0][7] == "10.0.0.7"
    with pytest.raises(ConfigError, match="SLURM_PROCID, MASTER_ADDR or MASTER_PORT is not set"):
        complete_command(planned, {"SLURM_PROCID": "1"})


def test_something_else_than_the_plans_command_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer.supervise", "--", "rm", "-rf"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, bare(done.stderr)) == (
        78,
        "trainyard: supervise takes the plan's command: -- accelerate launch ... -m trainer.train ...\n",
    )


def test_an_env_file_sets_secrets_and_settings_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert read_env_file(path) == {}
    path.write_text("# secrets\nHF_TOKEN=hf_x\n\nexport WANDB_API_KEY='k=1'\nWANDB_PROJECT=\n")
    assert read_env_file(path) == {"HF_TOKEN": "hf_x", "WANDB_API_KEY": "k=1"}
    settings = {
        "MODEL_NAME": "m", "GRID_DATASET_PATH": "d", "OUTPUT_DIR": "o", "MAX_STEPS": "1", "BATCH_SIZE": "2",
        "GRAD_ACCUM": "4", "LEARNING_RATE": "1e-4", "CUDA_VISIBLE_DEVICES": "0", "ACCELERATE_CONFIG": "single_gpu",
        FORMER_ALLOCATOR: "expandable_segments:True", ALLOCATOR: "a:1", "TOKENIZERS_PARALLELISM": "false",
        "HUGGINGFACE_TOKEN": "hf_y", "WANDB_ENTITY": "us", "CONFIG_FILE": "train.yaml",
    }  # fmt: skip
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    assert read_env_file(path) == settings
    for line in ("LD_PRELOAD=/tmp/x.so", "PATH=/tmp"):
        path.write_text(f"HF_TOKEN=x\n{line}\n")
        with pytest.raises(ConfigError, match=r"\.env line 2: .* is not one of HF_TOKEN, "):
            read_env_file(path)
    for line in ("hf_a-bare-token", "WANDB_NOTES='it's late'", 'HF_TOKEN="hf_x', "HF_TOKEN=#"):
        path.write_text(f"HF_TOKEN=x\n{line}\n")
        with pytest.raises(ConfigError) as caught:
            read_env_file(path)
        assert str(caught.value) == f"{path} line 2: takes NAME=value in UTF-8, the value whole in quotes or without"
    path.write_bytes(b"# \xff\n\nHF_TOKEN=hf_\xff\n")
    with pytest.raises(ConfigError) as caught:
        read_env_file(path)
    assert str(caught.value) == f"{path} line 3: takes NAME=value in UTF-8, the value whole in quotes or without"
    for sign in ("\0", "\x1b[2J", "\x9b", "\x7f"):  # os.environ takes no NUL, and would end the run with a traceback
        path.write_text(f"HF_TOKEN=x\nWANDB_NOTES='a{sign}b'\n")
        with pytest.raises(ConfigError, match=r"\.env line 2: holds a control character: type the line again$"):
            read_env_file(path)
    path.write_text("WANDB_NOTES=a" + " " * 60_000 + "b\n")
    began = time.process_time()
    assert len(read_env_file(path)["WANDB_NOTES"]) == 60_002
    assert time.process_time() - began < 1  # it took 11 s
    path.write_text("HF_TOKEN=  # yours\nWANDB_NOTES='it is late' # very\nWANDB_PROJECT=it's #1 # ours\n")
    assert read_env_file(path) == {"WANDB_NOTES": "it is late", "WANDB_PROJECT": "it's"}


@pytest.mark.parametrize(
    ("in_file", "around", "found"),
    [
        # A plan's own words give way to the file; words that somebody asked for do not.
        ({"TOKENIZERS_PARALLELISM": "true"}, {"TOKENIZERS_PARALLELISM": "false"}, {"TOKENIZERS_PARALLELISM": "true"}),
        ({"HF_HOME": "/a"}, {"HF_HOME": "/b"}, {"HF_HOME": "/b"}),
        ({FORMER_ALLOCATOR: "a:1"}, {ALLOCATOR: PLANNED_ENVIRONMENT[ALLOCATOR]},
         {FORMER_ALLOCATOR: "a:1", ALLOCATOR: "a:1"}),
        ({FORMER_ALLOCATOR: "a:1"}, {ALLOCATOR: "b:2"}, {FORMER_ALLOCATOR: "b:2", ALLOCATOR: "b:2"}),
        ({FORMER_ALLOCATOR: "a:1"}, {}, {FORMER_ALLOCATOR: "a:1", ALLOCATOR: "a:1"}),
        ({}, {ALLOCATOR: PLANNED_ENVIRONMENT[ALLOCATOR]}, {ALLOCATOR: PLANNED_ENVIRONMENT[ALLOCATOR]}),
        ({ALLOCATOR: "a:1"}, {ALLOCATOR: PLANNED_ENVIRONMENT[ALLOCATOR]}, {ALLOCATOR: "a:1"}),
        ({ALLOCATOR: "a:1", FORMER_ALLOCATOR: "b:2"}, {}, {ALLOCATOR: "a:1", FORMER_ALLOCATOR: "a:1"}),
        ({ALLOCATOR: "a:1"}, {FORMER_ALLOCATOR: "b:2"}, {ALLOCATOR: "b:2", FORMER_ALLOCATOR: "b:2"}),
    ],
    ids=["tokenizers", "asked for", "the allocator", "two allocators", "no plan", "no file", "newer", "both", "shell"],
)  # fmt: skip
def test_the_env_file_wins_over_what_a_plan_says_unasked(
    in_file: dict[str, str], around: dict[str, str], found: dict[str, str]
) -> None:
    assert with_env_file(in_file, around, PLANNED_ENVIRONMENT) == found


def test_without_a_plan_the_shell_wins_over_the_env_file() -> None:
    around = {"TOKENIZERS_PARALLELISM": PLANNED_ENVIRONMENT["TOKENIZERS_PARALLELISM"]}
    assert with_env_file({"TOKENIZERS_PARALLELISM": "true"}, around) == around


@pytest.mark.parametrize(
    ("said", "meant"),
    [("all", "all"), ("Gradients", "gradients"), ("false", None), ("", None), (" parameters ", "parameters")],
)
def test_what_wandb_watches_is_one_of_three_words_or_nothing(said: str, meant: str | None) -> None:
    assert watched({"WANDB_WATCH": said}) == meant
    assert watched({}) is None


def test_a_wandb_watch_that_there_is_not_is_refused_where_it_stands(tmp_path: Path, project: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("HF_TOKEN=t\nWANDB_WATCH=weights\n")
    with pytest.raises(ConfigError) as caught:
        read_env_file(path)
    expected = "WANDB_WATCH=weights: takes gradients, parameters, all or false"
    assert str(caught.value) == f"{path} line 2: {expected}"
    done = subprocess.run(
        [sys.executable, "-m", "trainer.supervise", "--", "accelerate", "launch"], capture_output=True, text=True,
        env={**os.environ, "WANDB_WATCH": "weights"}, cwd=project,
    )  # fmt: skip
    assert (done.returncode, bare(done.stderr)) == (78, f"trainyard: {expected}\n")


def test_a_time_limit_counts_from_the_start_unless_a_scheduler_says_when_it_ends() -> None:
    assert complete_environment({"TRAINYARD_TIME_LIMIT_S": "90"}, 1000.7)["TRAINYARD_DEADLINE"] == "1090"
    told = {"TRAINYARD_TIME_LIMIT_S": "90", "TRAINYARD_DEADLINE": "5"}
    assert complete_environment(told, 1000.0) == told
    assert complete_environment({"A": "b"}, 1000.0) == {"A": "b"}


def test_the_token_is_known_by_both_names_and_the_libraries_own_goes_first() -> None:
    assert complete_environment({"HUGGINGFACE_TOKEN": "a"}, 0)["HF_TOKEN"] == "a"
    assert complete_environment({"HUGGINGFACE_TOKEN": "a", "HF_TOKEN": ""}, 0)["HF_TOKEN"] == "a"
    assert complete_environment({"HUGGINGFACE_TOKEN": "a", "HF_TOKEN": "b"}, 0)["HF_TOKEN"] == "b"


@pytest.mark.parametrize(("index", "wrote"), [("0", True), ("1", False)])
def test_the_first_node_writes_the_record_that_submit_could_not(index: str, wrote: bool, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text('{"spec": {"run_id": "r"}}')
    project = make_toy_project(tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-m", "trainer.supervise", "--", *toy_argv("runs/r", max_steps=1, step_s=0)],
        cwd=project,
        env={**os.environ, "TRAINYARD_RUN_RECORD": str(record), "JOB_COMPLETION_INDEX": index},
        check=False,
    )
    assert done.returncode == 0
    written = project / "runs" / "r" / "run.json"
    assert written.exists() == wrote
    if wrote:
        assert json.loads(written.read_text()) == {"spec": {"run_id": "r"}}


@pytest.mark.parametrize("planned", [True, False])
def test_the_end_of_a_planned_run_writes_the_page_of_all_runs_and_of_no_other_run(
    planned: bool, tmp_path: Path
) -> None:
    project = make_toy_project(tmp_path / "project")
    output = project / "runs"
    (output / "r").mkdir(parents=True)
    if planned:
        (output / "r" / "run.json").write_text('{"spec": {"run_id": "r"}}')
    words = [sys.executable, "-m", "trainer.supervise", "--", *toy_argv("runs/r", max_steps=1, step_s=0)]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert ("all runs: runs/index.html" in done.stdout, (output / "index.html").exists()) == (planned, planned)


@pytest.mark.slow
def test_a_pod_whose_time_is_up_stops_with_75_by_itself(tmp_path: Path) -> None:
    project = make_toy_project(tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-m", "trainer.supervise", "--", *toy_argv("runs/r", max_steps=10_000)],
        cwd=project,
        env={**os.environ, "TRAINYARD_TIME_LIMIT_S": "3", "TRAINYARD_STOP_LEAD_S": "1"},
        check=False,
    )
    assert done.returncode == 75


@pytest.mark.slow
def test_ranks_that_hang_are_ended_after_the_time_limit(tmp_path: Path) -> None:
    """Stopped with SIGSTOP: there, and deaf to the flag."""
    project = make_toy_project(tmp_path / "project")
    code = "import sys; from trainer import supervise; supervise.OVERTIME_S = 1; sys.exit(supervise.main(sys.argv[1:]))"
    train = project / "trainer" / "train.py"
    train.write_text(train.read_text().replace("    stop.step = ", "    os.kill(os.getpid(), 19)\n    stop.step = "))
    done = subprocess.run(
        [sys.executable, "-c", code, "--", *toy_argv("runs/r", max_steps=10_000)],
        cwd=project, env={**os.environ, "TRAINYARD_TIME_LIMIT_S": "4", "TRAINYARD_STOP_LEAD_S": "1"},
        stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, bare(done.stderr)) == (
        1, "trainyard: the time limit has come, and the training did not stop when it was told to\n"
    )  # fmt: skip
