"""Imports of the libraries that a rank does without, or not yet: they take a quarter of the time that its imports
take. Call `import_late` before the libraries are loaded; they behave as ever, but load when they are first used.
Load them within `uncollected`.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any


class _NoEngine:
    """Stands for DeepSpeed's engine, which no model is in a run without DeepSpeed."""


UNUSED: Mapping[str, Mapping[str, object]] = {"wandb": {"run": None}}
"""TRL imports W&B's client in every rank, and looks whether it has a `run`, which is None until one is begun. Only the
first rank needs the client, in a thread of its own, and only if it logs."""
UNUSED_WITHOUT_DEEPSPEED: Mapping[str, Mapping[str, object]] = {"deepspeed": {"DeepSpeedEngine": _NoEngine}}
"""Accelerate imports DeepSpeed wherever it is installed, to ask of each model whether it is DeepSpeed's."""
DECLARES = "bitsandbytes"
"""It declares functions of its own with torch.compile, for devices for which it has no kernels: that loads torch's
compiler, which a GPU of NVIDIA and a CPU never use."""


def import_late() -> None:
    under_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    for name, known in (UNUSED if under_deepspeed else {**UNUSED, **UNUSED_WITHOUT_DEEPSPEED}).items():
        _put_off(name, known)
    if importlib.util.find_spec(DECLARES):
        with compiled_when_called():
            importlib.import_module(DECLARES)
    _read_models_once()


@contextmanager
def uncollected() -> Iterator[None]:
    """In this block no garbage is collected, and what it leaves is never looked through again: the libraries are half a
    million objects that stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class _LateModule(ModuleType):
    """A module whose code runs when it is first asked for a name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":  # Python itself looks for such names in every module
            raise AttributeError(name)
        with _lock:  # a thread that asks for what is not there yet waits while another one loads the module
            if type(self) is _LateModule and self not in _loading:
                assert self.__spec__ and self.__spec__.loader
                _loading.add(self)
                try:
                    self.__spec__.loader.exec_module(self)
                    self.__class__ = ModuleType  # type: ignore[assignment]
                finally:
                    _loading.discard(self)
            return ModuleType.__getattribute__(self, name)


_lock = threading.RLock()
_loading: set[ModuleType] = set()
"""Modules whose code runs now: it may ask its own module for what it does not have yet."""


def _read_models_once() -> None:
    """Let `transformers.models` take what `transformers` has found in all files of its models: it would read these two
    thousand files again, as it asks for the same folder under another name."""
    import transformers
    from transformers.utils import import_utils

    folder, find = Path(transformers.__file__).parent / "models", import_utils.define_import_structure

    def found(path: str | Path, prefix: str | None = None) -> Any:
        return find(folder if Path(path) == folder / "__init__.py" else path, prefix)

    import_utils.define_import_structure = found  # type: ignore[assignment]


def _put_off(name: str, known: Mapping[str, object]) -> None:
    if name in sys.modules or (spec := importlib.util.find_spec(name)) is None:
        return
    module = importlib.util.module_from_spec(spec)
    vars(module).update(known)
    module.__class__ = _LateModule
    sys.modules[name] = module


@contextmanager
def compiled_when_called() -> Iterator[None]:
    """What is declared in this block with torch.compile is compiled when it is first called; torch would load its
    compiler at the declaration."""
    import torch

    compile_now = torch.compile

    def declared(model: Any = None, **options: Any) -> Any:
        if model is None:
            return functools.partial(declared, **options)
        declare = _when_called if type(model) is FunctionType else _now
        return declare(model, compile_now, options)

    torch.compile = declared
    try:
        yield
    finally:
        torch.compile = compile_now


def _now(model: Any, compile_now: Callable[..., Any], options: dict[str, Any]) -> Any:
    return compile_now(model, **options)


def _when_called(function: FunctionType, compile_now: Callable[..., Any], options: dict[str, Any]) -> Any:
    compiled: list[Any] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not compiled:
            compiled.append(compile_now(function, **options))
        return compiled[0](*args, **kwargs)

    return call
