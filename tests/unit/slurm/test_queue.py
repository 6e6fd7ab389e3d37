"""Lines that squeue and sacct print, as jobs: programs that print what real ones printed stand in for Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest
from plans import make_plan
from programs import make_program

from launcher.progress import Job
from launcher.records import Run, run_record, write_record
from slurm.cluster.queue import find_jobs, jobs_of


def answers(folder: Path, *, squeue: str, sacct: str = "exit 1") -> dict[str, str]:
    path = str(folder / "bin")
    Path(path).mkdir(exist_ok=True)
    for name, text in (("squeue", squeue), ("sacct", sacct)):
        make_program(path, name, text)
    return {"PATH": f"{path}:/usr/bin:/bin"}


def lines(*printed: str) -> str:
    return "cat <<'E'\n" + "\n".join(printed) + "\nE"


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        ("PENDING", False), ("RUNNING", False), ("COMPLETING", False), ("REQUEUED", False), ("SUSPENDED", False),
        ("COMPLETED", True), ("FAILED", True), ("NODE_FAIL", True), ("BOOT_FAIL", True), ("OUT_OF_MEMORY", True),
        ("PREEMPTED", True), ("TIMEOUT", True), ("DEADLINE", True), ("CANCELLED", True), ("REVOKED", True),
    ],
)  # fmt: skip
def test_a_state_says_whether_a_job_has_ended(state: str, ended: bool, tmp_path: Path) -> None:
    environ = answers(tmp_path, squeue=lines(f"7|{state}|None|n1|1:00|1:00:00|gemma-r|/x/job.sbatch"))
    (job,) = find_jobs(["7"], environ).values()
    assert (job.state, job.ended, job.nodes, job.limit) == (state, ended, "n1", "1:00:00")


def test_a_line_of_squeues_is_read_to_its_last_column_whatever_the_script_is_called(tmp_path: Path) -> None:
    environ = answers(
        tmp_path,
        squeue=lines(
            "7|PENDING|JobHeldUser|(null)|0:00|30:00|gemma-r|/a|b/job.sbatch", "no job's line|", "8|RUNNING|None|n[1-2]"
        ),
    )
    assert find_jobs(["7", "8"], environ) == {
        "7": Job(
            job_id="7", state="PENDING", ended=False, reason="JobHeldUser", limit="30:00", name="gemma-r",
            release="scontrol release 7", script="/a|b/job.sbatch",
        ),
        "8": Job(job_id="8", state="GONE", ended=True, reason="not in squeue"),
    }  # fmt: skip


def test_what_squeue_no_longer_has_is_asked_of_the_accounting(tmp_path: Path) -> None:
    sacct = lines("7|CANCELLED by 1000|0:0|n1|1:00|30:00|gemma-r", "8|FAILED|3:0|n1|1:00|30:00|gemma-q", "9|x|")
    environ = answers(
        tmp_path, squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", sacct=sacct
    )
    found = find_jobs(["7", "8"], environ)
    assert [(job.state, job.ended, job.reason, job.exit_code) for job in found.values()] == [
        ("CANCELLED", True, "", 0), ("FAILED", True, "", 3),
    ]  # fmt: skip


def test_a_member_that_never_started_is_what_became_of_its_array(tmp_path: Path) -> None:
    environ = answers(tmp_path, squeue="exit 0", sacct=lines("7|CANCELLED|0:0|None assigned|0:00|30:00|sweep"))
    found = find_jobs(["7_0", "7_1"], environ)
    assert {job_id: (job.job_id, job.state, job.nodes) for job_id, job in found.items()} == {
        job_id: (job_id, "GONE", "") for job_id in ("7_0", "7_1")
    }


def test_a_runs_jobs_come_oldest_first(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "gemma-r"
    write_record(folder, {**run_record(make_plan()), "job_ids": ["8", "7", "9"]})
    jobs = {i: Job(job_id=i, state="RUNNING", ended=False, name="gemma-r", script=str(folder / "job.sbatch"))
            for i in ("7", "9", "8")}  # fmt: skip
    run = Run(folder=folder, record={"job_ids": ["8", "7", "9"]})
    assert [job.job_id for job in jobs_of(run, jobs)] == ["8", "7", "9"]
