"""Limits the time and memory of a model's chat template, which is a program that came with the model. Jinja's sandbox
keeps it from files and objects."""

from __future__ import annotations

import mmap
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from trainer.outcome import ConfigError
from trainer.text import GIB

# A usual rendering takes a thousandth of this memory, and a thousandth of a second.
TEMPLATE_S, TEMPLATE_BYTES = 10.0, 2 * GIB
WHERE = "look into chat_template.jinja (or tokenizer_config.json) of MODEL, or take another model"


@contextmanager
def bounded() -> Iterator[None]:
    """Limits one rendering. Raises ConfigError after TEMPLATE_S seconds, and when it needs more memory than
    TEMPLATE_BYTES.

    The limits work only in the main thread, where signals arrive; every record is first rendered in it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise ConfigError(
            f"the model's chat template took more than {TEMPLATE_S:g} s for one record, and may never end: {WHERE}"
        )

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, TEMPLATE_S)
    try:
        with _in_memory() if sys.platform == "linux" else nullcontext():
            yield
    except MemoryError:
        raise ConfigError(
            f"the model's chat template wants more than {TEMPLATE_BYTES / GIB:g} GiB for one record: {WHERE}"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


@contextmanager
def _in_memory() -> Iterator[None]:
    """Let the process grow by TEMPLATE_BYTES; more raises MemoryError."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    most = has + TEMPLATE_BYTES
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(most, *known) if known else most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
