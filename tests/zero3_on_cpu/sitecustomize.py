"""On PYTHONPATH of a test only: lets accelerate start DeepSpeed without a GPU, over plain gloo.

accelerate itself leaves DeepSpeed out as soon as it is told about the CPU, and would pick nccl otherwise. DeepSpeed
would compile an operator of its own for the CPU's shared memory, two minutes for something that no GPU has.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any


def accelerate_state(module: Any) -> None:
    prepare = module.PartialState._prepare_backend

    def on_gloo(self: Any, *args: Any, **kwargs: Any) -> tuple[str, Any]:
        _, distributed_type = prepare(self, *args, **kwargs)
        return "gloo", distributed_type

    def on_cpu(self: Any) -> None:
        import torch

        self.device = torch.device("cpu")

    module.PartialState._prepare_backend = on_gloo
    module.PartialState.set_device = on_cpu


def deepspeed_torch(module: Any) -> None:
    module.build_shm_op = lambda: None


class _Patch(importlib.abc.MetaPathFinder):
    patches: dict[str, Callable[[Any], None]] = {  # noqa: RUF012
        "accelerate.state": accelerate_state, "deepspeed.comm.torch": deepspeed_torch,
    }  # fmt: skip

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        patch = self.patches.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Patch())
