"""A request is one process that reads each of its files once, and asks Slurm once what it has."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from programs import make, make_program

HOOK = """
import os, sys

log = os.open(os.environ["READS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def hook(event, args):
    if event == "open" and isinstance(args[0], str) and (args[2] & os.O_ACCMODE) == os.O_RDONLY:
        os.write(log, f"{os.path.abspath(args[0])}\\n".encode())
    elif event == "subprocess.Popen":
        os.write(log, f"run {args[1][0]}\\n".encode())

os.write(log, b"a python\\n")
sys.addaudithook(hook)
"""
PROGRAMS = {
    "sbatch": "echo 4711",
    "sinfo": "echo 'low*|1-00:00:00|2|64|256000|gpu:a100:8|(null)|NO'",
    "scontrol": "exit 0",
    "squeue": "exit 0",
}


def requested(checkout: Path, *words: str) -> Counter[str]:
    """How often make's processes read what is no code of ours, and which programs they ran."""
    (checkout / "hook").mkdir()
    (checkout / "hook" / "sitecustomize.py").write_text(HOOK)
    (checkout / "bin").mkdir()
    for name, text in PROGRAMS.items():
        make_program(str(checkout / "bin"), name, text)
    (checkout / "train.yaml").write_text("max_steps: 7\nlogging_steps: 3\n")
    (checkout / ".env").write_text("WANDB_PROJECT=tries\n")
    for scheduler in ("slurm", "k8s"):
        (checkout / scheduler / "site.yaml").write_text("time: 1h\n")
    (checkout / "data").mkdir()
    (checkout / "data" / "grid.png").write_bytes(b"not opened")
    for index, name in enumerate(("train", "eval")):
        entry = {"image": "grid.png", "context": "", "question": "Which?", "output": "a", "session_id": str(index)}
        (checkout / "data" / f"{name}.jsonl").write_text(2 * f"{json.dumps(entry)}\n")
    log = checkout / "reads.txt"
    environ = {
        "READS": str(log),
        "PYTHONPATH": str(checkout / "hook"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
    }
    done = make(checkout, *words, "DEVICE=cpu", "CONFIG_FILE=train.yaml", **environ)
    assert done.returncode == 0, done.stderr
    seen = Counter(log.read_text().splitlines())
    ours = {line: times for line, times in seen.items() if not line.startswith("/")}
    root = f"{checkout}/"
    files = {line.removeprefix(root): times for line, times in seen.items() if line.startswith(root)}
    code = re.compile(r"\.pyc?$|^\.venv/|^hook/|__pycache__|^runs/")
    return Counter({**ours, **{name: times for name, times in files.items() if not code.search(name)}})


SHAPE = {f"trainer/architecture/shipped/{name}.json": 1 for name in ("index", "gemma-3-4b-it")}
OF_A_PLAN = {"a python": 1, **SHAPE, ".env": 1, "train.yaml": 1}
PLAN = {**OF_A_PLAN, "slurm/site.yaml": 1}
LOOKED = {**PLAN, "data/train.jsonl": 1, "data/eval.jsonl": 1, "run sinfo": 1, "run sbatch": 1}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("plan",), PLAN),
        (("render",), PLAN),
        (("render", "GRID=LORA=low,high SEED=1,2"), PLAN),
        (("check",), LOOKED),
        # git says which code a run was made with: commit, and whether it has changes.
        (("submit",), {**LOOKED, "run sh": 1, "run git": 1}),
        # scontrol says how many members an array may have.
        (("sweep", "GRID=LORA=low,high"), {**LOOKED, "run scontrol": 1, "run sh": 1, "run git": 2}),
        (("render", "TO=k8s", "IMAGE=r/i:1"), {**OF_A_PLAN, "k8s/site.yaml": 1}),
    ],
)
def test_a_request_is_one_process_that_reads_each_file_once(
    words: tuple[str, ...], wanted: dict[str, int], checkout: Path
) -> None:
    assert requested(checkout, *words) == wanted


def test_submit_makes_the_environment_that_is_missing(checkout: Path) -> None:
    """Here by a make-env.sh that only notes what it was asked for: nothing is submitted into what it did not make."""
    (checkout / ".venv" / "cpu" / ".made").unlink()
    script = checkout / "make-env.sh"
    script.write_text('#!/bin/sh\necho "$*" >>asked.txt\n[ "$1" = launch ] || touch .venv/cpu/.made\n')
    requested(checkout, "submit", "RUN=first")
    assert (checkout / "asked.txt").read_text().splitlines()[-1] == "cpu"
    assert (checkout / "runs" / "first" / "run.json").is_file()


def test_nothing_is_submitted_where_the_environment_cannot_be_made(checkout: Path, records: Path) -> None:
    (checkout / "bin").mkdir()
    for name, text in PROGRAMS.items():
        make_program(str(checkout / "bin"), name, text)
    (checkout / "make-env.sh").write_text("#!/bin/sh\n[ $1 = launch ] || { echo 'trainyard: no disk' >&2; exit 1; }\n")
    done = make(checkout, "submit", "DEVICE=cpu", f"DATA={records}", PATH=f"{checkout / 'bin'}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[:2] == [
        "trainyard: no disk",
        "trainyard: the job's environment could not be made: make env DEVICE=cpu tries again",
    ]
    assert not (checkout / "runs").exists()
