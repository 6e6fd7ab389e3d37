"""`kubectl exec POD -- head -c N -- FILE` against the tests' API server: the streams as the real server sends them,
over a WebSocket. No other command is known."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROTOCOL = "v5.channel.k8s.io"
STDOUT, STDERR, OUTCOME = 1, 2, 3
BINARY, CLOSE = 0x82, 0x88
SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def send_exec(handler: BaseHTTPRequestHandler, files: Mapping[str, str]) -> None:
    """Answer what the handler was asked, for a pod that sees these `files`."""
    head, option, most, end, path = parse_qs(urlsplit(handler.path).query)["command"]
    assert (head, option, end) == ("head", "-c", "--")
    key = handler.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    handler.send_response(101, "Switching Protocols")
    handler.send_header("Upgrade", "websocket")
    handler.send_header("Connection", "Upgrade")
    handler.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
    handler.send_header("Sec-WebSocket-Protocol", PROTOCOL)
    handler.end_headers()
    if path in files:
        _send(handler, STDOUT, files[path].encode()[: int(most)])
        _send(handler, OUTCOME, json.dumps(SUCCESS).encode())
    else:
        _send(handler, STDERR, f"head: cannot open '{path}' for reading: No such file or directory\n".encode())
        _send(handler, OUTCOME, json.dumps(_failed(1)).encode())
    handler.wfile.write(bytes([CLOSE, 2]) + (1000).to_bytes(2, "big"))
    handler.wfile.flush()
    handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, channel: int, content: bytes) -> None:
    body = bytes([channel]) + content
    size = bytes([len(body)]) if len(body) < 126 else bytes([126]) + len(body).to_bytes(2, "big")
    handler.wfile.write(bytes([BINARY]) + size + body)


def _failed(code: int) -> dict[str, Any]:
    causes = [{"reason": "ExitCode", "message": str(code)}]
    said = f"command terminated with non-zero exit code: exit status {code}"
    return {
        **SUCCESS,
        **{"status": "Failure", "message": said, "reason": "NonZeroExitCode", "details": {"causes": causes}},
    }
