"""Lines that squeue and sacct print, as jobs: programs that print what real ones printed stand in for Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import slurm_verbs as verbs
from plans import make_plan
from programs import make_program

from launcher.progress import Job
from launcher.records import Run, run_record, write_record
from slurm.cluster.queue import ask_jobs, find_jobs, jobs_of
from slurm.cluster.reasons import advice, explained
from trainer.progress_file import write_end


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
            job_id="7", state="PENDING", ended=False, reason="JobHeldUser: held by you", limit="30:00", name="gemma-r",
            release="scontrol release 7", script="/a|b/job.sbatch",
            advice="scontrol release 7 (it is held and does not start by itself; make cancel {words} ends it)",
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


# As sacct of 24.11 prints it.
AWAY = (
    "sacct: error: _open_persist_conn: failed to open persistent connection to host:db:6819: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused"
)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (AWAY, "not in squeue, sacct failed: Problem talking to the database: Connection refused"),
        ("Slurm accounting storage is disabled", "not in squeue"),
    ],
)
def test_a_forgotten_job_says_so_where_the_accounting_does_not_answer(said: str, reason: str, tmp_path: Path) -> None:
    environ = answers(tmp_path, squeue="exit 0", sacct=f"cat >&2 <<'E'\n{said}\nE\nexit 1")
    (job,) = find_jobs(["7;fast"], environ).values()
    assert job == Job(job_id="7;fast", state="GONE", ended=True, reason=reason)


def test_a_member_that_never_started_is_what_became_of_its_array(tmp_path: Path) -> None:
    environ = answers(tmp_path, squeue="exit 0", sacct=lines("7|CANCELLED|0:0|None assigned|0:00|30:00|sweep"))
    found = find_jobs(["7_0", "7_1"], environ)
    assert {job_id: (job.job_id, job.state, job.nodes) for job_id, job in found.items()} == {
        job_id: (job_id, "GONE", "") for job_id in ("7_0", "7_1")
    }


def test_a_cluster_that_does_not_answer_hides_no_other_clusters_jobs(tmp_path: Path) -> None:
    down = 'case "$*" in *--clusters=fast*) echo "no contact" >&2; exit 1;; esac\n'
    environ = answers(tmp_path, squeue=down + lines("7|RUNNING|None|n1|1:00|1:00:00|gemma-r|/x/job.sbatch"))
    found = ask_jobs(["9;fast", "7"], environ)
    assert [(i, job.job_id, job.state, job.reason) for i, job in found.items()] == [
        ("9;fast", "9;fast", "UNKNOWN", "squeue failed: no contact"), ("7", "7", "RUNNING", ""),
    ]  # fmt: skip


ELSE = "make cancel {{words}}, then {{again}} {}=... (as it is, it never starts)"
OR_LESS = "make cancel {{words}}, then {{again}} {}=... or make submit with less (as it is, it never starts)"


@pytest.mark.parametrize(
    ("reason", "means", "other"),
    [
        ("QOSGrpGRESMinutes", "the QOS has used up its budget", "QOS"),
        ("AssocGrpCPUMinutesLimit", "the account has used up its budget", "ACCOUNT"),
        ("QOSMaxCpuPerJobLimit", "it asks for more than the QOS allows a job", "QOS"),
        ("QOSMaxCpuMinutesPerJobLimit", "it asks for more than the QOS allows a job", "QOS"),
        ("AssocMaxGRESPerJob", "it asks for more than the account allows a job", "ACCOUNT"),
        ("AssocMaxCpuPerJobLimit", "it asks for more than the account allows a job", "ACCOUNT"),
        ("QOSMinGRES", "it asks for less than the QOS takes", "QOS"),
        ("QOSMinCpuNotSatisfied", "it asks for less than the QOS takes", "QOS"),
        ("QOSMaxGRESPerUser", "your jobs use all that the QOS allows", ""),
        ("QOSGrpGRES", "the jobs of the QOS use all that it allows", ""),
    ],
)
def test_a_limit_names_what_to_change_where_waiting_does_not_help(reason: str, means: str, other: str) -> None:
    assert explained(reason) == f"{reason}: {means}"
    told = OR_LESS if "more than" in means else ELSE
    assert advice(reason, "7") == (told.format(other) if other else "")


def test_a_job_that_left_its_memory_to_slurm_is_not_told_how_much_it_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "gemma-r"
    folder.mkdir(parents=True)
    plan = make_plan(run_id="gemma-r", mem_gib=32, ask_mem=False)
    write_record(folder, {**run_record(plan), "job_ids": ["7"]})
    squeue = lines(f"7|OUT_OF_MEMORY|OutOfMemory|n1|1:00|30:00|gemma-r|{folder}/job.sbatch")
    assert verbs.status({"RUN": "gemma-r"}, answers(tmp_path, squeue=squeue), tmp_path) == 0
    said = "next   make resume RUN=gemma-r MEM=... (GiB a node; with MEM=none Slurm said how much it had)"
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_a_runs_jobs_come_oldest_first(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "gemma-r"
    write_record(folder, {**run_record(make_plan()), "job_ids": ["8", "7", "9"]})
    jobs = {i: Job(job_id=i, state="RUNNING", ended=False, name="gemma-r", script=str(folder / "job.sbatch"))
            for i in ("7", "9", "8")}  # fmt: skip
    run = Run(folder=folder, record={"job_ids": ["8", "7", "9"]})
    assert [job.job_id for job in jobs_of(run, jobs)] == ["8", "7", "9"]


# Ends that take minutes or a machine of their own to provoke, as squeue tells them, or sacct when squeue has forgotten.
MORE = "make resume RUN=gemma-r MEM=64 (it had MEM=32, GiB a node)"
GO_ON = "make resume RUN=gemma-r (goes on from its newest checkpoint)"
FOLLOW = "make logs RUN=gemma-r (follows it; make cancel RUN=gemma-r ends it)"


@pytest.mark.parametrize(
    ("squeue", "sacct", "said", "then"),
    [
        ("OUT_OF_MEMORY|OutOfMemory|n1|1:00", "", "OUT_OF_MEMORY (OutOfMemory) on n1, 1:00 of 30:00", MORE),
        ("", "OUT_OF_MEMORY|0:125|n1|00:01:00", "OUT_OF_MEMORY (0:125) on n1, 00:01:00 of 30:00", MORE),
        ("TIMEOUT|TimeLimit|n1|30:12", "", "TIMEOUT (TimeLimit) on n1, 30:12 of 30:00", GO_ON),
        ("PENDING|Job's account not permitted to use this partition (a denies b including c)|(null)|0:00", "",
         "PENDING (Job's account not permitted to use this partition (a denies b including c): the account may not be "
         "used there)",
         "make cancel RUN=gemma-r, then make resume RUN=gemma-r ACCOUNT=... (as it is, it never starts)"),
        ("PENDING|SomethingNew|(null)|0:00", "", "PENDING (SomethingNew)", FOLLOW),
    ],
)  # fmt: skip
def test_an_end_or_a_wait_is_one_line_and_one_command(
    squeue: str, sacct: str, said: str, then: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "gemma-r"
    folder.mkdir(parents=True)
    write_record(folder, {**run_record(make_plan(run_id="gemma-r", mem_gib=32)), "job_ids": ["7"]})
    environ = answers(
        tmp_path,
        squeue=lines(f"7|{squeue}|30:00|gemma-r|{folder}/job.sbatch") if squeue else "exit 0",
        sacct=lines(f"7|{sacct}|30:00|gemma-r") if sacct else "exit 1",
    )
    assert verbs.status({"RUN": "gemma-r"}, environ, tmp_path) == 0
    _, job, *_, last = capsys.readouterr().out.splitlines()
    assert (job, last) == (f"job    7 {said}", f"next   {then}")


@pytest.mark.parametrize(
    ("code", "said", "then"),
    [
        (0, "COMPLETED (while another job took its place) on n1, 1:00 of 30:00", "look at {folder}/report.html"),
        (1, "FAILED (while another job took its place) on n1, 1:00 of 30:00",
         "make logs RUN=gemma-r (what happened), then make resume RUN=gemma-r"),
        (75, "PREEMPTED on n1, 1:00 of 30:00", GO_ON),
    ],
)  # fmt: skip
def test_what_ended_by_itself_while_it_was_preempted_is_said_to_have_ended(
    code: int, said: str, then: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm 24.11 calls all of them PREEMPTED, with an exit code of 0."""
    folder = tmp_path / "runs" / "gemma-r"
    folder.mkdir(parents=True)
    write_record(folder, {**run_record(make_plan(run_id="gemma-r")), "job_ids": ["7"]})
    write_end(folder, code, "", 1795564800.0, began=0)
    if code == 0:
        (folder / "metrics.json").write_text('{"history": []}')
        (folder / "report.html").touch()
    squeue = lines(f"7|PREEMPTED|None|n1|1:00|30:00|gemma-r|{folder}/job.sbatch")
    assert verbs.status({"RUN": "gemma-r"}, answers(tmp_path, squeue=squeue), tmp_path) == 0
    _, job, *_, last = capsys.readouterr().out.splitlines()
    assert (job, last) == (f"job    7 {said}", f"next   {then.format(folder=folder)}")


@pytest.mark.parametrize(
    ("lacked", "options", "said", "then"),
    [
        (True, {}, "OUT_OF_MEMORY", "make resume RUN=gemma-r MEM=64 (it had MEM=32, GiB a node)"),
        (
            True,
            {"ask_mem": False},
            "OUT_OF_MEMORY",
            "make resume RUN=gemma-r MEM=... (GiB a node; with MEM=none Slurm said how much it had)",
        ),
        (False, {}, "FAILED", "make logs RUN=gemma-r (what happened), then make resume RUN=gemma-r"),
    ],
)
def test_a_job_whose_rank_was_killed_for_memory_is_told_of_memory(
    lacked: bool, options: dict[str, Any], said: str, then: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm calls it FAILED, as it does any job whose batch script lives to its end."""
    folder = tmp_path / "runs" / "gemma-r"
    folder.mkdir(parents=True)
    write_record(folder, {**run_record(make_plan(run_id="gemma-r", **options)), "job_ids": ["7"]})
    write_end(folder, 1, "", 1795564800.0, began=0, out_of_memory=lacked)
    squeue = lines(f"7|FAILED|NonZeroExitCode|n1|1:00|30:00|gemma-r|{folder}/job.sbatch")
    assert verbs.status({"RUN": "gemma-r"}, answers(tmp_path, squeue=squeue), tmp_path) == 0
    _, job, *_, last = capsys.readouterr().out.splitlines()
    assert (job.split()[2], last) == (said, f"next   {then}")
