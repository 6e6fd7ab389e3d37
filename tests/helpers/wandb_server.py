"""A stand-in for the W&B service, which cannot be had here: what the real client asks, answered from memory.

A process of its own, so that it can be stopped (SIGSTOP), killed, or told to answer with an error. `seen()` is what
has arrived: history rows, configuration, summary, files.
"""

from __future__ import annotations

import base64
import http.server
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

KEY = "local-" + "c" * 40
VIEWER = {
    "id": "v", "entity": "ada", "username": "ada", "name": "Ada", "email": "a@x", "admin": False, "flags": "{}",
    "deletedAt": None, "teams": {"edges": []}, "apiKeys": {"edges": []},
}  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200
    seen: ClassVar[dict[str, Any]] = {"asked": [], "history": [], "summary": {}, "runs": [], "files": {}}
    address = ""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/sdk/"):  # the client's own telemetry
            return self.answer(self.status, {})
        body = json.loads(data or "{}")
        if self.path == "/control":
            Handler.status = body["status"]
            return self.answer(200, {})
        if self.status != 200:
            return self.answer(self.status, {"error": "told to"})
        if self.path.endswith("/file_stream"):
            files = body.get("files") or {}
            for name, part in files.items():
                if name == "wandb-history.jsonl":
                    self.seen["history"] += [json.loads(line) for line in part["content"]]
                if name == "wandb-summary.json":
                    self.seen["summary"] = json.loads(part["content"][-1])
            if body.get("complete"):
                self.seen["exitcode"] = body.get("exitcode")
            return self.answer(200, {})
        self.answer(200, {"data": self.data(body.get("query", ""), body.get("variables") or {})})

    def do_GET(self) -> None:
        self.answer(200, self.seen if self.path == "/seen" else {})

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.seen["files"][self.path.removeprefix("/put/")] = base64.b64encode(data).decode()
        self.answer(self.status, {})

    def data(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        self.seen["asked"].append(query.split("(")[0].split("{")[0].strip())
        if "upsertBucket" in query:
            self.seen["runs"].append({k: v for k, v in given.items() if v is not None})
            bucket = {
                "id": "b", "name": given.get("name") or "r1", "displayName": given.get("displayName") or "setup-test",
                "project": {"name": given.get("project"), "entity": {"name": "ada"}}, "historyLineCount": 0,
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": n, "uploadUrl": f"{self.address}/put/{n}"} for n in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in query:
            return {"model": {"bucket": None}}
        if "createArtifact(" in query:  # a table: committed already, so that nothing is uploaded
            artifact = {
                "id": "a",
                "digest": "d",
                "state": "COMMITTED",
                "artifactSequence": {"id": "s", "latestArtifact": None},
            }
            return {"createArtifact": {"artifact": artifact}}
        return {"project": None, "viewer": VIEWER, "serverInfo": {"features": [], "cliVersionInfo": {}}}

    def answer(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Service:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.address = self.process.stdout.readline().strip()
        self.environment = {
            "WANDB_MODE": "online", "WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY,
        }  # fmt: skip

    def answer_with(self, status: int) -> None:
        self._ask("/control", {"status": status})

    def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("/seen")
        return found

    def _ask(self, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(self.address + path, data, timeout=10) as reply:
            return json.loads(reply.read())

    def end(self) -> None:
        self.process.kill()  # a stopped process too
        self.process.wait()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.end()


def main() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hung up
    Handler.address = f"http://127.0.0.1:{server.server_address[1]}"
    print(Handler.address, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
