"""Request: the checked variables that a person gave, before files and model are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from trainer.config import Device

T = TypeVar("T")


class Value(Generic[T]):
    """The value of the variable that is named like the attribute; None when it was not given, or given as `none`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._variable = name.upper()

    def __get__(self, request: Request, owner: type) -> T | None:
        found: T | None = request.values.get(self._variable)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The checked values of the given variables. Most become a field of JobSpec directly; the attributes below are
    those that a module reads by name."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Values by variable name; None for `none`."""

    gpus = Value[int]()
    nodes = Value[int]()
    vram = Value[float]()
    gpu_type = Value[str]()
    output = Value[str]()
    run = Value[str]()
    device = Value[Device]()
    environment = Value[tuple[tuple[str, str], ...]]()
    namespace = Value[str]()
    queue = Value[str]()
    pvc = Value[str]()
    size = Value[str]()
    site = Value[str]()
    mem = Value[int]()
    lora = Value[int]()
    max_length = Value[int]()
    sweep = Value[str]()
    trials = Value[int]()
    parallel = Value[int]()
