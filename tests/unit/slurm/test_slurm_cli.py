"""`python -m slurm` as a program: exit codes, a clean stdout, one line on stderr, nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT
from programs import files, make_program, slurm

from slurm.__main__ import main

Done = subprocess.CompletedProcess[str]


BAD = [
    (["--gpus", "0"], "GPUS=0: takes a whole number from 1 to 64"),
    (["--gpus", "two"], "GPUS=two: takes a whole number from 1 to 64"),
    (["--vram=-1"], "VRAM=-1: takes a number of GiB from 1 to 1024"),
    (["--name", "a\nb"], r"NAME='a\nb': takes at most 40"),
    (["--name", "it's"], 'NAME="it\'s": takes at most 40'),
    (["--config", "zero4"], "CONFIG=zero4: takes one of auto, single_gpu,"),
    (["--runtime", "docker"], "RUNTIME=docker: escapes the allocation"),
    (["--gpu", "2"], "unknown '--gpu', did you mean --gpus?"),
    (["--gpus"], "--gpus needs a value"),
    (["gpus=2"], "unexpected 'gpus': options are written --gpus 2 or --gpus=2"),
    (["GPU=2"], "unknown 'GPU', did you mean GPUS?"),
    (["--gpus", "2", "--vram", "2"], "google/gemma-3-4b-it needs "),
    (["--model", "/no/such/gemma-3-4b-it"], "MODEL=/no/such/gemma-3-4b-it: no folder here and no hub id"),
    (["--model", "nobody/nothing"], "MODEL=nobody/nothing: not a folder"),
]


@pytest.mark.parametrize("verb", ["plan", "render"])
@pytest.mark.parametrize(("argv", "said"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_bad_request_is_one_line_and_78(
    verb: str, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, *argv], {"HOME": "/nonexistent"}) == 78
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith(f"trainyard: {said}")


@pytest.mark.parametrize(("argv", "said"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_bad_request_to_submit_writes_nothing(argv: list[str], said: str, checkout: Path) -> None:
    before = files(checkout)
    done = slurm("submit", *argv, cwd=checkout)
    assert (done.returncode, done.stdout) == (78, "")
    lost = f"DATA is left out, and {checkout}/data does not exist: " if "--vram" in argv and "2" in argv else ""
    assert done.stderr.startswith(f"trainyard: {lost or said}") and said in done.stderr
    assert done.stderr.count("\n") == 1
    assert files(checkout) == before


DATA_MISTAKES = [
    (None, "does not exist"),
    ("", "holds no records"),
    ("not json\n", "0 of 1 records would be left: 1 of 1 records left out: is not JSON (mine.jsonl line 1"),
    ('{"image": null, "question": ""}\n', "lacks output (mine.jsonl line 1"),
    (
        "".join(f'{{"image": "{n}.png", "context": "", "question": "", "output": "a"}}\n' for n in range(5)),
        "5 of 5 records left out: a picture is not there (mine.jsonl line 1, 2, 3 and 2 more",
    ),
]


@pytest.mark.parametrize(("text", "said"), DATA_MISTAKES, ids=[said for _, said in DATA_MISTAKES])
def test_submit_refuses_bad_data_before_anything_is_written(
    text: str | None, said: str, checkout: Path, fake_sbatch: str
) -> None:
    if text is not None:
        (checkout / "mine.jsonl").write_text(text)
    before = files(checkout)
    done = slurm("submit", "--data", "mine.jsonl", "--device", "cpu", cwd=checkout, PATH=fake_sbatch)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert said in done.stderr
    assert files(checkout) == before


@pytest.fixture
def fake_sbatch(tmp_path: Path) -> str:
    """PATH with an sbatch that takes every job as number 7, or refuses a script that says `refuse`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "sbatch"
    program.write_text(
        "#!/bin/sh\nenv >>'%s'\n"
        'if grep -q refuse "$2"; then\n'
        '  printf "sbatch: error: first\\nsbatch: error: second\\n" >&2; exit 1\n'
        "fi\n"
        "echo '7;cluster'\n" % (tmp_path / "sbatch-environment")
    )
    program.chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    make_program(path, "sinfo", "exit 1")  # a real one would look for its controller
    return path


def test_a_submitted_run_has_its_script_record_and_log_folder(
    checkout: Path, records: Path, fake_sbatch: str, tmp_path: Path
) -> None:
    argv = ("submit", "--device=cpu", "--data", str(records), "--run", "mine")
    (conf := tmp_path / "slurm.conf").touch()
    more = {"SBATCH_PARTITION": "x", "SLURM_JOB_ID": "1", "SLURM_CONF": str(conf)}
    done = slurm(*argv, cwd=checkout, PATH=fake_sbatch, **more)
    assert (done.returncode, done.stderr) == (0, "")
    run = checkout / "runs" / "mine"
    assert files(run) == {"job.sbatch", "run.json", "logs"}
    record = json.loads((run / "run.json").read_text())
    assert (record["job_ids"], record["git"], record["spec"]["run_id"]) == (["7;cluster"], None, "mine")
    rendered = slurm("render", *argv[1:], cwd=checkout)
    assert (run / "job.sbatch").read_text() == rendered.stdout
    seen = (tmp_path / "sbatch-environment").read_text()
    assert f"SLURM_CONF={conf}" in seen
    assert "SBATCH_" not in seen and "SLURM_JOB_ID" not in seen
    lines = done.stdout.splitlines()
    assert lines[-12:] == [
        "",
        "job id  7;cluster (gemma-3-4b-it-mine)",
        "run id  mine",
        f"log     {run}/logs/slurm-7.log",
        f"result  {run}/adapter when it is done",
        "",
        "status  make status RUN=mine",
        "follow  make logs RUN=mine",
        "cancel  make cancel RUN=mine    (or scancel --clusters=cluster 7)",
        "resume  make resume RUN=mine    (once it has ended unfinished)",
        "",
        "note    not passed to sbatch, say it in the request: SBATCH_PARTITION",
    ]


def test_a_run_is_never_written_over(checkout: Path, records: Path, fake_sbatch: str) -> None:
    argv = ("submit", "--device=cpu", "--data", str(records), "--run", "mine")
    assert slurm(*argv, cwd=checkout, PATH=fake_sbatch).returncode == 0
    before = files(checkout)
    done = slurm(*argv, cwd=checkout, PATH=fake_sbatch)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == (
        f"trainyard: RUN=mine: {checkout}/runs/mine exists: give another RUN, or none for a new one\n"
    )
    assert files(checkout) == before


def test_when_sbatch_refuses_its_words_are_passed_on_and_nothing_stays(
    checkout: Path, records: Path, fake_sbatch: str
) -> None:
    before = files(checkout)
    argv = ("submit", "--device=cpu", "--data", str(records), "--partition", "refuse")
    done = slurm(*argv, cwd=checkout, PATH=fake_sbatch)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "trainyard: sbatch refused the job: first second\n"
    assert files(checkout) == before


def test_what_sbatch_says_beside_the_jobs_number_is_passed_on(checkout: Path, records: Path, fake_sbatch: str) -> None:
    make_program(fake_sbatch, "sbatch", "echo 7; printf 'sbatch: lua: your\\nproject is charged twice\\n' >&2")
    done = slurm("submit", "--device=cpu", "--data", str(records), cwd=checkout, PATH=fake_sbatch)
    assert (done.returncode, "job id  7 " in done.stdout) == (0, True)
    assert done.stderr == "trainyard: sbatch says: lua: your project is charged twice\n"


@pytest.mark.slow
def test_a_sweep_that_sbatch_does_not_tell_of_keeps_its_runs_and_finds_its_job(
    checkout: Path, records: Path, fake_sbatch: str, tmp_path: Path
) -> None:
    make_program(fake_sbatch, "sbatch", f'echo "$2" >"{tmp_path}/script"; echo "Socket timed out" >&2; exit 1')
    make_program(fake_sbatch, "squeue", f'printf "%s|%s\\n" 8 /else/job.sbatch 12 "$(cat "{tmp_path}/script")"')
    argv = ("sweep", "--grid=LEARNING_RATE=1e-4,2e-4", "--device=cpu", "--data", str(records), "--run=grid")
    done = slurm(*argv, cwd=checkout, PATH=fake_sbatch)
    said = "trainyard: sbatch did not answer (Socket timed out): asking squeue for the job\n"
    assert (done.returncode, done.stderr) == (0, said)
    members = [json.loads((checkout / "runs" / f"grid-{i}" / "run.json").read_text()) for i in range(2)]
    assert [member["job_ids"] for member in members] == [["12_0"], ["12_1"]]
    # As if squeue had been too late.
    for index, member in enumerate(members):
        record = {**member, "job_ids": [], "asked_for": (tmp_path / "script").read_text().strip()}
        (checkout / "runs" / f"grid-{index}" / "run.json").write_text(json.dumps(record))
    slurm("status", "--run=grid", cwd=checkout, PATH=fake_sbatch)
    assert members == [json.loads((checkout / "runs" / f"grid-{i}" / "run.json").read_text()) for i in range(2)]


@pytest.mark.slow
def test_ctrl_c_while_sbatch_waits_keeps_the_run(
    checkout: Path, records: Path, fake_sbatch: str, tmp_path: Path
) -> None:
    """The controller may have taken the job already."""
    make_program(fake_sbatch, "sbatch", f"echo >{tmp_path}/asked; exec sleep 60")
    folder = checkout / "runs" / "mine"
    submitting = subprocess.Popen(
        [sys.executable, "-m", "slurm", "submit", "--device=cpu", "--data", str(records), "--run=mine"],
        cwd=checkout,
        env={"PATH": fake_sbatch, "HOME": "/nonexistent"},
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: a background shell starts its children with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "asked").exists():
        assert submitting.poll() is None
        time.sleep(0.05)
    submitting.send_signal(signal.SIGINT)
    _, said = submitting.communicate(timeout=30)
    assert (submitting.returncode, said) == (
        1,
        f"trainyard: it is not known whether the job is queued, so {folder} stays (interrupted): make status RUN=mine "
        "asks again, as does squeue --me; make resume RUN=mine submits it if it is not there\n",
    )
    assert files(folder) == {"job.sbatch", "run.json", "logs"}


@pytest.mark.slow
def test_a_run_whose_job_never_came_is_submitted_by_resume(checkout: Path, records: Path, fake_sbatch: str) -> None:
    argv = ("submit", "--device=cpu", "--data", str(records), "--run", "mine")
    assert slurm(*argv, cwd=checkout, PATH=fake_sbatch).returncode == 0
    folder = checkout / "runs" / "mine"
    asked = {"job_ids": [], "asked_for": str(folder / "job.sbatch")}
    (folder / "run.json").write_text(json.dumps({**json.loads((folder / "run.json").read_text()), **asked}))
    make_program(fake_sbatch, "squeue", "echo '6|/else/job.sbatch'")
    done = slurm("status", "--run=mine", cwd=checkout, PATH=fake_sbatch)
    assert done.stdout.splitlines()[1] == "job    - UNKNOWN (sbatch did not answer, squeue shows none)"
    next_said = "next   make status RUN=mine again; if no job of it is there, make resume RUN=mine"
    assert done.stdout.splitlines()[-1] == next_said
    done = slurm("list", cwd=checkout, PATH=fake_sbatch)
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [["mine", "-", "UNKNOWN", "-", "-", "no"]]
    assert slurm("resume", "--run=mine", cwd=checkout, PATH=fake_sbatch).returncode == 0
    record = json.loads((folder / "run.json").read_text())
    assert (record["job_ids"], record.get("asked_for")) == (["7;cluster"], None)


def test_without_sbatch_submit_says_where_to_go(checkout: Path, records: Path, tmp_path: Path) -> None:
    done = slurm("submit", "--device=cpu", "--data", str(records), cwd=checkout, PATH=str(tmp_path))
    assert done.returncode == 78
    assert done.stderr.startswith("trainyard: no sbatch on PATH: submit where Slurm is installed;")


@pytest.mark.parametrize(
    ("said", "way"),
    [
        (
            "Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "scontrol ping shows whether the cluster's controller is up; if it stays down, ask the administrator",
        ),
        (
            "fatal: Could not establish a configuration source",
            "this machine has Slurm's programs and belongs to no cluster: go to a login node",
        ),
        ("fatal: Unable to process configuration file", "the administrator can mend slurm.conf"),
    ],
)
def test_where_no_cluster_answers_submit_and_check_say_what_to_do(
    said: str, way: str, checkout: Path, records: Path, fake_sbatch: str
) -> None:
    for name in ("sbatch", "sinfo"):
        make_program(fake_sbatch, name, f"echo '{name}: {said}' >&2; exit 1")
    request = ("--device=cpu", "--data", str(records))
    done = slurm("submit", *request, cwd=checkout, PATH=fake_sbatch)
    instead = "make run trains on this machine, TO=k8s on Kubernetes"
    shown = f"trainyard: sbatch refused the job: {said}: {way}; {instead}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", shown)
    done = slurm("check", *request, cwd=checkout, PATH=fake_sbatch)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"trainyard: sinfo failed: {said}: {way}\n")
    assert not (checkout / "runs").exists()


def test_where_slurm_conf_is_no_file_nothing_waits_a_minute_for_it(
    checkout: Path, records: Path, fake_sbatch: str, tmp_path: Path
) -> None:
    conf = tmp_path / "nowhere" / "slurm.conf"
    way = "no file that can be read: unset it, or name the cluster's slurm.conf"
    for verb in ("submit", "check"):
        done = slurm(verb, "--device=cpu", "--data", str(records), cwd=checkout, PATH=fake_sbatch, SLURM_CONF=str(conf))
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"trainyard: SLURM_CONF={conf}: {way}\n")
    assert not (checkout / "runs").exists() and not (tmp_path / "sbatch-environment").exists()


def test_without_the_jobs_environment_submit_says_how_to_make_it(
    checkout: Path, records: Path, fake_sbatch: str
) -> None:
    """Where make-env.sh cannot make it, and where it says that it did and did not."""
    make_program(fake_sbatch, "sinfo", "echo 'low*|1-00:00:00|2|64|256000|gpu:a100:8|(null)|NO'")
    for text, said in (
        ("exit 1", "the job's environment could not be made: make env DEVICE=cuda tries again"),
        (
            "echo .venv/cuda/bin/python",
            "no finished environment for the job (CHECKOUT/.venv/cuda/bin/python): make env",
        ),
    ):
        (checkout / "make-env.sh").write_text(f"{text}\n")
        done = slurm("submit", "--data", str(records), cwd=checkout, PATH=fake_sbatch)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
        assert done.stderr.startswith(f"trainyard: {said.replace('CHECKOUT', str(checkout))}")
    assert not (checkout / "runs").exists()


def test_no_environment_is_made_for_a_cluster_that_does_not_answer(
    checkout: Path, records: Path, fake_sbatch: str
) -> None:
    (checkout / "make-env.sh").write_text("touch made\n")
    make_program(fake_sbatch, "sinfo", "echo x >> asked; echo 'sinfo: error: no controller' >&2; exit 1")
    done = slurm("submit", "--data", str(records), cwd=checkout, PATH=fake_sbatch)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "trainyard: sinfo failed: no controller\n"
    assert not (checkout / "made").exists()
    assert (checkout / "asked").read_text() == "x\n"


@pytest.mark.parametrize("verb", ["submit", "check"])
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--gpus=9"], "GPUS=9: a node of partition low has at most 8: try GPUS=8"),
        (["--partition=lwo"], "PARTITION=lwo: no such partition, did you mean low? known are low"),
        (["--time=2d"], "TIME=2880m: partition low ends jobs after 1440 minutes: try TIME=1440m"),
    ],
)
def test_what_the_cluster_can_never_run_is_refused_before_it_is_queued(
    verb: str, argv: list[str], said: str, checkout: Path, records: Path, fake_sbatch: str
) -> None:
    make_program(fake_sbatch, "sinfo", "echo 'low*|1-00:00:00|2|64|256000|gpu:a100:8|(null)|NO'")
    before = files(checkout)
    done = slurm(verb, "--config=multi_gpu", "--gpus=2", *argv, "--data", str(records), cwd=checkout, PATH=fake_sbatch)
    assert (done.returncode, done.stdout, done.stderr) == (78, "", f"trainyard: {said}\n")
    assert files(checkout) == before


def test_where_sinfo_does_not_answer_sbatch_is_left_to_judge(checkout: Path, records: Path, fake_sbatch: str) -> None:
    make_program(fake_sbatch, "sinfo", "echo 'sinfo: error: no controller' >&2; exit 1")
    done = slurm("submit", "--device=cpu", "--data", str(records), cwd=checkout, PATH=fake_sbatch)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("helped", "said"),
    [
        ("echo --container-image", ""),
        ("exit 1", ""),
        ("echo --nodes", "srun here knows no --container-image: where the nodes' does not either, RUNTIME=pyxis ends "),
    ],
)
def test_submit_says_where_srun_knows_no_containers(
    helped: str, said: str, checkout: Path, records: Path, fake_sbatch: str, tmp_path: Path
) -> None:
    plain = checkout.rename(tmp_path / "plain")  # pyxis mounts no other
    data = records.rename(plain / "data")
    make_program(fake_sbatch, "srun", helped)
    argv = ("--device=cpu", "--data", str(data), "--runtime=pyxis", "--image=team/trainyard:1")
    done = slurm("submit", *argv, cwd=plain, PATH=fake_sbatch)
    assert done.returncode == 0, done.stderr
    assert (said in done.stderr, done.stderr.count("\n")) == (True, 1 if said else 0)


def test_render_prints_the_script_and_nothing_else_and_the_same_again() -> None:
    one, two = (slurm("render", "--gpus", "2", LC_ALL=locale) for locale in ("C", "C.UTF-8"))
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout.startswith("#!/bin/bash\n") and one.stdout.endswith("\n")
    assert one.stdout == two.stdout


@pytest.mark.parametrize(
    "argv", [["plan"], ["render"], ["plan", "--grid", "SEED=1,2"], ["render", "--grid", "SEED=1,2"]]
)
def test_a_settings_file_that_contradicts_the_plan_is_no_plan(argv: list[str], checkout: Path) -> None:
    (checkout / "train.yaml").write_text("micro_batch_size: 4\n")
    done = slurm(*argv, "--config-file", "train.yaml", "--effective-batch", "2", cwd=checkout)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert "train.yaml says micro_batch_size: 4, but the plan decides 2: take micro_batch_size out" in done.stderr


def test_plan_as_json_is_json() -> None:
    done = slurm("plan", "--gpus=2", "--format=json")
    assert json.loads(done.stdout)["num_processes"] == 2
    assert done.stderr == ""


def test_only_plan_has_formats() -> None:
    assert slurm("render", "--format=json").returncode == 78


def test_an_unknown_verb_lists_the_known() -> None:
    done = slurm("rendr")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("trainyard: unknown verb 'rendr', did you mean render? known are plan, render,")


def test_help_is_an_answer() -> None:
    done = slurm("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--gpu-type" in done.stdout


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m slurm plan --gpus 2 --format json | true"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_the_launch_side_never_imports_torch() -> None:
    """Nor anything else of the train set: a login node has pyyaml and submitit."""
    code = (
        "import sys; from slurm.__main__ import main\n"
        "import planner.table, slurm.submit, trainer.data.records, trainer.supervise\n"
        "assert main(['render', '--gpus', '2'], {}) == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'accelerate', 'datasets', 'numpy', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
