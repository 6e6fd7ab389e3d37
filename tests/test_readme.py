"""The README shows what the commands really print. `make golden` rewrites it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
