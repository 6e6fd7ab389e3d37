"""What the verbs tell a person to type next is taken as it was printed: each command of each verb, for runs in every
state that a run of this machine can be in."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from finished_run import write_run
from plans import make_plan

import local.__main__
import slurm.__main__
import trainer.__main__
from launcher import command
from launcher.records import run_record, write_record
from launcher.scheduler import Batch
from local.machine import attempt
from local.scheduler import SCHEDULER as LOCAL
from local.submit import submit
from planner.request.variables import GIVEN_ENV, PREFIX
from slurm.scheduler import SCHEDULER as SLURM

COMMAND = re.compile(r"make ([a-z-]+)((?: [A-Z_]+=[^\s();,]+)*)|\S*python -m trainer ([^()\n]+)")
ATTEMPT = {"number": 1, "pid": 4_000_000, "started": "7", "host": socket.gethostname(), "began": 1.7e9, "verb": "run"}
# What stands in attempt.json, beside ATTEMPT; None: there is none.
STATES: Mapping[str, Mapping[str, object] | None] = {
    "finished": {"code": 0},
    "stopped": {"code": 75},
    "failed": {"code": 1},
    "refused": {"code": 78},
    "killed": {"code": None},
    "in a container": {"code": 75, "verb": "docker-run"},
    "not begun here": None,
    "begun by slurm": None,
}
VERBS = ("status", "list", "logs", "cancel", "resume")


@pytest.fixture
def project(tmp_path: Path, records: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs lie. No training is begun: what would be started is accepted, and that is all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("local.submit.supervised", lambda *_: lambda plan: 0)
    monkeypatch.setattr("local.machine.docker.attempts", lambda *_: lambda plan: 0)
    monkeypatch.setattr("local.submit.attempt.carry_out", lambda folder, verb, act: act())
    return tmp_path


def make_state(project: Path, records: Path, state: str) -> None:
    folder = project / "runs" / "r"
    folder.mkdir(parents=True)
    # As target() completes a request of this machine, so that resume finds what it planned.
    plan = make_plan(
        run_id="r", data=str(records), device="cpu", gpus=0, max_length=264, effective_batch_size=1,
        project_dir=str(project), name="r",
    )  # fmt: skip
    record = run_record(plan)
    write_record(folder, {**record, "job_ids": ["7"]} if state == "begun by slurm" else record)
    if (said := STATES[state]) is not None:
        (folder / attempt.ATTEMPT_NAME).write_text(json.dumps({**ATTEMPT, **said}))
        (folder / "logs").mkdir()
        (folder / "logs" / "local-1.log").write_text("a line\n")
    if state == "finished":
        write_run(folder)


def call(project: Path, words: Sequence[str]) -> int:
    """`make VERB NAME=value ...`, by the rooms' own command lines."""
    verb, *given = words
    pairs = dict(word.split("=", 1) for word in given)
    room = {"local": (LOCAL, local.__main__.OWN), "slurm": (SLURM, slurm.__main__.OWN)}[pairs.pop("TO", "slurm")]
    if verb in ("run", "docker-run"):
        room = (LOCAL, local.__main__.OWN)
    environ = {GIVEN_ENV: " ".join(pairs), **{PREFIX + name: text for name, text in pairs.items()}, "PATH": "/none"}
    return command.main(room[0], [verb], environ, project, room[1])


@pytest.mark.parametrize("state", STATES)
def test_what_is_said_to_type_next_is_taken(
    state: str, project: Path, records: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)
    make_state(project, records, state)
    said = []
    for verb in VERBS[:4]:
        call(project, [verb, "TO=local", *(["RUN=r"] if verb != "list" else [])])
        shown = capsys.readouterr()
        said.append(shown.out + shown.err)
    typed = sorted({found.group() for text in said for found in COMMAND.finditer(text)})
    assert typed or state == "finished", said
    for line in typed:
        words = shlex.split(line.partition(" (")[0])
        if words[1:] in (["run"], ["docker-run"], ["submit"], ["sweep"]):
            continue  # the name of a command whose words the person has
        if words[0] != "make":
            assert trainer.__main__.main(words[3:]) == 0, line
            continue
        code = call(project, words[1:])
        shown = capsys.readouterr()
        told = shown.out + shown.err
        # Slurm is not on this PATH: that is the only thing that may be wrong.
        assert code == 0 or "squeue" in told, (line, told)


@pytest.mark.parametrize(
    ("output", "verb", "advice"),
    [
        ("runs", "run", "make resume TO=local RUN=r"),
        ("my runs", "run", "make resume TO=local RUN=r 'OUTPUT=my runs'"),
        ("runs", "docker-run", "the same command with RUN=r (or --run r)"),
    ],
)
def test_a_stopped_run_ends_with_the_command_that_goes_on(
    output: str, verb: str, advice: str, project: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(
        run_id="r", data=str(records), device="cpu", gpus=0, max_length=264, project_dir=str(project), output=output
    )
    assert submit(Batch(plans=(plan,)), lambda plan: 75, verb) == 75
    assert capsys.readouterr().out.splitlines()[-1] == f"to go on: {advice}"


@pytest.mark.parametrize(
    ("code", "said"), [(0, ""), (1, "what went wrong stands above; what there is lies in {project}/runs/r\n"), (78, "")]
)
def test_only_a_failed_run_ends_with_where_what_there_is_lies(
    code: int, said: str, project: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(
        run_id="r", data=str(records), device="cpu", gpus=0, max_length=264, project_dir=str(project)
    )  # fmt: skip
    assert submit(Batch(plans=(plan,)), lambda plan: code, "run") == code
    assert capsys.readouterr().out.partition("\nrun    r\n\n")[2] == said.format(project=project)
