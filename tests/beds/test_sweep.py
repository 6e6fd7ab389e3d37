"""Sweeps: what a grid means, what is refused of one, and members on a real Slurm that go on alone."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_verbs as verbs
from cluster import STARTED_S, Cluster
from here import sweep_of
from programs import local, until
from toy_project import make_toy_project, read_losses, toy_losses
from toy_sweep import toy_sweep

from launcher import grid, records
from launcher.grid import MAX_MEMBERS, Recorded, Sweep, read_grid, read_result, read_sweep, results_table
from launcher.records import read_run
from slurm.__main__ import main
from slurm.cluster.queue import find_jobs
from slurm.cluster.sbatch import SubmitError
from trainer.commands import training_command
from trainer.launch import Launch
from trainer.outcome import SWEEP_ENV, ConfigError, SickNode
from trainer.sweep import trial

GRID = "LEARNING_RATE=1e-4,2e-4 LORA=low,high"


def test_a_grid_is_every_combination_the_last_name_changing_fastest() -> None:
    assert read_grid(GRID, {}) == (
        {"LEARNING_RATE": "1e-4", "LORA": "low"},
        {"LEARNING_RATE": "1e-4", "LORA": "high"},
        {"LEARNING_RATE": "2e-4", "LORA": "low"},
        {"LEARNING_RATE": "2e-4", "LORA": "high"},
    )
    assert read_grid("DATA='my data,other data'", {}) == ({"DATA": "my data"}, {"DATA": "other data"})


MISTAKES = [
    ("", "GRID is empty: write GRID="),
    ("LORA", "GRID: 'LORA' has no value where one is due: write LORA=value,value,..."),
    ("LORA=", "GRID: 'LORA=' has no value where one is due"),
    ("LORA=low,,high", "GRID: 'LORA=low,,high' has no value where one is due"),
    ("LORRA=low", "GRID: 'LORRA' is unknown, did you mean LORA? a grid takes MODEL, DATA,"),
    ("LR=1e-4,2e-4", "GRID: 'LR' is unknown, did you mean LEARNING_RATE? a grid takes MODEL, DATA,"),
    ("batch-size=1,2", "GRID: 'batch-size' is unknown, did you mean EFFECTIVE_BATCH? a grid takes MODEL, DATA,"),
    ("GPUS=1,2", "GRID: 'GPUS' is the same for all members, say it beside GRID: a grid takes"),
    ("$(touch ran)=1", "GRID: '$(touch' is unknown: a grid takes"),
    ("LORA=low,low", "GRID: LORA lists 'low' twice, which would be the same run twice"),
    ("LORA=8,low,32", "GRID: LORA lists 'low' twice, which would be the same run twice"),
    ("LEARNING_RATE=1e-4,0.0001", "GRID: LEARNING_RATE lists '1e-4' twice, which would be the same run twice"),
    ("LORA=low LORA=high", "LORA is given twice in GRID: say it once"),
    ("SEED=1,2", "SEED is given in GRID and beside it: say it once"),
    ("LORA=low,hi", "LORA=hi: takes high, medium, low or a rank, a whole number from 1 to 1024, did you mean high?"),
    ("LORA='low", 'GRID="LORA=\'low": No closing quotation: write GRID='),
    (
        f"MAX_STEPS={','.join(map(str, range(1, MAX_MEMBERS + 2)))}",
        f"GRID makes {MAX_MEMBERS + 1} members, at most {MAX_MEMBERS} are taken: list fewer values",
    ),
]


@pytest.mark.parametrize(("grid", "said"), MISTAKES, ids=[said[:30] for _, said in MISTAKES])
def test_a_bad_grid_is_one_line(grid: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_grid(grid, {"SEED": "0"})
    assert str(caught.value).startswith(said)
    assert str(caught.value).isprintable()


def planned(**given: str) -> Sweep:
    return sweep_of({"GRID": GRID, **given})


def test_every_member_is_planned_on_its_own() -> None:
    sweep = planned(RUN="try", VRAM="24")
    assert [plan.spec.run_id for plan in sweep.plans] == ["try-0", "try-1", "try-2", "try-3"]
    assert [(plan.spec.training.learning_rate, plan.spec.training.lora_r) for plan in sweep.plans] == [
        (1e-4, 32), (1e-4, 128), (2e-4, 32), (2e-4, 128),
    ]  # fmt: skip
    low, high = (plan.chosen for plan in sweep.plans[:2])
    assert (low.micro_batch_size, high.micro_batch_size) == (2, 1)  # r=128 leaves no room for two
    assert all(dict(plan.env)["WANDB_RUN_GROUP"] == "try" for plan in sweep.plans)
    assert sweep.parallel == 4


def test_the_same_grid_has_the_same_id_and_another_has_another() -> None:
    assert planned() == planned()
    assert planned().sweep_id != planned(GRID=f"{GRID} SEED=0,1").sweep_id


def test_a_member_that_fits_nowhere_is_named_with_the_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        planned(GRID="LORA=low,high", VRAM="7")
    assert str(caught.value).startswith("member 1 (LORA=high): google/gemma-3-4b-it needs ")
    assert "LORA=64" in str(caught.value) or "VRAM=16" in str(caught.value)


def test_an_id_that_leaves_no_room_for_the_members_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes at most 59 characters for a sweep"):
        planned(RUN="x" * 60)


@pytest.mark.parametrize("verb", ["submit", "check", "status"])
def test_other_verbs_refuse_a_grid(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--grid", "LORA=low"], {"PATH": os.environ["PATH"]}) == 78
    assert "GRID=LORA=low: only make sweep takes it" in capsys.readouterr().err


def test_plan_shows_the_members_and_render_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--grid", GRID, "--run", "try", "--site", "none"]
    assert main(["plan", *argv], {}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sweep  try: 4 members, at most 4 at once"
    assert [line.split()[:4] for line in lines[3:7]] == [
        ["0", "1e-4", "low", "single_gpu"], ["1", "1e-4", "high", "single_gpu"],
        ["2", "2e-4", "low", "single_gpu"], ["3", "2e-4", "high", "single_gpu"],
    ]  # fmt: skip
    assert main(["render", *argv, "--parallel", "3"], {}) == 0
    assert "\n#SBATCH --array=0-3%3\n" in capsys.readouterr().out
    assert main(["plan", *argv, "--format", "json"], {}) == 0
    assert [plan["spec"]["run_id"] for plan in json.loads(capsys.readouterr().out)] == [
        f"try-{index}" for index in range(4)
    ]


@pytest.mark.parametrize("flag", ["--trials", "--parallel"])
def test_plan_takes_the_words_of_a_sweep_without_a_grid(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", flag, "3", "--run", "try", "--site", "none"], {}) == 0
    count, parallel = (3, 3) if flag == "--trials" else (12, 3)
    heading = f"sweep  try: {count} members, at most {parallel} at once"
    assert capsys.readouterr().out.splitlines()[0] == heading


@pytest.mark.parametrize(
    ("accuracy", "step"),
    [
        *((accuracy, "1") for accuracy in ("7.5", "-0.1", "true", "NaN", "Infinity", "9" * 400, '"0.9"', "[1]")),
        *(("0.9", step) for step in ("1e400", "-1", "1.5", "NaN", "true", '"3"', "null", "9" * 400)),
    ],
)
def test_a_score_that_is_none_ranks_nobody_best(accuracy: str, step: str, tmp_path: Path) -> None:
    """Edited by hand, or by another program: JSON holds more than a training writes."""
    for index, (score, last) in enumerate([(accuracy, step), ("0.25", "3.0"), ("1", "4")]):
        folder = tmp_path / f"toys-{index}"
        folder.mkdir()
        text = f'{{"after": {{"accuracy": {score}}}, "history": [{{"step": {last}}}]}}'
        (folder / "metrics.json").write_text(text)
    assert [read_result(tmp_path / f"toys-{index}") for index in range(3)] == [None, (0.25, 3), (1.0, 4)]
    values = tuple({"SEED": str(index)} for index in range(3))
    sweep = Recorded(folder=tmp_path / "toys", parallel=1, values=values, wandb=None)
    lines = results_table(sweep, [("GONE", "-")] * 3, "").splitlines()
    assert [line.split()[0::4] for line in lines[3:6]] == [["toys-2", "100.0%"], ["toys-1", "25.0%"], ["toys-0", "-"]]
    report = training_command("trainer", "report", tmp_path / "toys-2")
    assert lines[-1] == f"best   {report} (it has no report yet)"
    (tmp_path / "toys-2" / "report.html").touch()
    assert (
        results_table(sweep, [("GONE", "-")] * 3, "").splitlines()[-1]
        == f"best   look at {tmp_path}/toys-2/report.html"
    )


def test_a_spoilt_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for text in ("[", "[]", '{"values": [], "parallel": 1}', '{"values": [{}], "parallel": "x; touch y"}'):
        (tmp_path / "s" / "sweep.json").write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_sweep(tmp_path / "s")
        assert str(caught.value).endswith(f"remove {tmp_path / 's'}")
    assert read_sweep(tmp_path / "none") is None


def test_a_record_that_cannot_be_read_now_is_not_to_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the run's, with its checkpoints; in a job another node or attempt may read it."""
    for name in ("sweep.json", "trial.json", "metrics.json"):
        (tmp_path / name).write_text("{}")

    def stale(path: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    for module in (grid, trial, records):
        monkeypatch.setattr(module, "read_json", stale)
    for read, name in ((read_sweep, "sweep.json"), (trial.read_trial, "trial.json")):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path)
        said = f"{tmp_path / name} cannot be read (Stale file handle): make it readable, then try again"
        assert str(caught.value) == said
    launch = Launch(module="trainer.train", settings={"output_dir": str(tmp_path)})
    with pytest.raises(SickNode, match=r"trial\.json cannot be read \(Stale file handle\)"):
        trial.attempt(launch, {SWEEP_ENV: "me/toys/1"}, lambda _: 0)
    assert not records.spoilt(tmp_path)


@pytest.mark.cluster
def test_a_member_is_requeued_alone_and_no_more_run_at_once_than_said(
    cluster: Cluster, tmp_path: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_toy_project(tmp_path / "it's a toy")
    sweep = toy_sweep(project, records, count=3, parallel=2)
    array = verbs.submit_sweep(sweep, cluster.environ)
    folders = [project / "runs" / f"toys-{index}" for index in range(3)]
    assert [read_run(folder).job_ids for folder in folders] == [(f"{array}_{index}",) for index in range(3)]

    def log(index: int) -> str:
        path = folders[index] / "logs" / f"slurm-{array}_{index}.log"
        return path.read_text() if path.exists() else ""

    def jobs() -> list[dict[str, str]]:
        return [cluster.job(f"{array}_{index}") for index in range(3)]

    until(lambda: "step 5\n" in log(0) and "step 5\n" in log(1), lambda: (log(0), log(1)))
    assert [job["JobState"] for job in jobs()] == ["RUNNING", "RUNNING", "PENDING"]
    assert jobs()[2]["Reason"] == "JobArrayTaskLimit"
    cluster.run("scancel", "--signal=USR1", f"{array}_1")
    until(lambda: jobs()[1]["Restarts"] == "1", lambda: log(1))
    (project / "go").touch()
    states: list[list[str]] = []

    def ended() -> bool:
        seen = [job["JobState"] for job in jobs()]
        states.append(seen)
        if seen[1] == "PENDING" and seen[0] == "COMPLETED":  # the old attempt's end was waited for by then
            cluster.run("scontrol", "update", f"jobid={array}_1", "starttime=now", check=False)
        return seen == ["COMPLETED"] * 3

    until(ended, lambda: (states[-1], log(1), log(2)), STARTED_S)
    assert max(seen.count("RUNNING") for seen in states) <= 2
    assert [job["Restarts"] for job in jobs()] == ["0", "1", "0"]
    assert [read_losses(folder) for folder in folders] == [toy_losses(40 + index) for index in range(3)]
    assert "going on from step" in log(1) and "going on" not in log(0) + log(2)
    steps = [int(step) for step in re.findall(r"(?m)^step (\d+)$", log(1))]
    assert steps == list(range(1, 42))


# In the supervisor's place: waits until it is told to end, and ends as it is told.
WAITING = """
import os, pathlib, sys, time
words = sys.argv
folder = pathlib.Path(words[words.index("--output_dir") + 1])
(folder / "progress.json").write_text('{"phase": "training", "step": 1, "of": 20, "written_at": 1}')
while not (folder / "go").exists():
    time.sleep(0.05)
code = (folder / "go").read_text()
if code == "0":
    (folder / "report.html").touch()
    (folder / "metrics.json").write_text('{"after": {"accuracy": 0.%s5}, "history": [{"step": 1}]}' % folder.name[-1])
pathlib.Path(os.environ["TRAINYARD_STATUS_FILE"]).write_text(code)
sys.exit(int(code))
"""


@pytest.mark.cluster
def test_the_verbs_see_cancel_and_resume_a_whole_sweep(
    cluster: Cluster, tmp_path: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_toy_project(tmp_path / "toy")
    (project / "trainer" / "supervise.py").unlink()
    (project / "trainer" / "supervise.py").write_text(WAITING)
    array = verbs.submit_sweep(toy_sweep(project, records, count=3, parallel=3), cluster.environ)
    given, output = {"RUN": "toys"}, project / "runs"

    def act(name: str) -> str:
        assert getattr(verbs, name)(given, cluster.environ, project) == 0
        return capsys.readouterr().out

    def rows() -> list[list[str]]:
        return [line.split() for line in act("status").splitlines()[3:6]]

    until(lambda: all(row[2:4] == ["RUNNING", "1/20"] for row in rows()), rows)
    (output / "toys-2" / "go").write_text("0")
    until(lambda: rows()[0] == ["toys-2", "42", "COMPLETED", "1/20", "25.0%"], rows)
    assert act("status").splitlines()[-2:] == [
        f"best   look at {output}/toys-2/report.html",
        "next   make logs RUN=toys (follows one; make cancel RUN=toys ends all)",
    ]
    (output / "toys-1" / "go").write_text("1")
    until(lambda: ["toys-1", "41", "FAILED", "1/20", "-"] in rows(), rows)
    assert act("cancel") == "cancelled 1 job of sweep toys; make resume RUN=toys starts them again\n"
    until(lambda: ["toys-0", "40", "CANCELLED", "1/20", "-"] in rows(), rows)
    assert act("status").endswith("next   make resume RUN=toys (those that are unfinished)\n")

    for index in (0, 1):
        (output / f"toys-{index}" / "go").write_text("0")
    said = act("resume")
    again = read_run(output / "toys-0").job_ids[1].removesuffix("_0")
    assert said.startswith(f"job {again} takes up toys-0, toys-1\n")
    assert [read_run(output / f"toys-{i}").job_ids for i in range(3)] == [
        (f"{array}_0", f"{again}_0"), (f"{array}_1", f"{again}_1"), (f"{array}_2",),
    ]  # fmt: skip
    until(lambda: all(row[2] == "COMPLETED" for row in rows()), rows)
    assert [row[0] for row in rows()] == ["toys-2", "toys-1", "toys-0"]  # the best first
    assert "next" not in act("status")
    with pytest.raises(ConfigError, match="has no member that is unfinished and out of the queue"):
        verbs.resume(given, cluster.environ, project)


@pytest.mark.cluster
def test_a_sweep_that_sbatch_refuses_leaves_nothing_behind(cluster: Cluster, tmp_path: Path, records: Path) -> None:
    project = make_toy_project(tmp_path / "toy")
    with pytest.raises(SubmitError, match="sbatch refused the job"):
        verbs.submit_sweep(toy_sweep(project, records, count=2, parallel=1, partition="none"), cluster.environ)
    assert not (project / "runs").exists()


@pytest.mark.cluster
def test_of_two_sweeps_with_one_name_the_slower_is_told_to_take_another(
    cluster: Cluster, tmp_path: Path, records: Path
) -> None:
    project = make_toy_project(tmp_path / "toy")
    (project / "runs" / "toys-1").mkdir(parents=True)  # since it was checked
    with pytest.raises(ConfigError, match=r"^RUN=toys: .*/runs/toys-1 exists: give another RUN"):
        verbs.submit_sweep(toy_sweep(project, records, count=2, parallel=1), cluster.environ)
    assert [path.name for path in (project / "runs").iterdir()] == ["toys-1"]


@pytest.mark.cluster
def test_members_that_never_started_are_seen_as_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text("#!/bin/sh\n")
    words = ("sbatch", "--parsable", "--array=0-2", "--hold", f"--output={tmp_path}/%a", str(script))
    array = cluster.run(*words).stdout.strip()
    cluster.run("scancel", array)
    jobs = find_jobs([f"{array}_{index}" for index in range(3)], cluster.environ)
    assert [(job.job_id, job.state, job.ended) for job in jobs.values()] == [
        (f"{array}_{index}", "CANCELLED", True) for index in range(3)
    ]


@pytest.mark.cluster
@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_sweep_shows_the_members_and_submits_them(cluster: Cluster, checkout: Path, records: Path) -> None:
    words = ["DEVICE=cpu", f"DATA={records}", "GRID=SEED=1,2,3", "RUN=seeds", "PARALLEL=1", "TIME=10"]
    done = cluster.run("make", "sweep", *words, "PARTITION=high", cwd=checkout)
    array = read_run(checkout / "runs" / "seeds-0").job_ids[0].removesuffix("_0")
    assert done.stdout.startswith("sweep  seeds: 3 members, at most 1 at once\n")
    assert f"(or scancel {array})" in done.stdout
    assert cluster.job(f"{array}_2")["JobState"] == "PENDING"
    done = cluster.run("make", "cancel", "RUN=seeds", cwd=checkout)
    assert done.stdout.startswith("cancelled ")
    until(lambda: all(j.ended for j in find_jobs([f"{array}_{i}" for i in range(3)], cluster.environ).values()))
    again = cluster.run("make", "sweep", *words, cwd=checkout, check=False)
    assert f"RUN=seeds: {checkout / 'runs' / 'seeds'} exists: give another RUN" in again.stderr


def test_without_slurm_a_sweep_writes_nothing(checkout: Path, records: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slurm", "sweep", "--grid", "SEED=1,2", "--data", str(records)],
        cwd=checkout, env={"PATH": "/nonexistent", "HOME": "/nonexistent"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("trainyard: no sbatch on PATH")
    assert not (checkout / "runs").exists()


@pytest.mark.slow
def test_on_this_machine_a_sweep_stops_in_order_goes_on_and_ends_in_a_table(
    checkout: Path, tiny_model: Path, walks: Path
) -> None:
    """The whole trainer, started cold: told to stop in the middle of the first member, then started again."""
    words = ("--model", str(tiny_model), "--data", str(walks), "--run", "tries", "--lora", "low")
    words += ("--max-steps", "30", "--grid", "LEARNING_RATE=2e-3,1e-6")
    first = local(checkout, *words)
    assert first.stdout
    output = ""
    for line in first.stdout:
        output += line
        if "step 10/30" in line:
            first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 75, output
    assert re.search(r"trainyard: stopped at step \d+", output)
    rows = [line.split() for line in output[output.index("sweep  tries\n") :].splitlines()[3:5]]
    assert rows == [["tries-0", "2e-3", "stopped", "-", "-"], ["tries-1", "1e-6", "-", "-", "-"]]
    assert output.endswith("next   the same command with RUN=tries, or --run tries (those that are unfinished)\n")
    assert not (checkout / "runs" / "tries-1").exists()

    output, _ = (second := local(checkout, *words)).communicate(timeout=300)
    assert second.returncode == 0, output
    assert "going on from step" in output
    results = [read_result(checkout / "runs" / f"tries-{index}") for index in range(2)]
    scores = [result[0] for result in results if result and result[0] is not None]
    table = output[output.index("sweep  tries\n") :].splitlines()
    assert {tuple(line.split()) for line in table[3:5]} == {
        ("tries-0", "2e-3", "finished", "30/30", f"{scores[0]:.1%}"),
        ("tries-1", "1e-6", "finished", "30/30", f"{scores[1]:.1%}"),
    }
    assert table[-1].startswith("best   look at ")
    group = json.loads((checkout / "runs" / "tries-1" / "run.json").read_text())["plan"]["env"]
    assert group["WANDB_RUN_GROUP"] == "tries"

    other = local(checkout, *words, "--grid", "LEARNING_RATE=1e-3")
    said, _ = other.communicate(timeout=60)
    assert (other.returncode, said.splitlines()) == (
        78,
        [f"trainyard: RUN=tries: {checkout / 'runs' / 'tries'} is not of this sweep: give another RUN"],
    )


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_sweep_without_slurm_runs_here(checkout: Path, records: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "sed", "cat", "dirname", "cmp", "env"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [str(shutil.which("make")), "sweep", "GRID=SEED=1,2", "PARALLEL=2", "DEVICE=cpu", f"DATA={records}"],
        cwd=checkout, env={"PATH": str(tools)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.startswith("trainyard: PARALLEL=2: is for TO=slurm or k8s only, leave it out")
    assert not (checkout / "runs").exists()
