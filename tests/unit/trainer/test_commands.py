"""What is printed to be copied runs as it stands, in a shell, from where it is printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import commands
from trainer.commands import CHECKOUT, command, command_from_anywhere, python, training_command


def run(line: str, folder: Path, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path}
    return subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_command_names_the_python_that_has_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.chdir(CHECKOUT)
    here = command("trainer", "validate", "--help", "it's")
    assert here.endswith(""" -m trainer validate --help 'it'"'"'s'""")
    done = run(here, CHECKOUT)
    assert (done.returncode, done.stdout[:28]) == (0, "usage: python -m trainer val"), done.stderr
    monkeypatch.chdir(tmp_path)
    assert run(command("trainer.commands"), CHECKOUT).returncode == 0
    assert run(command_from_anywhere("trainer", "--help"), tmp_path).stdout.startswith("usage: python -m trainer ")
    # In an environment that is switched on, plain `python` is the one; another's is not.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.defpath}")
    assert python() == "python"
    elsewhere = tmp_path / "bin"
    elsewhere.mkdir()
    (elsewhere / "python").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", f"{elsewhere}:{os.defpath}")
    assert python() == sys.executable


def test_beside_an_installed_trainyard_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "CHECKOUT", tmp_path)
    assert command_from_anywhere("trainer", "report", "runs/x") == command("trainer", "report", "runs/x")


def test_the_launch_side_names_the_environment_for_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert training_command("trainer", "report", "x") == command("trainer", "report", "x")
    monkeypatch.setattr(commands, "find_spec", lambda _: None)
    monkeypatch.setattr(commands, "CHECKOUT", tmp_path)
    assert training_command("trainer", "report", "x") == command("trainer", "report", "x")
    (tmp_path / ".venv/cpu/bin").mkdir(parents=True)
    (tmp_path / ".venv/cpu/bin/python").touch()
    assert training_command("trainer", "report", "a b") == ".venv/cpu/bin/python -m trainer report 'a b'"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("tensorboard.main", "--version"), ("wandb", "sync", "--help")])
def test_curves_are_shown_and_uploaded_by_what_is_printed(words: tuple[str, ...]) -> None:
    assert not shutil.which(words[0], path=os.defpath), "else this shows nothing"
    done = run(command(*words), CHECKOUT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "lacking"),
    [("report --help", "jinja2"), ("setup-wandb --help", "PIL"), ("layers --model google/gemma-3-4b-it", "torch")],
)
def test_a_python_without_the_libraries_says_which_one_has_them(words: str, lacking: str) -> None:
    verb = words.split()[0]
    machine = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    bare = [machine, "-S", "-m", "trainer", *words.split()]
    done = subprocess.run(bare, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    said, _, advice = done.stderr.strip().partition(" does not have: ")
    assert (done.returncode, said) == (78, f"trainyard: {verb} needs {lacking}, which this Python ({machine})")
    ready = [path for path in (".venv/cuda/bin/python", ".venv/cpu/bin/python") if (CHECKOUT / path).is_file()]
    expected = f"{ready[0]} -m trainer {words}" if ready else "make env makes an environment that has it"
    assert advice == expected
    if ready and verb == "report":
        assert run(advice, CHECKOUT).stdout.startswith("usage: python -m trainer report ")
