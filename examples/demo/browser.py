"""A Chromium without a window, driven by its own DevTools protocol over a pipe: no driver program and no library.

    with Browser() as page:
        page.open(Path("report.html"), width=390, dark=True)
        page.ask("document.title")

The protocol: https://chromedevtools.github.io/devtools-protocol/, one JSON object a message, each ended by a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-extensions",
    "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39}


def find_chromium() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """One page. Raises FileNotFoundError when no Chromium is installed."""

    def __init__(self) -> None:
        program = find_chromium()
        if program is None:
            raise FileNotFoundError("no Chromium on PATH: on Debian apt install chromium")
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []  # which its sandbox refuses
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        words = [program, *OPTIONS, *as_root, f"--user-data-dir={self._profile.name}", "about:blank"]
        # It reads from descriptor 3 and writes to 4.
        line = f'exec "$@" 3<&{theirs} 4>&{ours}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "chromium", *words], pass_fds=(theirs, ours), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self._messages = self._read()
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        """What the page has reported since it was opened."""
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        os.close(self._to)  # it ends with the pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        self._profile.cleanup()

    def _read(self) -> Iterator[dict[str, Any]]:
        rest = b""
        while data := os.read(self._from, 1 << 20):
            *whole, rest = (rest + data).split(b"\0")
            yield from map(json.loads, whole)
        raise EOFError("Chromium has ended")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command. Raises RuntimeError in the browser's words."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        for answer in self._messages:
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)
        raise AssertionError("unreachable")

    def open(self, page: Path, *, width: int = 1280, dark: bool = False, script: bool = True) -> None:
        """Show the file in a window of that width, in CSS pixels, and wait until it is loaded."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(next(self._messages))

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, asked past its policy. Raises RuntimeError."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        code = KEYS[key]
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        names = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **names, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **names)

    def picture(self, *, top: int = 0, height: int | None = None) -> bytes:
        """The page as PNG: what is in view, or `height` pixels from `top` on."""
        clip: dict[str, Any] = {}
        if height is not None:
            width = self.ask("document.documentElement.clientWidth")
            area = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
            clip = {"clip": area, "captureBeyondViewport": True}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"])
