"""Follows a pod's log to its end: after a broken connection it goes on, and no line is printed twice. kubectl
silently ends with 0 when a connection is cut, an API server restarts or the kubelet rotates a log."""

from __future__ import annotations

import io
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from k8s.cluster.kubectl import NOISE, Kubectl, KubectlError, Object, name_of
from k8s.manifest.pod import CONTAINER
from launcher import cli
from launcher.logs import pass_on

STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
AGAIN_S = 1.0


@dataclass(kw_only=True, slots=True)
class Position:
    """The position up to which a log has been printed."""

    second: str = ""
    """Time of the last line, in the form for --since-time; empty before the first line."""
    moment: tuple[bytes, bytes] = (b"", b"")
    """The same time with its fraction, for comparisons."""
    lines: int = 0
    """Number of printed lines with that time."""


def follow(kubectl: Kubectl, pod: Object) -> None:
    """Print the whole log to stdout, until the pod has ended or is gone."""
    position, said = Position(), ""
    while True:
        # The existing lines come first: a kubectl that follows and is refused asks for ever.
        error = _print(kubectl, pod, position, follow=False) or _print(kubectl, pod, position, follow=True)
        if error and error != said:
            cli.say(f"kubectl logs: {error}")
            said = error
        if "forbidden" in error.lower():
            return
        if not _runs(kubectl, pod):
            _print(kubectl, pod, position, follow=False)  # lines that came after the connection broke, if any
            return
        time.sleep(AGAIN_S)


def _runs(kubectl: Kubectl, pod: Object) -> bool:
    try:
        found = kubectl.get("pod", name_of(pod))
    except KubectlError:
        return True  # unknown, so the log is asked for again
    return found is not None and found["status"].get("phase") == "Running"


def _print(kubectl: Kubectl, pod: Object, position: Position, *, follow: bool) -> str:
    """kubectl's error message on one line; "" without an error."""
    words = ["logs", name_of(pod), "--container", CONTAINER, "--timestamps"]
    words += ["--follow"] if follow else []
    words += [f"--since-time={position.second}"] if position.second else []
    command = kubectl.command(*words, endless=follow)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    complaints: list[str] = []
    with subprocess.Popen(command, env=kubectl.environment, **pipes) as process:  # type: ignore[call-overload]

        def listen() -> None:
            for line in process.stderr:
                complaints.append(line.decode(errors="replace"))
                if follow:
                    process.terminate()  # kubectl 1.37 would ask again for ever

        listener = threading.Thread(target=listen)
        listener.start()
        new = _after(position)
        for line in process.stdout:
            if new(line):
                pass_on(io.BytesIO(STAMPED.sub(b"", line, count=1)))
        listener.join()
    return " ".join(NOISE.sub("", "".join(complaints)).split())


def _after(position: Position) -> Callable[[bytes], bool]:
    """A function that tells for each line of an answer whether it is new, and moves the position."""
    before, skipped = (position.moment, position.lines), 0

    def new(line: bytes) -> bool:
        nonlocal skipped
        found = STAMPED.match(line)
        if not found:
            return True
        moment = (found[1], (found[2] or b"").ljust(9, b"0"))
        if moment < before[0]:
            return False
        if moment == before[0] and skipped < before[1]:
            skipped += 1
            return False
        position.lines = position.lines + 1 if moment == position.moment else 1
        position.moment, position.second = moment, (found[1] + found[3]).decode()
        return True

    return new
