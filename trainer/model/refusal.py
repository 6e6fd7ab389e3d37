"""Turns errors about a model that cannot be trained into one line and exit code 78, for every verb and library.
Faults of the machine (memory, GPU, disk, network) pass unchanged, because another attempt may succeed."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from trainer.commands import CHECKOUT
from trainer.node.preflight import OF_THIS_NODE
from trainer.outcome import LACKING, ConfigError, causes, is_panic

TRACEBACK_ENV = "TRAINYARD_TRACEBACK"
"""If this variable is set, the library's own traceback is printed before the line that replaces it."""
BROKEN_MACHINE = (
    r"AcceleratorError|CUDA (error|driver)|cu(DNN|BLAS|SPARSE)|CU(DNN|BLAS|SPARSE)_|NCCL|[Gg]loo|Dist\w*Error"
    r"|Connection|[Cc]ouldn't connect|can't start new thread"
)
NETWORK = ("httpx", "httpcore", "requests", "urllib3")
UNFIT = "it is not built as the trainer needs it, take another model"
"""The advice when a library fails on a model whose files are complete."""
LONGEST = 200  # characters of what a library said


@contextmanager
def refusing(model: str, doing: str, advice: str) -> Iterator[None]:
    """Turns a library's error while `model` is used into one line about it.

    `doing` completes "MODEL=... cannot be". The trainer's own errors and faults of the machine pass unchanged.

    Raises:
        ConfigError: the model, the library's message, and `advice`.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if type(error).__module__.partition(".")[0] == "trainer" or is_of_machine(error):
            raise
        if os.environ.get(TRACEBACK_ENV):
            traceback.print_exc()
        if isinstance(error, ImportError):
            advice = f"{what_to_install(error)}, or take another model"
        raise ConfigError(f"cannot be {doing} ({first_words(error)}): {advice}", name="MODEL", given=model) from None


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
    """The first sentence of `error`'s message, shortened if long, with the error's type where the message alone says
    little."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "").partition(". ")[0].rstrip(".:")
    line = line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
    plain = isinstance(error, (OSError, ImportError)) or type(error) is ValueError
    return line if plain and line else f"{type(error).__name__}: {line}".rstrip(": ")


def is_of_machine(error: BaseException | None) -> bool:
    """Whether `error`, or one of its causes, is a fault of the machine or the network, and not of the model."""
    return any(map(_is_of_machine_itself, causes(error)))


def _is_of_machine_itself(error: BaseException) -> bool:
    said = f"{type(error).__name__}: {error}"
    return (
        isinstance(error, (MemoryError, ConnectionError, TimeoutError))
        or getattr(error, "errno", None) in OF_THIS_NODE
        or type(error).__module__.partition(".")[0] in NETWORK
        or re.search(f"{LACKING}|{BROKEN_MACHINE}", said) is not None
        or any(int(number) in OF_THIS_NODE for number in re.findall(r"os error (\d+)", said))  # as Rust says it
    )
