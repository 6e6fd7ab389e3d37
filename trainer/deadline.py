"""Ends the waiting for a server that is never silent and never done. It may send one byte of its answer every few
seconds, so no socket's own clock, which counts from the last byte, ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

Answer = TypeVar("Answer")


def within(most_s: float, read: Callable[[], Answer]) -> Answer:
    """What `read` returns or raises. Raises TimeoutError after `most_s`; the thread that reads is left behind."""
    found = SimpleQueue[tuple[Answer] | Exception]()

    def work() -> None:
        try:
            found.put((read(),))
        except Exception as error:  # raised again by the thread that waits
            found.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = found.get(timeout=most_s)
    except Empty:
        raise TimeoutError(f"takes more than {most_s:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer[0]
