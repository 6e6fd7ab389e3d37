"""The pictures in docs are small, shown by a page and name no machine; the demo opens its report for a person."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from paths import ROOT

from examples.demo.pictures import PROJECT_DIR, SHOTS, terminal_svg
from examples.demo.walkthrough import main
from trainer.verbs import exit_code

PICTURES = ROOT / "docs" / "pictures"
OPENED = (
    "from pathlib import Path; from examples.demo.walkthrough import _opened; print(_opened(Path('/x/report.html')))"
)


def test_the_pictures_that_are_drawn_are_those_that_pages_show() -> None:
    drawn = {"terminal.svg", *(name for name, *_ in SHOTS)}
    assert {path.name for path in PICTURES.iterdir()} == drawn
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert [name for name in drawn if f"pictures/{name}" not in pages] == []
    assert [path.name for path in PICTURES.iterdir() if path.stat().st_size > 150_000] == []


def test_a_terminal_is_drawn_as_text() -> None:
    svg = terminal_svg([f"a <b> in {PROJECT_DIR}/demo", "", "  ━━──"])
    texts = [node.text for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["a <b> in /home/you/trainyard/demo", "  ━━──"]


@pytest.mark.parametrize(
    ("terminal", "environ", "opens"),
    [
        (True, {"DISPLAY": ":9"}, True),
        (True, {"WAYLAND_DISPLAY": "wayland-0"}, True),
        (False, {"DISPLAY": ":9"}, False),
        (True, {}, False),
        (True, {"DISPLAY": ":9", "SSH_CONNECTION": "1.2.3.4 5 6.7.8.9 22"}, False),
        (True, {"DISPLAY": ":9", "BROWSER": "none"}, False),
    ],
)
def test_the_report_is_opened_where_a_person_sits_before_a_desktop(
    tmp_path: Path, terminal: bool, environ: dict[str, str], opens: bool
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/asked\n')
    browser.chmod(0o755)
    master, slave = os.openpty()
    stream = slave if terminal else subprocess.PIPE
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.Popen(
        [sys.executable, "-c", OPENED],
        cwd=ROOT,
        stdin=stream,
        stdout=stream,
        env={"BROWSER": f"{browser} %s", **kept, **environ},
    )
    assert done.wait(60) == 0
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else None) == ("file:///x/report.html\n" if opens else None)
    os.close(slave)
    os.close(master)


def test_a_python_without_torch_is_told_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "runs" / "demo"
    kept.mkdir(parents=True)
    monkeypatch.setattr("examples.demo.walkthrough.FOLDER", tmp_path)
    monkeypatch.setattr("examples.demo.walkthrough.find_spec", lambda _: None)
    assert exit_code(main, []) == 78
    told = f"trainyard: the demo needs torch, which this Python ({sys.executable}) does not have: type make demo\n"
    assert (capsys.readouterr().err, kept.is_dir()) == (told, True)
