"""A run's files that end anywhere, as a crash or a full disk leaves them: each verb takes or refuses them in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from finished_run import write_run
from plans import make_plan

from launcher import resuming, verbs
from launcher.records import ATTEMPT_NAME, run_record
from local.scheduler import SCHEDULER as LOCAL
from slurm.scheduler import SCHEDULER as SLURM
from trainer.files import METRICS_FILE, RECORD_NAME
from trainer.progress_file import PROGRESS_FILE, Progress, progress_text
from trainer.report.page import main as report
from trainer.sweep.trial import TRIAL_NAME
from trainer.verbs import exit_code

pytestmark = pytest.mark.slow
CUTS = 4
"""Of each file. With the length of the file it is each of its bytes."""


def write_all(run: Path) -> None:
    """A finished run of every scheduler's files."""
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "local-1.log").write_text("a\n")
    (run / "adapter").mkdir()
    (run / "adapter" / "trainyard.json").write_text(json.dumps({"context": "", "question": "?", "system": ""}))
    write_run(run)
    attempt = {"number": 1, "pid": 7, "started": "9", "host": "h", "began": 1.0, "code": 1, "verb": "run"}
    progress = Progress(phase="failed", written_at=1.0, step=3, of=9, said="why")
    for name, record in {
        RECORD_NAME: {**run_record(make_plan(run_id="r")), "job_ids": ["42"]}, ATTEMPT_NAME: attempt,
        PROGRESS_FILE: json.loads(progress_text(progress)),
        TRIAL_NAME: {"run_id": "x", "values": {"lora_r": 8}, "agent": "a"},
        "sweep.json": {"parallel": 4, "values": [{"LORA": "8"}], "wandb": None},
    }.items():  # fmt: skip
        (run / name).write_text(json.dumps(record))


FILES = (
    *(RECORD_NAME, METRICS_FILE, PROGRESS_FILE, ATTEMPT_NAME, TRIAL_NAME),
    *("sweep.json", "predictions.jsonl", "adapter/trainyard.json"),
)
REPORTED = (RECORD_NAME, METRICS_FILE, "predictions.jsonl", "adapter/trainyard.json")


def act(verb: Callable[..., object]) -> int:
    def acting(_: object) -> int:
        verb()
        return 0

    return exit_code(acting, [])


@pytest.mark.parametrize("name", FILES)
def test_each_verb_takes_a_file_that_was_cut_anywhere(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No error but those that the command line prints in one line; no verb changes the file."""
    run = tmp_path / "runs" / "r"
    write_all(run)
    whole = (run / name).read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // CUTS)):
        (run / name).write_bytes(whole[:size])
        for scheduler in (LOCAL, SLURM):
            for verb in (verbs.list_runs, verbs.status, verbs.logs, verbs.cancel):
                given = {} if verb is verbs.list_runs else {"RUN": "r"}
                act(partial(verb, scheduler, given, {}, tmp_path))
        act(partial(resuming.resume, SLURM, {"RUN": "r"}, {}, tmp_path))  # there is no sbatch on an empty PATH
        for folder in (run, run.parent) if name in REPORTED else ():
            act(partial(report, [str(folder)]))
        said = capsys.readouterr()
        assert all(line.startswith(("trainyard: ", "  ")) for line in said.err.splitlines()), said.err
        assert "BROKEN" in said.out or name != RECORD_NAME
        assert (run / name).read_bytes() == whole[:size]
