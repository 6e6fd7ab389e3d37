"""Limits the time and memory of a model's chat template, which is a program that came with the model. Jinja's sandbox
keeps it from files and objects."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.data.memory_limit import growing_by
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
        with growing_by(TEMPLATE_BYTES):
            yield
    except MemoryError:
        raise ConfigError(
            f"the model's chat template wants more than {TEMPLATE_BYTES / GIB:g} GiB for one record: {WHERE}"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
