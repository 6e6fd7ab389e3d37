"""A model that cannot be trained is a wrong request: one line and 78, whichever verb asks, whatever a library raises.

What this machine does wrong (memory, GPU, disk, network) stays what it is: another attempt may do better.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from trainer.commands import CHECKOUT
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
"""The advice where a library fails on a model whose files are whole."""
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
            advice = f"{what_to_install(error)}, or take another model"
        raise ConfigError(f"MODEL={model} cannot be {doing} ({first_words(error)}): {advice}") from None


def what_to_install(error: ImportError) -> str:
    """The package that a library misses: as a command where Trainyard has a pin for it, else by its name alone.

    The name of a module is not that of a package (cv2), and the error may hold the model's own words: who installed
    what they say could install anybody's.
    """
    found = re.search(r"requires the ([\w-]{1,64}) library|No module named '([\w-]{1,64})", str(error))
    if not found:
        return "it needs a library that is not among Trainyard's"
    name = (found[1] or found[2]).lower()
    pin = next((pin for pin in _pins() if re.match(rf"{re.escape(name)}==", pin, re.I)), None)
    if pin is None:
        return f"it needs {name}, which is not among what Trainyard installs"
    build = metadata.version("torch").partition("+")[2]
    if name == "torchvision" and build:  # it is compiled against one build of torch
        pin = f"{pin}+{build} --index-url https://download.pytorch.org/whl/{build}"
    return f"it needs {name}: pip install {pin}"


def _pins() -> list[str]:
    """Exact pins of the checkout, or of the installed package, as in the image."""
    path = CHECKOUT / "pyproject.toml"
    if path.is_file():
        return re.findall(r'"([\w-]+==[\w.]+)"', path.read_text(encoding="utf-8"))
    return [line.partition(";")[0].strip() for line in metadata.requires("trainyard") or ()]


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
