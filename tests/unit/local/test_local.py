"""This machine as a scheduler: a run's process, its log and its end, seen by the verbs of every scheduler."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from here import given_here, prepare_batch
from paths import ROOT
from plans import make_plan

from launcher import verbs
from launcher.records import run_record, write_record
from launcher.resuming import resume
from local.machine.attempt import is_locked, is_running, log_path, read_attempt, stop
from local.scheduler import SCHEDULER
from planner.choose import choose
from trainer.outcome import ConfigError

status, logs, cancel, list_runs = (
    partial(verb, SCHEDULER) for verb in (verbs.status, verbs.logs, verbs.cancel, verbs.list_runs)
)
# In the supervisor's place: speaks on both streams, waits, and ends with 75 when it is told to stop.
ATTEMPT = """
import os, signal, sys, time
from pathlib import Path
from local.machine.attempt import carry_out, lock
def act():
    signal.signal(signal.SIGTERM, lambda *_: (print("stopped in order", flush=True), os._exit(75)))
    signal.signal(signal.SIGINT, lambda *_: (print("by Ctrl-C", flush=True), os._exit(75)))
    print("a line", sys.stdout.isatty(), flush=True)
    os.write(2, b"\\x1b7\\x1b[24;1Hdrawn\\x1b8")
    os.write(2, b"\\r 10%\\r 20%\\r    \\r")
    print("an error", file=sys.stderr, flush=True)
    time.sleep(60)
with lock(Path(sys.argv[1]), "r"):
    code = carry_out(Path(sys.argv[1]), "run", act)
sys.exit(code)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    write_record(folder, run_record(make_plan(run_id="r")))
    return folder


def start(folder: Path, **streams: int) -> subprocess.Popen[bytes]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([sys.executable, "-c", ATTEMPT, str(folder)], cwd=ROOT, **pipes)  # type: ignore[call-overload,no-any-return]


def until_logged(folder: Path, text: str, number: int = 1) -> None:
    deadline = time.monotonic() + 30
    log = log_path(folder, number)
    while not (log.exists() and text in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_verbs_see_cancel_and_read_a_run_of_this_machine(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = start(folder)
    until_logged(folder, "an error")
    given, host = {"RUN": "r"}, os.uname().nodename
    status(given, {}, tmp_path)
    assert re.sub(r"0:00:\d\d", "0:00:00", capfd.readouterr().out).splitlines() == [
        "run    r",
        f"job    local-1 RUNNING on {host}, 0:00:00",
        "step   none yet",
        f"files  {folder}, no adapter yet",
        "next   make logs TO=local RUN=r (follows it; make cancel TO=local RUN=r ends it)",
    ]
    assert cancel(given, {}, tmp_path) == 0
    said = "cancelled job local-1 of run r; make resume TO=local RUN=r starts it again\n"
    assert capfd.readouterr().out == said
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (75, b"a line False\nstopped in order\n")
    assert err == b"\x1b7\x1b[24;1Hdrawn\x1b8\r 10%\r 20%\r    \ran error\n"
    assert cancel(given, {}, tmp_path) == 0
    assert capfd.readouterr().out == "run r has no job that is pending or running\n"
    logs(given, {}, tmp_path)
    shown = capfd.readouterr()
    assert sorted(shown.out.splitlines()) == ["a line False", "an error", "stopped in order"]
    assert shown.err == f"trainyard: job local-1 STOPPED on {host}\n"
    list_runs({}, {}, tmp_path)
    assert capfd.readouterr().out.splitlines()[1].split() == ["r", "local-1", "STOPPED", "-", "-", "no"]


def test_a_process_that_was_killed_is_gone_and_its_number_is_not_signalled(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = start(folder)
    until_logged(folder, "an error")
    process.kill()
    process.wait()
    attempt = read_attempt(folder)
    assert attempt
    deadline = time.monotonic() + 30
    while is_locked(folder):  # the kernel kills its child next
        assert time.monotonic() < deadline
        time.sleep(0.05)
    status({"RUN": "r"}, {}, tmp_path)
    gone = f"job    local-1 GONE (its process ended without an exit code) on {attempt.host}"
    assert capfd.readouterr().out.splitlines()[1] == gone
    # The number belongs to somebody else by now, who is at another run, or even at this one.
    record = json.loads((folder / "attempt.json").read_text())
    (folder / "attempt.json").write_text(json.dumps({**record, "pid": os.getpid()}))
    cancel({"RUN": "r"}, {}, tmp_path)
    assert capfd.readouterr().out == "run r has no job that is pending or running\n"
    again = start(folder)
    until_logged(folder, "an error", number=2)
    newest = json.loads((folder / "attempt.json").read_text())
    (folder / "attempt.json").write_text(json.dumps({**newest, "pid": os.getpid()}))
    cancel({"RUN": "r"}, {}, tmp_path)
    assert capfd.readouterr().out == "run r has no job that is pending or running\n"
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=30) == 75


GOOD = {"number": 1, "pid": 4000000, "started": "7", "host": "h", "began": 0.5, "code": None, "verb": "run"}
DAMAGED = (
    {"pid": -1}, {"pid": 10**30}, {"pid": True}, {"number": 0}, {"number": -3}, {"number": 10**12}, {"code": -1},
    {"code": 10**400}, {"began": float("inf")}, {"began": float("nan")}, {"began": 1e300}, {"began": -1},
    {"began": "now"}, {"host": "h\x1b[2J"}, {"verb": "x" * 300}, {"started": 7}, {"more": 1},
)  # fmt: skip


def test_a_damaged_record_of_the_attempt_is_none(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "attempt.json").write_text(json.dumps(GOOD))
    assert read_attempt(folder)
    texts = [json.dumps({**GOOD, **damage}) for damage in DAMAGED]
    for text in ("", "[]", "{}", *texts):
        (folder / "attempt.json").write_text(text)
        assert read_attempt(folder) is None, text
        list_runs({}, {}, tmp_path)
        assert capfd.readouterr().out.splitlines()[1].split() == ["r", "-", "-", "-", "-", "no"]


def test_an_attempt_that_does_not_say_when_it_was_started_is_not_running(folder: Path) -> None:
    process = start(folder)
    until_logged(folder, "an error")
    host = os.uname().nodename
    for pid in (2**31 - 1, 2**22 + 1):
        (folder / "attempt.json").write_text(json.dumps({**GOOD, "pid": pid, "started": "", "host": host}))
        attempt = read_attempt(folder)
        assert attempt and not is_running(folder, attempt) and not stop(folder, attempt)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75


def test_logs_prints_the_logs_that_are_there_however_many_there_should_be(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "logs").mkdir()
    for number, text in ((2, "b\n"), (10, "c\n"), (1, "a\n")):
        log_path(folder, number).write_text(text)
    (folder / "logs" / "local-x.log").write_text("not one\n")
    (folder / "attempt.json").write_text(json.dumps({**GOOD, "number": 10**9 - 1, "code": 1}))
    logs({"RUN": "r"}, {}, tmp_path)
    assert capfd.readouterr().out == "a\nb\nc\n"


def follow_in_the_background(folder: Path) -> subprocess.Popen[str]:
    words = ["logs", "--run", "r", "--output", str(folder.parent)]
    return subprocess.Popen(
        [sys.executable, "-m", "local", *words], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_logs_follows_into_the_next_attempt(folder: Path) -> None:
    first = start(folder)
    until_logged(folder, "an error")
    following = follow_in_the_background(folder)
    assert following.stdout and following.stdout.readline() in ("a line False\n", "an error\n")
    # It must not look while no attempt runs: then there is nothing to follow, and it ends.
    following.send_signal(signal.SIGSTOP)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=30) == 75
    second = start(folder)
    until_logged(folder, "an error", number=2)
    following.send_signal(signal.SIGCONT)
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=30) == 75
    out, err = following.communicate(timeout=60)
    assert following.returncode == 0 and "Traceback" not in err
    assert out.count("stopped in order") == 2


@pytest.mark.parametrize("damage", ["", None])
def test_logs_goes_on_when_the_record_of_the_attempt_disappears(folder: Path, damage: str | None) -> None:
    process = start(folder)
    until_logged(folder, "an error")
    following = follow_in_the_background(folder)
    assert following.stdout and following.stdout.readline() in ("a line False\n", "an error\n")
    (folder / "attempt.json").unlink()
    if damage is not None:
        (folder / "attempt.json").write_text(damage)
    time.sleep(2)
    assert following.poll() is None  # somebody is at the run
    process.kill()  # it would write its record again
    _, err = following.communicate(timeout=60)
    assert (following.returncode, "Traceback" in err) == (0, False)
    assert "trainyard: job local-1 GONE (attempt.json was removed or changed)" in err


def test_in_a_terminal_it_still_sees_one_and_ctrl_c_reaches_it_once(folder: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ATTEMPT, str(folder)])
    until_logged(folder, "an error")
    os.write(terminal, b"\x03")
    shown = b""
    while select.select([terminal], [], [], 20)[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert b"a line True\r\n" in shown and b"\x1b7\x1b[24;1Hdrawn\x1b8" in shown and b"by Ctrl-C" in shown
    assert log_path(folder, 1).read_text().splitlines() == ["a line True", "an error", "by Ctrl-C"]


def test_a_second_attempt_at_a_running_run_is_refused_and_changes_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from local.submit import carry_out

    process = start(folder)
    until_logged(folder, "an error")
    before = (folder / "run.json").read_bytes()
    plan = make_plan(run_id="r", output=str(folder.parent), seed=7)
    with pytest.raises(ConfigError, match=r"^RUN=r: is running on this machine: .* make cancel TO=local RUN=r"):
        carry_out(plan, lambda _: pytest.fail("it has begun"))
    assert ((folder / "run.json").read_bytes(), capfd.readouterr().out) == (before, "")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75


def write_attempt(folder: Path, **changed: object) -> None:
    host = os.uname().nodename
    (folder / "attempt.json").write_text(json.dumps({**GOOD, "host": host, "code": 75, **changed}))


def test_what_is_to_be_typed_next_is_what_works(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def next_of(run: str) -> str:
        status({"RUN": run}, {}, tmp_path)
        return capfd.readouterr().out.splitlines()[-1]

    def refused(run: str) -> str:
        with pytest.raises(ConfigError) as caught:
            resume(SCHEDULER, {"RUN": run}, {}, tmp_path)
        return str(caught.value)

    write_attempt(folder)
    goes_on = "(goes on from its newest checkpoint)"
    assert next_of("r") == f"next   make resume TO=local RUN=r {goes_on}"
    write_attempt(folder, verb="docker-run")
    command = "the command that began it (make docker-run) with RUN=r"
    assert next_of("r") == f"next   {command} {goes_on}"
    assert refused("r") == f"run r was not begun by make run: {command} goes on with it"
    (folder / "attempt.json").unlink()
    said = "run r was not begun by make run: the command that began it with RUN=r goes on with it"
    assert refused("r") == said
    member = folder.with_name("s-0")
    member.mkdir()
    write_record(member, run_record(make_plan(run_id="s-0", sweep="s")))
    write_attempt(member)
    folder.with_name("s").mkdir()
    sweep = {"parallel": 1, "values": [{"SEED": "1"}], "wandb": None}
    (folder.with_name("s") / "sweep.json").write_text(json.dumps(sweep))
    command = "the command that began it (make sweep) with RUN=s"
    assert next_of("s") == f"next   {command} (those that are unfinished)"
    assert refused("s") == f"sweep s was not begun by make run: {command} goes on with it"


def test_a_run_of_another_scheduler_says_whose_it_is(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from slurm.scheduler import SCHEDULER as SLURM

    environ = {"PATH": ""}
    write_attempt(folder)
    verbs.status(SLURM, {"RUN": "r", "OUTPUT": "runs"}, environ, tmp_path)
    there = "next   make status TO=local RUN=r OUTPUT=runs (its job is there)"
    assert capfd.readouterr().out.splitlines()[-1] == there
    verbs.status(SLURM, {"RUN": "r", "OUTPUT": "runs", "SITE": "none"}, environ, tmp_path)
    assert capfd.readouterr().out.splitlines()[-1] == there  # which takes no SITE
    verbs.list_runs(SLURM, {}, environ, tmp_path)
    assert capfd.readouterr().out.splitlines()[1].split() == ["r", "TO=local", "-", "-", "-", "no"]
    with pytest.raises(ConfigError, match=r"^run r was started without Slurm: make cancel TO=local RUN=r$"):
        verbs.cancel(SLURM, {"RUN": "r"}, environ, tmp_path)
    for member in (folder.with_name("s-0"), folder.with_name("s-1")):
        member.mkdir()
        write_record(member, run_record(make_plan(run_id=member.name, sweep="s")))
        write_attempt(member)
    folder.with_name("s").mkdir()
    sweep = {"parallel": 1, "values": [{"SEED": "1"}, {"SEED": "2"}], "wandb": None}
    (folder.with_name("s") / "sweep.json").write_text(json.dumps(sweep))
    with pytest.raises(ConfigError, match=r"^sweep s was started without Slurm: make cancel TO=local RUN=s$"):
        verbs.cancel(SLURM, {"RUN": "s"}, environ, tmp_path)
    with pytest.raises(ConfigError, match=r"^run r was started without Slurm: make resume TO=local RUN=r$"):
        resume(SLURM, {"RUN": "r"}, environ, tmp_path)
    (folder / "attempt.json").unlink()
    write_record(folder, {**run_record(make_plan(run_id="r")), "job_ids": ["17"]})
    status({"RUN": "r"}, {}, tmp_path)
    assert capfd.readouterr().out.splitlines()[-1] == "next   make status TO=slurm RUN=r (its job is there)"
    for verb, name in ((cancel, "cancel"), (logs, "logs")):
        with pytest.raises(ConfigError, match=rf"^run r was begun by Slurm: make {name} RUN=r$"):
            verb({"RUN": "r"}, {}, tmp_path)


def test_an_unknown_verb_is_told_all_the_others() -> None:
    done = subprocess.run([sys.executable, "-m", "local", "statu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 78
    assert done.stderr.startswith("trainyard: unknown verb 'statu', did you mean status? known are plan, ")
    assert {"status", "logs", "list", "cancel", "resume"} <= {*done.stderr.strip().split(", ")}


@pytest.mark.parametrize("verb", ["plan", "render"])
def test_a_settings_file_that_contradicts_the_plan_is_no_plan(verb: str, records: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("micro_batch_size: 3\n")
    words = ["--device", "cpu", "--data", str(records), "--config-file", str(tmp_path / "train.yaml")]
    words += ["--max-length", "512", "--model", "HuggingFaceTB/SmolVLM-256M-Instruct"]
    done = subprocess.run([sys.executable, "-m", "local", verb, *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (78, "")
    assert "train.yaml says micro_batch_size: 3" in done.stderr


def test_an_unfinished_member_of_a_sweep_goes_on_as_it_was_planned(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was measured since it was begun, or is measured no longer."""
    from launcher.grid import write_sweep

    monkeypatch.delenv("TRAINYARD_GIVEN", raising=False)
    words = ["--device", "cpu", "--data", str(records), "--output", str(tmp_path / "runs"), "--run", "s"]
    words += ["--max-length", "512", "--model", "HuggingFaceTB/SmolVLM-256M-Instruct", "--grid", "SEED=1,2"]
    batch = prepare_batch(words)
    sweep = batch.sweep
    assert sweep
    sweep.folder.mkdir(parents=True)
    write_sweep(sweep)
    measured = {"measured_with": sweep.plans[0].chosen.label, "measured_batch": 2, "measured_peak_gib": 3.0}
    begun = choose(sweep.plans[0].spec.but(**measured))
    sweep.folder.with_name("s-0").mkdir()
    write_record(sweep.folder.with_name("s-0"), run_record(begun))
    assert prepare_batch(words).plans == (begun, sweep.plans[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--partition", "x"), "PARTITION=x: is for TO=slurm only, leave it out"),
        (("plan", "--site", "none"), "SITE=none: is for TO=slurm or k8s only, leave it out"),
        (("render", "--queue", "x"), "QUEUE=x: is for TO=k8s only, leave it out"),
        (("run", "--runtime", "none"), "RUNTIME=none: is for TO=slurm only, leave it out"),
        (("docker-run", "--size", "1Gi"), "SIZE=1Gi: is for TO=k8s only, leave it out"),
        (("run", "--image", "x"), "IMAGE=x: on this machine only docker-run takes it, leave it out"),
        (("plan", "--binds", "/x"), "BINDS=/x: on this machine only docker-run takes it, leave it out"),
        (("sweep", "--format", "json"), "FORMAT=json: only plan has formats, leave it out for sweep"),
    ],
)
def test_what_says_nothing_to_this_machine_is_refused(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from local.__main__ import main

    monkeypatch.delenv("TRAINYARD_GIVEN", raising=False)
    monkeypatch.setattr("shutil.which", lambda name, *_, **__: f"/usr/bin/{name}")
    assert main(words) == 78
    assert capsys.readouterr().err == f"trainyard: {said}\n"


def test_memory_of_which_nothing_is_said_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINYARD_GIVEN", raising=False)
    everything = given_here([])["MEM"]
    assert given_here(["--mem", "none"])["MEM"] == everything
    assert given_here(["--mem", "1"])["MEM"] == "1"
    with pytest.raises(ConfigError, match=rf"^MEM=65536: this machine has {everything} GiB: leave it out"):
        given_here(["--mem", "65536"])


SUPERVISE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
print("begun", *sys.argv[1:4], os.environ.get("TRAINYARD_TIME_LIMIT_S", "without limit"), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_resume_goes_on_with_a_stopped_run_from_its_record(checkout: Path, records: Path) -> None:
    (checkout / "trainer" / "supervise.py").write_text(SUPERVISE)

    def local(*words: str) -> subprocess.Popen[str]:
        environ = {"PATH": os.environ["PATH"], "HOME": str(checkout)}
        return subprocess.Popen(
            [sys.executable, "-m", "local", *words], cwd=checkout, env=environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    folder = checkout / "runs" / "r"
    quantity = ("--device", "cpu", "--model", "HuggingFaceTB/SmolVLM-256M-Instruct", "--max-length", "256")
    first = local("run", "--run", "r", "--data", str(records), *quantity)
    until_logged(folder, "begun -- accelerate launch without limit")
    _, refused = local("resume", "--run", "r").communicate(timeout=60)
    assert "RUN=r: is running on this machine" in refused
    assert local("cancel", "--run", "r").wait(60) == 0
    assert first.wait(60) == 75
    before = (folder / "run.json").read_text()
    second = local("resume", "--run", "r", "--time", "2h")
    until_logged(folder, "begun -- accelerate launch 7200", number=2)
    assert local("cancel", "--run", "r").wait(60) == 0
    assert second.wait(60) == 75
    changed = {**json.loads(before)["spec"], "time_limit_min": 120}
    assert json.loads((folder / "run.json").read_text())["spec"] == changed


def test_a_run_is_trained_by_the_environment_that_trains_and_makes_it_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What launches has no torch."""
    from importlib import util

    from launcher.scheduler import Batch
    from local.submit import _training_python

    batch = Batch(plans=(make_plan(device="cpu", gpus=0),))
    assert _training_python(batch, {}, tmp_path) == sys.executable
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    environ = {"PATH": os.environ["PATH"]}
    (tmp_path / "make-env.sh").write_text('echo ".venv/$1/$TRAINYARD_DEVICE/python"\n')
    assert _training_python(batch, environ, tmp_path) == f"{tmp_path}/.venv/train/cpu/python"
    (tmp_path / "make-env.sh").write_text("exit 78\n")
    with pytest.raises(
        ConfigError, match=r"^the job's environment could not be made: make env DEVICE=cpu tries again$"
    ):
        _training_python(batch, environ, tmp_path)
