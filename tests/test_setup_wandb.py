"""setup-wandb with the real client. The W&B service is a stand-in: a local server that answers what the client asks."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training import run_forked

from trainer.__main__ import main

KEY = "local-" + "c" * 40


class Service:
    def __init__(self) -> None:
        self.status, self.asked, self.lines = 200, [], []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
                if self.path.endswith("/file_stream"):
                    service.lines += body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
                    return self.answer(200, {})
                service.asked.append(body.get("operationName") or body.get("query", ""))
                self.answer(
                    service.status, {"data": service.data(str(service.asked[-1]) + body.get("query", ""))}
                )

            def do_GET(self) -> None:
                self.answer(200, {})

            do_PUT = do_GET

            def answer(self, status: int, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def data(self, query: str) -> dict[str, Any]:
        if "upsertBucket" in query or "UpsertBucket" in query:
            project = {"name": "trainyard", "entity": {"name": "ada"}}
            bucket = {
                "id": "b",
                "name": "r1",
                "displayName": "setup-test",
                "project": project,
                "historyLineCount": 0,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query or "CreateRunFiles" in query:
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
        if "RunResumeStatus" in query:
            return {"model": {"bucket": None}}
        viewer = {
            "id": "v", "entity": "ada", "username": "ada", "name": "Ada", "email": "a@x", "admin": False, "flags": "{}",
            "deletedAt": None, "teams": {"edges": []}, "apiKeys": {"edges": []},
        }  # fmt: skip
        return {"viewer": viewer, "serverInfo": {"features": [], "cliVersionInfo": {}}}


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.server.shutdown()
    running.server.server_close()


def setup(folder: Path, *argv: str, **environ: str) -> tuple[int, dict[str, Any], str]:
    home = {
        "HOME": str(folder),
        "NETRC": str(folder / "netrc"),
        "TMPDIR": str(folder),
        "WANDB_MODE": "online",
    }
    ended = run_forked(folder, main, ["setup-wandb", *argv, "--json"], environment={**home, **environ})
    report = json.loads(ended.output[ended.output.index("{\n") :])
    return ended.codes[0], {check["name"]: check for check in report["checks"]}, ended.output


def test_a_test_run_reaches_the_service_and_the_key_is_not_said(tmp_path: Path, service: Service) -> None:
    code, found, output = setup(tmp_path, "--test-run", WANDB_BASE_URL=service.address, WANDB_API_KEY=KEY)
    assert code == 0, output
    assert found["server"]["found"] == f"{service.address} takes the key"
    assert found["project"]["found"] == "ada/trainyard, made by its first run where it is new"
    assert found["test run"]["found"].startswith(f"{service.address}/ada/trainyard/runs/")
    assert [json.loads(line)["test/value"] for line in service.lines] == [0, 1, 2, 3, 4]
    assert KEY not in output


def test_a_refused_key_is_78_and_what_to_do(tmp_path: Path, service: Service) -> None:
    service.status = 401
    code, found, output = setup(tmp_path, "--test-run", WANDB_BASE_URL=service.address, WANDB_API_KEY=KEY)
    assert (code, found["server"]["status"], list(found)) == (78, "fail", ["key", "server"])
    assert found["server"]["do"].startswith("check WANDB_API_KEY and WANDB_BASE_URL")
    assert KEY not in output


def test_without_a_key_the_test_run_is_kept_with_its_upload_command(tmp_path: Path) -> None:
    code, found, _ = setup(tmp_path, "--test-run", WANDB_API_KEY="", WANDB_BASE_URL="http://127.0.0.1:9")
    assert (code, found["key"]["status"]) == (0, "warn")
    said = re.fullmatch(r"kept offline; to upload: wandb sync (.*)", found["test run"]["found"])
    assert said and list(Path(said[1]).glob("run-*.wandb"))


def test_an_unknown_option_is_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup-wandb", "--test"]) == 78
    assert capsys.readouterr().err == (
        "trainyard: unknown '--test'; did you mean --test-run? known are --test-run, --json\n"
    )
