"""A model that cannot be trained is a wrong request: one line and 78, whichever verb asks, whatever a library raises.

What this machine does wrong (memory, GPU, disk, network) stays what it is: another attempt may do better.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.node.preflight import OF_THIS_NODE
from trainer.outcome import ConfigError

TRACEBACK_ENV = "TRAINYARD_TRACEBACK"
"""Set to anything, the libraries' own traceback is printed before the line that stands for it."""
LACKING = r"OutOfMemoryError|out of memory|[Cc]an(no|')t allocate|ALLOC_FAILED|failed to map"
BROKEN_MACHINE = (
    r"AcceleratorError|CUDA (error|driver)|cu(DNN|BLAS|SPARSE)|CU(DNN|BLAS|SPARSE)_|NCCL|[Gg]loo|Dist\w*Error"
    r"|Connection|[Cc]ouldn't connect|can't start new thread"
)
NETWORK = ("httpx", "httpcore", "requests", "urllib3")
UNFIT = "it is not built as the trainer needs it, take another model"
"""What to do where a library stumbles over a model whose files are whole."""
LONGEST = 200  # characters of what a library said


@contextmanager
def refusing(model: str, doing: str, advice: str) -> Iterator[None]:
    """Turn what a library raises while `model` is used into one line that says so.

    `doing` completes "MODEL=... cannot be". What the trainer raises itself, and what is this machine's fault, passes.

    Raises:
        ConfigError: what was given, what the library said, and `advice`.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "trainer" or is_of_machine(error):
            raise
        if os.environ.get(TRACEBACK_ENV):
            traceback.print_exc()
        if isinstance(error, ImportError):
            advice = "it needs a library that is not among Trainyard's, take another model"
        raise ConfigError(f"MODEL={model} cannot be {doing} ({first_words(error)}): {advice}") from None


def first_words(error: BaseException) -> str:
    """The first sentence of what `error` says, cut where it is long, with its type where the words alone say little."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "").partition(". ")[0].rstrip(".:")
    line = line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
    plain = isinstance(error, (OSError, ImportError)) or type(error) is ValueError
    return line if plain and line else f"{type(error).__name__}: {line}".rstrip(": ")


def is_of_machine(error: BaseException | None) -> bool:
    """Whether `error`, or what it came from, is a fault of the machine or the network and none of the model."""
    if error is None:
        return False
    said = f"{type(error).__name__}: {error}"
    found = (
        isinstance(error, (MemoryError, ConnectionError, TimeoutError))
        or getattr(error, "errno", None) in OF_THIS_NODE
        or type(error).__module__.partition(".")[0] in NETWORK
        or re.search(f"{LACKING}|{BROKEN_MACHINE}", said) is not None
        or any(int(number) in OF_THIS_NODE for number in re.findall(r"os error (\d+)", said))  # as Rust says it
    )
    return found or is_of_machine(error.__cause__ or error.__context__)
