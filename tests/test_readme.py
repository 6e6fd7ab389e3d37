"""The README shows what the commands really print. `make golden` rewrites it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import tomllib

import local.__main__
import trainer.__main__
from local.batch_size import own_words
from planner.request.variables import BY_NAME, parse_given, read_given
from trainer.config import TrainConfig
from trainer.flags import parse
from trainer.settings import resolve_settings
from trainer.tools import infer, merge, setup_wandb

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"<!-- (output|error) of: (.*?) -->\n```\n(\$ [^\n]*)\n(.*?)```\n", re.S)
PART = re.compile(r"<!-- part of: (.*?) -->\n```\n(\$ [^\n]*)\n(.*?)```\n", re.S)
ELSEWHERE = "/home/you/trainyard"


def printed(kind: str, words: str) -> str:
    backend = "k8s" if " --to k8s" in words else "slurm"
    done = subprocess.run(
        [sys.executable, "-m", backend, *shlex.split(words.replace(" --to k8s", ""))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (78 if kind == "error" else 0)
    text = done.stderr if kind == "error" else done.stdout
    return text.replace(str(ROOT), ELSEWHERE)


def blocks() -> list[tuple[str, str, str, str]]:
    return BLOCK.findall(README.read_text(encoding="utf-8"))


def test_there_are_blocks_to_check() -> None:
    assert [words.split()[0] for _, words, _, _ in blocks()] == ["plan", "plan", "render", "plan"]


@pytest.mark.parametrize(("kind", "words", "command", "shown"), blocks())
def test_the_readme_shows_what_is_printed(kind: str, words: str, command: str, shown: str) -> None:
    text = printed(kind, words)
    if os.environ.get("TRAINYARD_REWRITE_GOLDEN"):
        readme = README.read_text(encoding="utf-8")
        README.write_text(readme.replace(f"{command}\n{shown}```", f"{command}\n{text}```"), encoding="utf-8")
        return
    assert shown == text


def parts() -> list[tuple[str, str, str]]:
    return PART.findall(README.read_text(encoding="utf-8"))


def test_what_the_readme_shows_a_part_of_is_printed() -> None:
    """A line of three dots stands for what is left out."""
    for words, _, shown in parts():
        text = printed("output", words)
        assert [chunk for chunk in re.split(r"^\.\.\.\n", shown, flags=re.M) if chunk not in text] == []
    assert parts()


def test_the_command_shown_is_the_one_that_was_run() -> None:
    for words, command in [(block[1], block[2]) for block in blocks()] + [part[:2] for part in parts()]:
        verb, *flags = shlex.split(words)
        pairs = zip(flags[::2], flags[1::2], strict=True)
        asked = [f"{flag.removeprefix('--').upper().replace('-', '_')}={value}" for flag, value in pairs]
        shown = shlex.split(command.removeprefix("$ make "))
        assert (shown[0], sorted(shown[1:])) == (verb, sorted(asked))


def test_every_file_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:`|\$ |^)make ([a-z-]+)", README.read_text(encoding="utf-8"), re.M))
    assert named - targets == set()


DOCUMENTS = ("README.md", "CHANGELOG.md", "docker/README.md", "benchmarks/README.md")
COMMAND = re.compile(r"(?:^\$ |^|`)(make|python -m trainer|python -m local)(?: (.*?))?(?:`|$)", re.M)
PLANNED = ("run", "ready", "docker-run", "sweep", "sweep-ready", "find-batch-size")
SETTINGS = ("config", "validate", "profile-memory")
VERBS = {"python -m trainer": trainer.__main__.VERBS, "python -m local": local.__main__.VERBS}
OPTIONS = {"infer": infer.Question, "merge": merge.Request, "setup-wandb": setup_wandb.Request}


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Every command of make and the trainer that a document names, up to where the shell or three dots take over."""
    found = set()
    for name in DOCUMENTS:
        text = re.sub(r" \\\n +", " ", (ROOT / name).read_text(encoding="utf-8"))
        for program, rest in COMMAND.findall(text):
            typed = re.split(r" (?:\.\.\.|[|>]|&&)", rest)[0]
            found.add((program, tuple(word for word in shlex.split(typed, comments=True) if not word.endswith("..."))))
    return sorted(found)


@pytest.mark.parametrize(("program", "typed"), commands(), ids=lambda part: " ".join(part) if part else "")
def test_a_command_that_is_shown_is_understood(program: str, typed: tuple[str, ...]) -> None:
    if program == "make":
        given = dict(word.split("=", 1) for word in typed if "=" in word)
        own = re.search(r"^override OWN := (.*)$", (ROOT / "Makefile").read_text(), re.M)
        assert own and set(given) <= {*BY_NAME, *own[1].split()}
        parse_given({name: value for name, value in given.items() if value and name in BY_NAME})
        return
    verb, *words = typed or ("--help",)
    assert verb in (*VERBS[program], "--help")
    if verb in PLANNED:
        parse_given(read_given(own_words(words)[0], {}))
    elif verb in SETTINGS and words != ["--help"]:
        resolve_settings(words[1:] if verb == "validate" else words, {})
    elif verb in OPTIONS and words:
        parse(words, OPTIONS[verb], "", words=[])


def test_commands_are_found() -> None:
    assert len(commands()) > 40


def test_an_error_that_is_shown_is_provoked_by_a_test() -> None:
    """In these words, but for the numbers and the node."""
    shown = re.findall(r"<!-- provoked in: (.*?) -->\n```\ntrainyard: (?:n\d: )?(.*)\n```\n", README.read_text("utf-8"))
    assert len(shown) == 3
    for test, line in shown:
        assert re.sub(r"\d+", "0", line) in re.sub(r"\d+", "0", (ROOT / test).read_text(encoding="utf-8"))


def test_the_readme_counts_settings_and_pins_as_they_are() -> None:
    said = re.search(r"(\d+) libraries as pinned\nsettings +pass  (\d+) settings", README.read_text(encoding="utf-8"))
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    assert said and (int(said[1]), int(said[2])) == (len(pinned), len(fields(TrainConfig)))
