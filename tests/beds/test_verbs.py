"""What comes after submit, on a real Slurm: where a run is, its log, its end; and run.json in strange hands."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm_verbs as verbs
from cluster import Cluster, unreachable
from paths import ROOT
from plans import make_plan
from programs import until
from refusal import refusal

from launcher.progress import Job
from launcher.records import finished, read_run, run_record, write_record
from slurm.__main__ import main
from slurm.cluster.queue import NO_CLUSTER, SlurmError, find_jobs, jobs_of
from trainer.commands import training_command
from trainer.progress_file import Progress, write_progress

# In the supervisor's place: takes a step, waits until it is told to end, and ends as it is told.
TOY = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
def write(**progress):
    known = {"step": 2, "of": 20, "loss": 0.5, "step_at": time.time(), "seconds_per_step": 600}
    (folder / "progress.tmp").write_text(json.dumps({**known, "written_at": time.time(), **progress}))
    (folder / "progress.tmp").replace(folder / "progress.json")
write(phase="training")
print("step  1/20  loss 1.5", flush=True)
print("step  2/20  loss 0.5", flush=True)
for _ in range(6000):
    if pathlib.Path("go").exists() and pathlib.Path("go").read_text():
        break
    time.sleep(0.05)
print("trainyard: told to end", flush=True)
write(phase="failed", said="told to end")
code = pathlib.Path("go").read_text()
if "TRAINYARD_STATUS_FILE" in os.environ:
    pathlib.Path(os.environ["TRAINYARD_STATUS_FILE"]).write_text(code)
sys.exit(int(code))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project's"
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer" / "supervise.py").write_text(TOY)
    python = folder / ".venv" / "cpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "cpu" / ".made").touch()
    return folder


@pytest.fixture
def start(cluster: Cluster, project: Path, records: Path) -> Callable[..., str]:
    """Submits a run and returns its job's id."""

    def submitted(run_id: str, **options: Any) -> str:
        request = {"device": "cpu", "gpus": 0, "cpus": 1, "mem_gib": 32, "time_limit_min": 10, "name": "toy"}
        plan = make_plan(project_dir=str(project), data=str(records), run_id=run_id, **{**request, **options})
        return verbs.submit(plan, cluster.environ).job_id

    return submitted


def log_has(project: Path, run_id: str, text: str) -> bool:
    return any(text in log.read_text() for log in (project / "runs" / run_id / "logs").glob("*.log"))


def timeless(text: str) -> list[str]:
    """Lines of a status without what a slow machine changes in them."""
    return re.sub(r"\b[0-9]+ s ago", "0 s ago", re.sub(r", 0:[0-9]{2}", ", 0:00", text)).splitlines()


METRICS = '{"history": []}'
"""Of a finished run, the least of it."""


def write_run(output: Path, run_id: str, *job_ids: str) -> Path:
    folder = output / run_id
    folder.mkdir(parents=True)
    write_record(folder, {**run_record(make_plan(run_id=run_id)), "job_ids": list(job_ids)})
    return folder


@pytest.mark.cluster
def test_status_follows_a_run_from_its_steps_to_its_end(
    cluster: Cluster, project: Path, start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = start("one")
    until(lambda: log_has(project, "one", "step  2/20"))
    verbs.status({"RUN": "one"}, cluster.environ, project)
    lines = timeless(capsys.readouterr().out)
    folder = project / "runs" / "one"
    assert lines == [
        "run    one",
        f"job    {job_id} RUNNING on n1, 0:00 of 10:00",
        "step   2 of 20, 0 s ago, about 2 h 59 min left",
        "phase  training, loss 0.5000, seconds a step 600",
        f"files  {folder}, no adapter yet",
        "next   make logs RUN=one (follows it; make cancel RUN=one ends it)",
    ]
    (project / "go").write_text("78")
    cluster.wait(job_id)
    verbs.status({"RUN": "one"}, cluster.environ, project)
    lines = timeless(capsys.readouterr().out)
    assert lines == [
        "run    one",
        f"job    {job_id} FAILED (exit code 78) on n1, 0:00 of 10:00",
        "step   2 of 20, 0 s ago",
        "said   told to end",
        f"files  {folder}, no adapter yet",
        "next   make logs RUN=one (the request is wrong: it says how), then make submit with another",
    ]


@pytest.mark.cluster
def test_a_finished_run_is_known_by_its_files_when_slurm_has_forgotten_it(
    cluster: Cluster, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No accounting here, as on many small clusters: sacct fails, and the files speak."""
    folder = write_run(project / "runs", "old", "999999")
    (folder / "adapter").mkdir()
    (folder / "metrics.json").write_text(METRICS)
    (folder / "report.html").touch()
    verbs.status({"RUN": "old"}, cluster.environ, project)
    assert capsys.readouterr().out.splitlines() == [
        "run    old",
        "job    999999 GONE (not in squeue)",
        "step   not known",
        f"files  {folder}, adapter, report.html",
        f"next   look at {folder / 'report.html'}",
    ]


@pytest.mark.cluster
def test_where_there_is_accounting_sacct_says_how_a_forgotten_job_ended(cluster: Cluster, tmp_path: Path) -> None:
    """squeue is real. The test cluster keeps no accounts, so sacct's answer is a stand-in's, in its format; that
    the real sacct takes the options, its complaint shows, which comes after reading them."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sacct").write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{tmp_path}/argv'\n"
        "echo '999998|CANCELLED by 1000|0:15|n1|00:10:00|12:00:00|toy-r'\n"
        "echo '999999|FAILED|78:0|n[1-2]|00:00:07|12:00:00|other'\n"
    )
    (tools / "sacct").chmod(0o755)
    environ = {**cluster.environ, "PATH": f"{tools}{os.pathsep}{cluster.environ['PATH']}"}
    found = find_jobs(["999997", "999998", "999999"], environ)
    assert [job.text for job in found.values()] == [
        "999997 GONE (not in squeue)",
        "999998 CANCELLED (0:15) on n1, 00:10:00 of 12:00:00",
        "999999 FAILED (exit code 78) on n[1-2], 00:00:07 of 12:00:00",
    ]
    run = read_run(write_run(tmp_path / "runs", "r", *found))
    assert [job.text for job in jobs_of(run, found)][1:] == [
        "999998 CANCELLED (0:15) on n1, 00:10:00 of 12:00:00",
        "999999 GONE (Slurm's job of that number is another, called other)",
    ]
    argv = (tmp_path / "argv").read_text().splitlines()
    assert "--jobs=999997,999998,999999" in argv
    real = cluster.run("sacct", *argv, check=False)
    assert real.stderr == "Slurm accounting storage is disabled\n"
    assert "unrecognized option" in cluster.run("sacct", "--no-such-option", check=False).stderr


@pytest.mark.cluster
def test_a_pending_job_says_what_it_waits_for_and_cancel_ends_it_once(
    cluster: Cluster, project: Path, start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    blocker = cluster.run("sbatch", "--parsable", "--exclusive", "-N2", "-o/dev/null", "--wrap=sleep 60").stdout.strip()
    job_id = start("waiting")
    until(lambda: find_jobs([job_id], cluster.environ)[job_id].reason not in ("", "None"))
    verbs.status({"RUN": "waiting"}, cluster.environ, project)
    line = capsys.readouterr().out.splitlines()[1]
    why = "(Resources: waits until enough nodes are free|Priority: other jobs come before it)"
    assert re.fullmatch(rf"job    {job_id} PENDING \({why}\)", line)
    verbs.cancel({"RUN": "waiting"}, cluster.environ, project)
    said = f"cancelled job {job_id} of run waiting; make resume RUN=waiting starts it again\n"
    assert capsys.readouterr().out == said
    until(lambda: find_jobs([job_id], cluster.environ)[job_id].state == "CANCELLED")
    verbs.cancel({"RUN": "waiting"}, cluster.environ, project)
    assert capsys.readouterr().out == "run waiting has no job that is pending or running\n"
    cluster.run("scancel", blocker)


@pytest.mark.cluster
def test_list_shows_every_run_the_newest_first_and_the_broken_too(
    cluster: Cluster, project: Path, start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = start("real")
    until(lambda: log_has(project, "real", "step  2/20"))
    for age, (run_id, job_ids) in enumerate([("local", []), ("old", ["999999"])], start=1):
        folder = write_run(project / "runs", run_id, *job_ids)
        os.utime(folder / "run.json", (age, age))
    (project / "runs" / "torn").mkdir()
    (project / "runs" / "torn" / "run.json").write_text("{")
    os.utime(project / "runs" / "torn" / "run.json", (0, 0))
    verbs.list_runs({}, cluster.environ, project)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["run", "job", "state", "step", "accuracy", "adapter"],
        ["real", job_id, "RUNNING", "2/20", "-", "no"],
        ["old", "999999", "GONE", "-", "-", "no"],
        ["local", "-", "-", "-", "-", "no"],
        ["torn", "-", "BROKEN", "-", "-", "-"],
    ]
    cluster.run("scancel", job_id)


@pytest.mark.cluster
def test_a_run_json_that_names_another_job_neither_cancels_it_nor_shows_it_as_the_runs(
    cluster: Cluster, project: Path, start: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By whatever name the other job goes: the script that it was made of decides."""
    other = start("theirs", name="toy")
    wrapped = cluster.run(
        "sbatch", "--parsable", "--job-name=toy-mine", "--output=/dev/null", "--wrap=sleep 60"
    ).stdout.strip()
    for job_id, which in ((other, f"{project}/runs/theirs/job.sbatch"), (wrapped, "(null)")):
        folder = write_run(tmp_path / job_id, "mine", job_id)
        (folder / "job.sbatch").touch()
        given = {"RUN": "mine", "OUTPUT": str(folder.parent)}
        gone = f"job {job_id} GONE (Slurm's job of that number is another, made of {which})"
        assert verbs.cancel(given, cluster.environ, project) == 0
        shown = capsys.readouterr()
        assert shown.out == "run mine has no job that is pending or running\n"
        assert gone in shown.err
        verbs.status(given, cluster.environ, project)
        assert capsys.readouterr().out.splitlines()[1].startswith("job    " + gone.removeprefix("job "))
        verbs.list_runs({"OUTPUT": str(folder.parent)}, cluster.environ, project)
        assert capsys.readouterr().out.splitlines()[1].split() == ["mine", job_id, "GONE", "-", "-", "no"]
        assert verbs.logs(given, cluster.environ, project) == 0  # ends at once
        assert gone in capsys.readouterr().err
        assert cluster.job(job_id)["JobState"] in ("PENDING", "RUNNING")
    cluster.run("scancel", other, wrapped)


def test_a_job_is_the_runs_whose_script_it_was_made_of(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    run = read_run(write_run(tmp_path / "runs", "swept-1", "7", "8_1"))
    script = run.folder / "job.sbatch"
    script.touch()
    (tmp_path / "other" / "swept-1").mkdir(parents=True)
    (tmp_path / "other" / "swept-1" / "job.sbatch").touch()

    def own(job_id: str, name: str, made_of: str | Path) -> bool:
        job = Job(job_id=job_id, state="RUNNING", ended=False, name=name, script=str(made_of))
        (seen,) = jobs_of(run, {job_id: job})
        assert seen is job or (seen.state, seen.ended) == ("GONE", True)
        return seen is job

    assert own("7", "anything", script)
    assert own("7", "anything", tmp_path / "link" / "runs" / "swept-1" / "job.sbatch")
    # The folder of runs was moved since; a script that is there belongs to whoever's folder it lies in.
    assert own("7", "gemma-swept-1", "/no/such/place/swept-1/job.sbatch")
    assert not own("7", "gemma-other", "/no/such/place/swept-1/job.sbatch")
    assert not own("7", "gemma-swept-1", "/no/such/place/other/job.sbatch")
    assert not own("7", "gemma-swept-1", tmp_path / "other" / "swept-1" / "job.sbatch")
    # An array's script lies in the sweep's folder, and a member resumed alone has its own.
    assert own("8_1", "x", tmp_path / "runs" / "swept" / "job.sbatch")
    assert not own("8_1", "x", script) and not own("7", "x", tmp_path / "runs" / "swept" / "job.sbatch")
    # What sacct tells is the name alone.
    assert own("7", "gemma-swept-1", "") and own("8_1", "gemma-swept", "") and not own("7", "gemma-swept-10", "")


def follow(project: Path, cluster: Cluster, run_id: str, **environ: str) -> subprocess.Popen[str]:
    code = (
        # As in a terminal: a background shell starts its children with SIGINT ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import os, sys; from pathlib import Path; from launcher import verbs; from slurm.scheduler import SCHEDULER\n"
        f"sys.exit(verbs.logs(SCHEDULER, {{'RUN': {run_id!r}}}, os.environ, Path({str(project)!r})))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**cluster.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.cluster
def test_logs_follow_a_job_over_a_requeue_until_it_has_ended(
    cluster: Cluster, project: Path, start: Callable[..., str]
) -> None:
    job_id = start("twice")
    write_record(
        project / "runs" / "twice", {**read_run(project / "runs" / "twice").record, "job_ids": ["999998", job_id]}
    )
    (project / "runs" / "twice" / "logs" / "slurm-999998.log").write_text("an earlier job\n")
    until(lambda: log_has(project, "twice", "step  2/20  loss 0.5\n"))
    following = follow(project, cluster, "twice")
    cluster.run("scontrol", "requeue", job_id)

    until(lambda: cluster.job(job_id)["Restarts"] == "1")
    cluster.start_again(job_id)
    log = project / "runs" / "twice" / "logs" / f"slurm-{job_id}.log"
    until(lambda: log.read_text().count("step  2/20  loss 0.5\n") == 2)
    assert following.poll() is None
    (project / "go").write_text("0")
    out, err = following.communicate(timeout=120)
    assert following.returncode == 0
    lines = [line for line in out.splitlines() if line.startswith(("an earlier", "step", "trainyard"))]
    steps = ["step  1/20  loss 1.5", "step  2/20  loss 0.5"]
    assert lines == ["an earlier job", *steps, *steps, "trainyard: told to end"]
    # Slurm may start it again on either node.
    assert re.match(rf"trainyard: job {job_id} COMPLETED on n[12]\b", err.splitlines()[-1])


@pytest.mark.cluster
def test_ctrl_c_leaves_the_log_quietly_and_the_job_running(
    cluster: Cluster, project: Path, start: Callable[..., str]
) -> None:
    job_id = start("mine")
    until(lambda: log_has(project, "mine", "step  2/20"))
    following = follow(project, cluster, "mine")
    assert following.stdout and following.stdout.readline() == "step  1/20  loss 1.5\n"
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=120)
    assert (following.returncode, "Traceback" in out, err) == (0, False, "")
    assert find_jobs([job_id], cluster.environ)[job_id].state == "RUNNING"
    cluster.run("scancel", job_id)


@pytest.mark.cluster
def test_logs_go_on_while_the_controller_is_away(
    cluster: Cluster, project: Path, start: Callable[..., str], tmp_path: Path
) -> None:
    job_id = start("patient")
    until(lambda: log_has(project, "patient", "step  2/20"))
    good, conf = (cluster.dir / "slurm.conf").read_text(), tmp_path / "slurm.conf"
    conf.write_text(good)
    following = follow(project, cluster, "patient", SLURM_CONF=str(conf))
    assert following.stdout and following.stdout.readline() == "step  1/20  loss 1.5\n"
    conf.write_text(unreachable(good))
    assert following.stderr and following.stderr.readline().endswith("; asking again\n")
    conf.write_text(good)
    (project / "go").write_text("0")
    _, err = following.communicate(timeout=120)
    assert following.returncode == 0
    assert re.match(rf"trainyard: job {job_id} COMPLETED on n[12]\b", err.splitlines()[-1])


@pytest.mark.cluster
def test_a_controller_that_is_down_is_one_line_and_hides_nothing_on_the_disk(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "runs", "r", "1")
    write_progress(folder, Progress(phase="training", step=2, of=20, written_at=1))
    (tmp_path / "slurm.conf").write_text(unreachable((cluster.dir / "slurm.conf").read_text()))
    environ = {**cluster.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    said = "Unable to contact slurm controller (connect failure)"
    away = f"squeue failed: slurm_load_jobs error: {said}: {NO_CLUSTER['Unable to contact slurm controller']}"
    with pytest.raises(SlurmError, match=re.escape(away)):
        verbs.cancel({"RUN": "r"}, environ, tmp_path)
    # What lies on the disk is shown all the same.
    verbs.status({"RUN": "r"}, environ, tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "run    r",
        f"job    1 UNKNOWN ({away})",
        "step   2 of 20",
        f"files  {folder}, no adapter yet",
        "next   make status RUN=r again; if no job of it is there, make resume RUN=r",
    ]
    done = write_run(tmp_path / "runs", "done", "2")
    (done / "metrics.json").write_text(METRICS)
    for name in ("adapter", "report.html"):
        (done / name).touch()
    os.utime(done / "run.json", (1, 1))
    verbs.status({"RUN": "done"}, environ, tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"next   look at {done / 'report.html'}"
    verbs.list_runs({}, environ, tmp_path)
    shown = capsys.readouterr()
    assert shown.err == f"trainyard: {away}\n"
    assert [line.split() for line in shown.out.splitlines()[1:]] == [
        ["r", "1", "UNKNOWN", "2/20", "-", "no"],
        ["done", "2", "COMPLETED", "-", "-", "yes"],
    ]


def away(tmp_path: Path) -> dict[str, str]:
    """An environment where Slurm's programs are and none answers."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("squeue", "sacct"):
        (tools / name).write_text("#!/bin/sh\necho away >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"history": 1}', '{\n "format": 1,\n "config": {', "folder"]
)
def test_a_metrics_file_that_training_did_not_write_finishes_nothing(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = away(tmp_path)
    folder = write_run(tmp_path / "runs", "r", "1")
    (folder / "metrics.json").mkdir() if text == "folder" else (folder / "metrics.json").write_text(text)
    verbs.status({"RUN": "r"}, environ, tmp_path)
    said = "metrics.json is not what training wrote: remove it, then make resume RUN=r"
    assert capsys.readouterr().out.splitlines()[-1] == f"next   {said}"
    verbs.list_runs({}, environ, tmp_path)
    assert capsys.readouterr().out.splitlines()[1].split() == ["r", "1", "BROKEN", "-", "-", "no"]
    assert refusal(verbs.resume, {"RUN": "r"}, environ, tmp_path) == f"{folder}/{said}"


def test_a_metrics_file_that_may_not_be_read_is_left_alone(tmp_path: Path) -> None:
    """Somebody else's, on a shared disk: nobody is told to remove it."""
    (tmp_path / "metrics.json").write_text("")
    (tmp_path / "metrics.json").chmod(0)
    assert finished(tmp_path) != os.access(tmp_path / "metrics.json", os.R_OK)


def test_without_run_status_takes_the_newest_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for age, run_id in enumerate(["new", "old"]):
        folder = write_run(tmp_path / "runs", run_id)
        os.utime(folder / "run.json", (100 - age, 100 - age))
    verbs.status({}, {"PATH": "/nonexistent"}, tmp_path)
    shown = capsys.readouterr()
    assert shown.err == f"trainyard: RUN is left out: new, the newest in {tmp_path}/runs\n"
    assert shown.out.splitlines()[0] == "run    new"


@pytest.mark.parametrize("verb", [verbs.cancel, verbs.resume])
def test_what_changes_a_run_does_not_guess_among_several(verb: Any, tmp_path: Path) -> None:
    for run_id in ("a", "b"):
        os.utime(write_run(tmp_path / "runs", run_id) / "run.json", (ord(run_id), ord(run_id)))
    assert refusal(verb, {}, {}, tmp_path) == "which of 2 runs? say RUN= one of b, a"


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    write_run(tmp_path / "out put", "gemma-20300101-abcdef")
    given = {"RUN": "gemma-20300101-abcdee", "OUTPUT": "out put"}
    for verb in (verbs.status, verbs.logs, verbs.cancel):
        assert refusal(verb, given, {}, tmp_path) == (
            f"RUN=gemma-20300101-abcdee: no such run in {tmp_path}/out put, did you mean gemma-20300101-abcdef? "
            "known are gemma-20300101-abcdef"
        )
    assert refusal(verbs.status, {"RUN": "x"}, {}, tmp_path) == (
        f"no run in {tmp_path}/runs: make submit starts one, OUTPUT= looks in another folder"
    )


def test_without_slurm_it_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "r", "1")
    for verb in (verbs.status, verbs.logs, verbs.cancel):
        assert refusal(verb, {"RUN": "r"}, {"PATH": "/nonexistent"}, tmp_path) == (
            "no squeue on PATH: this asks Slurm, so run it where Slurm is installed"
        )


def test_variables_that_say_nothing_here_are_refused(tmp_path: Path) -> None:
    assert refusal(verbs.status, {"GPUS": "2"}, {}, tmp_path) == (
        "GPUS=2: only RUN, OUTPUT, SITE count here, leave it out"
    )


def test_what_a_resumed_run_keeps_is_told_with_what_to_do_instead(tmp_path: Path) -> None:
    for name, text in (("GPUS", "2"), ("LEARNING_RATE", "1e-4"), ("MODEL", "x/y")):
        said = refusal(verbs.resume, {"RUN": "r", name: text}, {}, tmp_path)
        assert said.startswith(
            f"{name}={text}: a resumed run keeps what its plan computed, and takes RUN, OUTPUT, SITE, TIME,"
        )
        instead = "leave it out, or make submit with another RUN (init_adapter starts from this run's adapter)"
        assert said.endswith(instead)


def test_what_only_resume_takes_is_not_offered_to_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--time", "1h"], {}) == 78
    said = "trainyard: TIME=1h: only RUN, OUTPUT, SITE count here, leave it out\n"
    assert capsys.readouterr().err == said
    assert main(["resume", "--gpus", "2"], {}) == 78
    said = "GPUS=2: a resumed run keeps what its plan computed, and takes RUN, OUTPUT, SITE, TIME, RUNTIME, "
    assert said in capsys.readouterr().err


def test_a_run_that_no_scheduler_began_goes_on_by_its_own_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "runs", "r", "1")
    record = json.loads((folder / "run.json").read_text())
    write_record(folder, {**record, "job_ids": []})
    verbs.status({"RUN": "r"}, {}, tmp_path)
    said = "next   the command that began it, with RUN=r: it was started without a scheduler"
    assert capsys.readouterr().out.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{", "is not JSON (Expecting property name"),
        ("[]", "is not a JSON object"),
        ({"spec": None}, "spec is not an object"),
        ({"job_ids": "1"}, "job_ids is not a list"),
        ({"job_ids": [1]}, "'1' in job_ids is not a job's number"),
        ({"job_ids": ["1", "--help"]}, "'--help' in job_ids is not a job's number"),
        ({"job_ids": ["1,2"]}, "'1,2' in job_ids is not a job's number"),
        ({"job_ids": ["\u0661"]}, "'\u0661' in job_ids is not a job's number"),
        ({"spec": {"run_id": "other"}}, "run_id is 'other', the folder is called r"),
    ],
)
def test_a_run_json_edited_by_hand_is_one_line_and_78(change: Any, said: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs", "r", "1") / "run.json"
    path.write_text(change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change}))
    message = refusal(verbs.status, {"RUN": "r"}, {}, tmp_path)
    assert said in message and message.startswith(str(path))


def test_a_run_json_that_lacks_a_key_is_one_line(tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs", "r", "1") / "run.json"
    path.write_text('{"spec": {}, "plan": {}}')
    assert refusal(verbs.status, {"RUN": "r"}, {}, tmp_path) == (
        f"{path}: job_ids is missing: put it right or remove {path.parent}"
    )


@pytest.mark.cluster
def test_resume_submits_an_ended_run_again_as_a_new_job_of_the_same_run(
    cluster: Cluster, project: Path, start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = start("again")
    until(lambda: log_has(project, "again", "step  2/20"))
    folder = project / "runs" / "again"
    given = {"RUN": "again"}
    assert refusal(verbs.resume, given, cluster.environ, project) == (
        f"job {first} of run again is RUNNING: make cancel RUN=again ends it, then resume"
    )
    (project / "go").write_text("1")
    cluster.wait(first)
    (project / "go").unlink()
    before = json.loads((folder / "run.json").read_text())

    verbs.resume(given, cluster.environ, project)
    after = json.loads((folder / "run.json").read_text())
    assert after["job_ids"][:-1] == [first] == before["job_ids"]
    second = after["job_ids"][-1]
    assert after["spec"] == before["spec"]
    assert f"job id  {second} (toy-again)" in capsys.readouterr().out.splitlines()
    until(lambda: log_has(project, "again", "step  2/20"))
    assert refusal(verbs.resume, given, cluster.environ, project).startswith(f"job {second} of run again is ")
    (project / "go").write_text("0")
    assert cluster.wait(second)["JobState"] == "COMPLETED"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "job.sbatch",
        "progress.json",
        "run.json",
        *sorted(f"slurm-{job_id}.log" for job_id in (first, second)),
    ]
    # Killed between the adapter and what is known of it, the run is not finished for anybody.
    (folder / "adapter").mkdir()
    verbs.status(given, cluster.environ, project)
    said = "next   make logs RUN=again (what happened), then make resume RUN=again"
    assert capsys.readouterr().out.splitlines()[-1] == said
    (folder / "metrics.json").write_text(METRICS)
    verbs.status(given, cluster.environ, project)
    look = f"next   {training_command('trainer', 'report', folder)} (it has no report yet)"
    assert capsys.readouterr().out.splitlines()[-1] == look
    said = f"run again is finished ({folder / 'adapter'}): make submit starts another"
    assert refusal(verbs.resume, given, cluster.environ, project) == said


@pytest.mark.cluster
def test_a_resumed_run_takes_another_time_and_partition_and_keeps_them(
    cluster: Cluster, project: Path, start: Callable[..., str]
) -> None:
    first = start("moved")
    cluster.run("scancel", first)
    cluster.wait(first)
    path = project / "runs" / "moved" / "run.json"
    before = json.loads(path.read_text())["spec"]
    given = {"RUN": "moved", "TIME": "30", "PARTITION": "high", "MODULES": "apptainer", "ENVIRONMENT": "B=2,C=3"}
    assert refusal(verbs.resume, {**given, "IMAGE": "a.sif"}, cluster.environ, project).startswith(
        "IMAGE= without a container: add RUNTIME=apptainer"
    )
    verbs.resume(given, cluster.environ, project)
    after = json.loads(path.read_text())
    job = cluster.job(after["job_ids"][-1])
    cluster.run("scancel", after["job_ids"][-1])
    cluster.wait(after["job_ids"][-1])
    moved = {
        "time_limit_min": 30,
        "partition": "high",
        "modules": ["apptainer"],
        "environment": [["B", "2"], ["C", "3"]],
    }
    assert (job["Partition"], job["TimeLimit"]) == ("high", "00:30:00")
    assert after["spec"] == {**before, **moved}
    script = (path.parent / "job.sbatch").read_text()
    assert "module load apptainer;" in script and "export B=2\nexport C=3\n" in script

    # An image, in a folder since this cluster would not leave a mounted one alone; ENVIRONMENT adds to the run's own.
    (project / "a.sif").touch()
    (project / "unpacked").mkdir()
    given = {"RUN": "moved", "RUNTIME": "apptainer", "IMAGE": "./unpacked", "ENVIRONMENT": "C=4", "MEM": "none"}
    said = refusal(verbs.resume, {**given, "IMAGE": "a.sif"}, cluster.environ, project)
    assert said.startswith("IMAGE=a.sif: this cluster (ProctrackType=proctrack/linuxproc) sends")
    assert json.loads(path.read_text()) == after
    verbs.resume(given, cluster.environ, project)
    last = json.loads(path.read_text())
    cluster.run("scancel", last["job_ids"][-1])
    changed = {"runtime": "apptainer", "image": "./unpacked", "environment": [["B", "2"], ["C", "4"]], "ask_mem": False}
    assert last["spec"] == {**before, **moved, **changed}
    script = (path.parent / "job.sbatch").read_text()
    assert f"--pwd /workspace {shlex.quote(str(project / 'unpacked'))} " in script and "--mem=" not in script


@pytest.mark.cluster
def test_a_job_that_is_held_is_released_next(
    cluster: Cluster, project: Path, start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = start("held")
    until(lambda: log_has(project, "held", "step  2/20"))
    (project / "go").write_text("1")  # its process is told to end as well
    cluster.run("scontrol", "requeuehold", job_id)
    until(lambda: cluster.job(job_id)["JobState"] in ("PENDING", "REQUEUE_HOLD"))
    verbs.status({"RUN": "held"}, cluster.environ, project)
    *_, last = capsys.readouterr().out.splitlines()
    cluster.run("scancel", job_id)
    held = "(it is held and does not start by itself; make cancel RUN=held ends it)"
    assert last == f"next   scontrol release {job_id} {held}"


@pytest.mark.cluster
def test_a_resume_that_slurm_refuses_leaves_the_run_as_it_was(
    cluster: Cluster, project: Path, start: Callable[..., str]
) -> None:
    job_id = start("stuck", partition="high")
    cluster.run("scancel", job_id)
    cluster.wait(job_id)
    folder = project / "runs" / "stuck"
    record = json.loads((folder / "run.json").read_text())
    record["spec"]["reservation"] = "nosuch"
    write_record(folder, record)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SlurmError, match="Requested reservation is invalid"):
        verbs.resume({"RUN": "stuck"}, cluster.environ, project)
    impossible = {"RUN": "stuck", "CPUS": "65"}
    assert refusal(verbs.resume, impossible, cluster.environ, project) == (
        "CPUS=65: such a node of partition high has at most 64: try CPUS=64"
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.cluster
def test_of_two_that_resume_a_run_one_is_refused(cluster: Cluster, project: Path) -> None:
    folder = write_run(project / "runs", "r", "999999")
    (folder / ".resuming").touch()
    said = f"{folder}/.resuming is there, someone is resuming this run: if not, remove it"
    assert refusal(verbs.resume, {"RUN": "r"}, cluster.environ, project) == said
