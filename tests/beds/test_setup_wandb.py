"""setup-wandb with the real client; the W&B service is a stand-in (tests/helpers/wandb_server.py)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from training import run_forked
from wandb_server import KEY, Service

from trainer.__main__ import main


def setup(folder: Path, *argv: str, **environ: str) -> tuple[int, dict[str, Any], str]:
    home = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "TMPDIR": str(folder), "WANDB_MODE": "online"}
    ended = run_forked(folder, main, ["setup-wandb", *argv, "--json"], environment={**home, **environ})
    report = json.loads(ended.output[ended.output.index("{\n") :])
    return ended.codes[0], {check["name"]: check for check in report["checks"]}, ended.output


@pytest.mark.slow
def test_a_test_run_reaches_the_service_and_the_key_is_not_said(tmp_path: Path, service: Service) -> None:
    code, found, output = setup(tmp_path, "--test-run", WANDB_BASE_URL=service.address, WANDB_API_KEY=KEY)
    assert code == 0, output
    assert found["server"]["found"] == (
        f"{service.address} takes the key; runs go to ada/trainyard, made by the first where it is new"
    )
    assert found["test run"]["found"].startswith(f"{service.address}/ada/trainyard/runs/")
    assert [row["test/value"] for row in service.seen()["history"]] == [0, 1, 2, 3, 4]
    assert KEY not in output


@pytest.mark.slow
def test_a_refused_key_is_78_and_what_to_do(tmp_path: Path, service: Service) -> None:
    service.answer_with(401)
    argv = {"WANDB_BASE_URL": service.address, "WANDB_API_KEY": KEY, "WANDB_ENTITY": "ada"}
    code, found, output = setup(tmp_path, "--test-run", **argv)
    assert (code, found["server"]["status"], list(found)) == (78, "fail", ["key", "server"])
    assert found["server"]["found"].endswith(": check WANDB_API_KEY and WANDB_BASE_URL; a run would be kept offline")
    assert KEY not in output


@pytest.mark.slow
def test_a_placeholder_is_no_key(tmp_path: Path, service: Service) -> None:
    """The client would refuse it, and a run with it would begin with that refusal."""
    argv = {"WANDB_BASE_URL": service.address, "WANDB_API_KEY": "your_key_here"}
    code, found, output = setup(tmp_path, "--test-run", **argv)
    assert (code, found["key"]["found"]) == (0, "not given: runs are kept offline"), output
    assert found["test run"]["found"].startswith("kept offline; to upload: ")
    assert "trainyard: WANDB_API_KEY holds a placeholder, which counts as not given\n" in output


@pytest.mark.slow
def test_without_a_key_the_test_run_is_kept_with_its_upload_command(tmp_path: Path) -> None:
    code, found, _ = setup(tmp_path, "--test-run", WANDB_API_KEY="", WANDB_BASE_URL="http://127.0.0.1:9")
    assert (code, found["key"]["status"]) == (0, "warn")
    said = re.fullmatch(r"kept offline; to upload: \S*python -m wandb sync (.*)", found["test run"]["found"])
    assert said and list(Path(said[1]).glob("run-*.wandb"))


def test_an_unknown_option_is_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup-wandb", "--test"]) == 78
    assert capsys.readouterr().err == ("trainyard: unknown '--test', did you mean test_run? known are test_run, json\n")
