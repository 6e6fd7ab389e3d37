"""Limits how much is made of the numbers in a config.json, which may stand for more layers than any machine holds:
building them would take hours, and a list with an entry for each of them all memory."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.modules.module import register_module_module_registration_hook

from trainer.data.memory_limit import growing_by
from trainer.outcome import ConfigError
from trainer.text import GIB

# 61 layers of 384 experts with 5 modules each are 117,000.
MOST_MODULES = 300_000
# Most of the usual time is the import of the model's code.
CONFIG_BYTES, CONFIG_CPU_S = 4 * GIB, 60.0


@contextmanager
def few_modules() -> Iterator[None]:
    """Limits what is built in the block. Raises ValueError above MOST_MODULES."""
    built = 0

    def count(*_: object) -> None:
        nonlocal built
        built += 1
        if built > MOST_MODULES:
            raise ValueError(f"its config.json asks for more than {MOST_MODULES:,} modules")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def small_config(model: str, file: str = "config.json") -> Iterator[None]:
    """Limits the memory and the CPU time of reading a configuration of `model`, in `file`; the time in the main thread
    alone, where signals arrive. Raises ConfigError above CONFIG_BYTES and CONFIG_CPU_S."""

    def refused(what: str) -> ConfigError:
        said = f"a number in its {file} stands for more than {what}: take another model"
        return ConfigError(said, name="MODEL", given=model)

    def ring(*_: object) -> None:
        raise refused(f"{CONFIG_CPU_S:g} s of work")

    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGPROF, ring) if timed else None
    try:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, CONFIG_CPU_S)
        with growing_by(CONFIG_BYTES):
            yield
    except MemoryError:
        raise refused(f"{CONFIG_BYTES / GIB:g} GiB of memory") from None
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before or signal.SIG_DFL)
