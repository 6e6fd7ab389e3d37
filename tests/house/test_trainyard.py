"""The program beside the Makefile: the same verbs with flags, and their own exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import trainer.__main__
from planner.request.variables import VARIABLES

Done = subprocess.CompletedProcess[str]
pytestmark = pytest.mark.skipif(not shutil.which("readlink"), reason="readlink is not installed")
NO_DRIVER = "this machine has no NVIDIA driver"


def trainyard(checkout: Path, *words: str, program: str = "./trainyard", **environ: str) -> Done:
    return subprocess.run(
        [program, *words],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "HOME": str(checkout), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_verb_prints_what_make_prints(checkout: Path) -> None:
    made = subprocess.run(["make", "render", "GPUS=2"], cwd=checkout, capture_output=True, text=True, check=True)
    done = trainyard(checkout, "render", "--gpus", "2", TRAINYARD_GIVEN="NODES", TRAINYARD_NODES="3")
    assert (done.returncode, done.stdout, done.stderr) == (0, made.stdout, "")


@pytest.mark.parametrize("words", [["--to", "k8s", "render"], ["render", "--to=k8s"], ["render", "--to", "k8s"]])
def test_to_names_the_scheduler_wherever_it_stands(words: list[str], checkout: Path) -> None:
    done = trainyard(checkout, *words, "--image", "r.example.org/t:1", "--run", "two")
    assert done.returncode == 0
    assert "kind: Job\n" in done.stdout


@pytest.mark.parametrize("data", ["to:1.0", ",--to:1", "to,x"])
def test_a_value_that_looks_like_to_is_a_value(data: str, checkout: Path) -> None:
    """It arrives as DATA, of which the plan says that it lacks records."""
    done = trainyard(checkout, "plan", "--to", "slurm", "--data", data)
    assert done.returncode == 0 and done.stdout.startswith("job ")
    assert done.stderr.startswith("trainyard: DATA=")
    assert done.stderr.endswith(" (the plan does without records, a run does not)\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "--to", "nomad"], "trainyard: --to nomad: takes one of slurm k8s local\n"),
        (["plan", "--to", "to:slurm"], "trainyard: --to to:slurm: takes one of slurm k8s local\n"),
        (["run", "--to", "k8s"], "trainyard: --to k8s: run is for this machine, leave --to out or say submit\n"),
        (["plan", "--to"], "trainyard: --to needs a value: one of slurm k8s local\n"),
        (["plan", "--name", "a b; touch ran"], "trainyard: NAME='a b; touch ran': takes at most 40"),
    ],
)
def test_a_wrong_request_ends_with_78(words: list[str], said: str, checkout: Path) -> None:
    done = trainyard(checkout, *words)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith(said)
    assert not (checkout / "ran").exists()


@pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--gpus", "1"], f"GPUS=1: {NO_DRIVER}: leave it out, or submit"),
        (["submit", "--to", "local", "--vram", "24"], f"VRAM=24: {NO_DRIVER}: leave it out, or submit"),
        (["sweep", "--to", "local", "--device", "cuda", "--gpus", "2", "--grid", "SEED=1,2"],
         f"DEVICE=cuda: {NO_DRIVER}: say DEVICE=cpu, or submit"),
    ],
)  # fmt: skip
def test_what_this_machine_cannot_run_is_refused_once_and_before_an_environment_is_made(
    words: list[str], said: str, checkout: Path
) -> None:
    shutil.rmtree(checkout / ".venv" / "cpu")
    done = trainyard(checkout, *words)
    assert (done.returncode, done.stderr) == (78, f"trainyard: {said}\n")
    assert not (checkout / ".venv" / "cpu").exists()


@pytest.mark.parametrize("verb", trainer.__main__.VERBS)
def test_every_verb_of_the_trainer_is_one_of_the_program(verb: str, checkout: Path) -> None:
    done = trainyard(checkout, verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m trainer ") and f" {verb}" in done.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert"], "the folder to make: ./trainyard convert owner/name my-data"),
        (["infer", "--run", "runs/x"], "records (--records), got neither: ./trainyard infer --run runs/x picture.png"),
        (["features"], "lacking --model, --data: for example --model google/gemma-3-4b-it --data records.jsonl"),
        (["validate"], "validate what? environment, model, data, pipeline, all: ./trainyard validate all"),
        (["validate", "data", "--data", "/no/where", "--model", "m"],
         "--data=/no/where: does not exist: give a file of JSON records, or a folder with train.jsonl"),
        (["plan", "GPUS=0"], "GPUS=0: takes a whole number from 1 to 64; for a run without GPUs leave it out and say "
                             "DEVICE=cpu"),
        (["plan", "--to", "local", "GPU=2"], "unknown 'GPU', did you mean GPUS?"),
    ],
)  # fmt: skip
def test_a_person_who_typed_it_reads_its_own_words(words: list[str], said: str, checkout: Path) -> None:
    done = trainyard(checkout, *words)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("trainyard: ") and said in done.stderr.splitlines()[0]


def test_the_words_of_advice_are_taken_as_they_stand(checkout: Path) -> None:
    """Advice names variables as make does: GPUS=2, TO=k8s."""
    flags = trainyard(checkout, "render", "--to", "k8s", "--gpus", "2", "--image", "r.example.org/t:1", "--run", "two")
    words = trainyard(checkout, "render", "TO=k8s", "GPUS=2", "IMAGE=r.example.org/t:1", "RUN=two")
    assert (words.returncode, words.stdout) == (flags.returncode, flags.stdout) == (0, flags.stdout)


def test_it_is_found_through_a_link(checkout: Path, tmp_path: Path) -> None:
    link = tmp_path / "trainyard"
    link.symlink_to(checkout / "trainyard")
    done = trainyard(tmp_path, "plan", "--gpus", "2", program=str(link))
    assert (done.returncode, done.stdout[:4]) == (0, "job ")


def test_completion_offers_every_flag_and_the_verbs(checkout: Path) -> None:
    done = trainyard(checkout, "completion")
    (words,) = re.findall(r'^complete -o default -W "(.*)" trainyard \./trainyard$', done.stdout, re.M)
    verbs = {word for word in words.split() if not word.startswith("--")}
    assert {word for word in words.split() if word.startswith("--")} == {*(v.flag for v in VARIABLES), "--to"}
    assert {"plan", "render", "submit", "status", "logs", "cancel", "resume", "list", "run", "claim"} <= verbs
    assert "flag" not in verbs


def test_help_and_an_unknown_verb_list_the_verbs_of_every_program(checkout: Path) -> None:
    done = trainyard(checkout, "--help")
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", done.stdout, re.M)
    some = {"plan", "submit", "claim", "run", "hardware", "validate", "infer", "merge", "report", "convert"}
    assert (done.returncode, done.stderr) == (0, "") and some <= set(listed) and len(listed) == len(set(listed))
    assert "--to slurm|k8s|local" in done.stdout
    done = trainyard(checkout, "mrege")
    said = "trainyard: unknown verb 'mrege', did you mean merge? known are plan, "
    assert (done.returncode, done.stdout) == (78, "") and done.stderr.startswith(said)
