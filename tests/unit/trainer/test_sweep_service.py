"""A server in the place of W&B's that answers a sweep's member with whatever it likes: one line, and no key of ours."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.launch import Launch
from trainer.outcome import FAILED, FINISHED, SWEEP_ENV, ConfigError
from trainer.sweep import trial, wandb_service
from trainer.sweep.trial import TRIAL_NAME, attempt
from trainer.sweep.wandb_service import ServiceError, create_sweep, find_sweep, heartbeat, register_agent

KEY = "c" * 40
PATH = "ada/trainyard/abc123"


class Hostile(http.server.ThreadingHTTPServer):
    """Answers each question with `body`, and keeps what it was told."""

    status, reason, body, daemon_threads = 200, "", b"{}", True

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.more: dict[str, str] = {}
        super().__init__(("127.0.0.1", 0), Answering)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.environ = {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY, SWEEP_ENV: PATH}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def data(self, found: Any) -> None:
        self.body = json.dumps({"data": found}).encode()


class Answering(http.server.BaseHTTPRequestHandler):
    server: Hostile

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers))
        self.send_response(self.server.status, self.server.reason or None)
        for name, value in self.server.more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Hostile]:
    running = Hostile()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def other() -> Iterator[Hostile]:
    running = Hostile()
    yield running
    running.shutdown()
    running.server_close()


ASKED: dict[str, Callable[[dict[str, str]], object]] = {
    "create": lambda environ: create_sweep({"method": "bayes"}, environ),
    "find": lambda environ: find_sweep(PATH, environ),
    "register": lambda environ: register_agent(PATH, "host", environ),
    "heartbeat": lambda environ: heartbeat("agent", None, environ),
}
NAMES = {"name": "p", "entity": {"name": "e"}}
ODD: list[Any] = [
    *({}, {"upsertSweep": None, "project": [], "createAgent": 7, "agentHeartbeat": "x"}),
    {"upsertSweep": {"sweep": 1}, "project": {"sweep": 1}, "createAgent": {"agent": []}, "agentHeartbeat": {}},
    {"project": {**NAMES, "sweep": {"name": "../../x", "state": "PENDING", "config": "a: 1"}},
     "upsertSweep": {"sweep": {"name": "a\x1b[2J", "project": NAMES}}},
    {"project": {**NAMES, "sweep": {"name": "x" * 200, "state": [], "config": "a: 1"}},
     "upsertSweep": {"sweep": {"name": 5, "project": NAMES}}},
    {"project": {**NAMES, "sweep": {"name": "x", "state": "PENDING", "config": ["a"]}}},
    *({"agentHeartbeat": {"commands": commands}} for commands in ("7", "[7]", '["run"]', "{", 5, "[" * 500)),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=map(str, range(len(ODD))))
@pytest.mark.parametrize("asked", ASKED)
def test_an_answer_of_another_kind_is_one_line(asked: str, odd: Any, server: Hostile) -> None:
    server.data(odd)
    if asked == "register" and "createAgent" not in odd:
        server.data({})
    try:
        ASKED[asked](server.environ)
    except (ServiceError, ConfigError) as error:
        assert str(error).isprintable() and len(str(error)) < 500
    else:
        pytest.fail(f"{odd} was taken")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_server_that_leads_elsewhere_does_not_hand_the_key_on(status: int, server: Hostile, other: Hostile) -> None:
    server.status, server.more = status, {"Location": f"{other.address}/graphql"}
    with pytest.raises(ServiceError, match=f"answered {status}"):
        find_sweep(PATH, server.environ)
    assert other.headers == [] and "Authorization" in server.headers[0]


def test_what_a_server_says_of_its_refusal_is_one_line(server: Hostile) -> None:
    server.status, server.reason = 500, "\x1b[2J" + "x" * 3000
    with pytest.raises(ServiceError) as raised:
        find_sweep(PATH, server.environ)
    assert str(raised.value) == f"{server.address} answered 500 (\\x1b[2J{'x' * 193})"


def test_an_answer_without_an_end_is_not_read_into_memory(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_service, "MOST_ANSWER_MIB", 1)
    server.body = b" " * (1 << 21)
    with pytest.raises(ServiceError, match="answered with more than 1 MiB"):
        find_sweep(PATH, server.environ)


COMMANDS: list[dict[str, Any]] = [
    {"type": "run"},
    {"type": "run", "run_id": 5},
    {"type": "run", "run_id": "../../etc"},
    {"type": "run", "run_id": "a\n", "args": {}},
    {"type": "run", "run_id": "a", "args": {"lora_r": 8}},
    {"type": "run", "run_id": "a", "args": [1]},
    {"type": "resume", "run_id": "x" * 65, "args": {}},
]


@pytest.mark.parametrize("command", COMMANDS, ids=map(str, range(len(COMMANDS))))
def test_a_command_that_is_no_trial_is_not_stored(
    command: dict[str, Any], server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "ASK_EVERY_S", 0.0)
    agent = {"agent": {"id": "a"}}
    server.data({"createAgent": agent, "agentHeartbeat": {**agent, "commands": json.dumps([command])}})
    assert attempt(_launch(tmp_path), server.environ, lambda _: pytest.fail("it has begun")) == FAILED
    assert not (tmp_path / TRIAL_NAME).exists()


def _values_of(name: str, value: Any) -> dict[str, Any]:
    return {"type": "run", "run_id": "a", "args": {name: {"value": value}}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_dir", "/tmp/x"), ("config", "/etc/passwd"), ("model", "evil/model"), ("lora_r\x1b[2J", 8),
        ("lora_r", 10**400), ("lora_r", "8; id"), ("lora_r", {"a": 1}), ("learning_rate", "nan"), ("lora_r", None),
        ("learning_rate", [1e-4]), ("lora_r", 4096), ("lora_r", "\u0668"),
    ],
)  # fmt: skip
def test_a_trial_sets_what_a_sweep_may_set_and_nothing_else(
    name: str, value: Any, server: Hostile, tmp_path: Path
) -> None:
    agent = {"agent": {"id": "a"}}
    commands = json.dumps([_values_of(name, value)])
    server.data({"createAgent": agent, "agentHeartbeat": {**agent, "commands": commands}})
    with pytest.raises(ConfigError):
        attempt(_launch(tmp_path), server.environ, lambda _: FINISHED)


def _launch(folder: Path) -> Launch:
    return Launch(module="trainer.train", settings={"output_dir": str(folder), "lora_r": "64"})


@pytest.mark.parametrize("part", ["head", "body"])
def test_an_answer_that_comes_a_byte_at_a_time_is_left(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with listening.accept()[0] as connection, contextlib.suppress(OSError):
                connection.sendall(b"" if part == "head" else b"HTTP/1.0 200 OK\r\n\r\n")
                while not ended.wait(0.02):
                    connection.sendall(b" ")

        threading.Thread(target=drip, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setattr(wandb_service, "ANSWER_S", 0.4)
        with pytest.raises(ServiceError) as raised:
            find_sweep(PATH, {"WANDB_BASE_URL": address, "WANDB_API_KEY": KEY})
        ended.set()
    assert str(raised.value) == f"{address} cannot be reached (takes more than 0.4 s)"


def test_a_placeholder_is_not_sent_as_a_key(server: Hostile) -> None:
    with pytest.raises(ConfigError) as raised:
        find_sweep(PATH, {**server.environ, "WANDB_API_KEY": "your_key_here"})
    said = "WANDB_API_KEY holds a placeholder, which counts as not given: put your key into .env"
    assert (str(raised.value), server.headers) == (said, [])
