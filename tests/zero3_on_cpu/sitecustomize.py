"""On PYTHONPATH of a test only: lets accelerate start DeepSpeed without a GPU, over gloo.

accelerate itself leaves DeepSpeed out as soon as it is told about the CPU, and would pick nccl otherwise.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from typing import Any


class _PatchState(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "accelerate.state":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            prepare = module.PartialState._prepare_backend

            def on_gloo(self: Any, *args: Any, **kwargs: Any) -> tuple[str, Any]:
                _, distributed_type = prepare(self, *args, **kwargs)
                return "gloo", distributed_type

            def on_cpu(self: Any) -> None:
                import torch

                self.device = torch.device("cpu")

            module.PartialState._prepare_backend = on_gloo
            module.PartialState.set_device = on_cpu

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _PatchState())
