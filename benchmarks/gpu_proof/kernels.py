"""Kernels that may pay, beside our step as it is: torch.compile a layer at a time, and Liger's for Gemma 3."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.gpu_proof.speed import REHEARSED, SAMPLES, STEPS
from benchmarks.gpu_proof.stage import Stage
from benchmarks.train_speed import steps

LIGER = ("rope", "rms_norm", "geglu")


def carry_out(stage: Stage, *, ways: str, tokens: int, scored: int) -> Iterator[dict[str, Any]]:
    count, samples = REHEARSED if stage.rehearsal else (STEPS, SAMPLES)
    # In a rehearsal the graphs are made and then run as they are: compiling takes minutes.
    backend = "eager" if stage.rehearsal else "inductor"
    changes: dict[str, dict[str, Callable[[Any], None]]] = {
        "compiled": {"layers compiled": partial(compile_layers, backend=backend)},
        # Liger's stay where they are once they are in, so each is measured with those before it.
        "Liger's": {
            f"with Liger's {' and '.join(LIGER[: n + 1])}": partial(put_in, kernels=LIGER[: n + 1]) for n in range(3)
        },
    }
    found: dict[str, Any] = {}
    asked: dict[str, Callable[[Any], None]] = {"as it is": lambda model: None, **changes[ways]}
    for name, change in asked.items():
        with tempfile.TemporaryDirectory(dir=stage.folder) as run_dir:
            try:
                one = steps(
                    stage.model, stage.device, 0, count, samples, run_dir,
                    tokens=stage.tokens(tokens), scored=scored, change=change,
                )  # fmt: skip
            except Exception as error:
                found[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
                yield found
                continue
        found[name] = one
        if "seconds" in (usual := found["as it is"]):
            one["of_our_time"] = statistics.median(one["seconds"]) / statistics.median(usual["seconds"])
        yield found


def compile_layers(model: Any, *, backend: str) -> None:
    for layer in model.get_base_model().base_model.language_model.layers:
        layer.compile(backend=backend)


def put_in(model: Any, *, kernels: tuple[str, ...]) -> None:
    from liger_kernel.transformers import apply_liger_kernel_to_gemma3_text

    off = dict.fromkeys((*LIGER, "cross_entropy", "fused_linear_cross_entropy"), False)
    language_model = model.get_base_model().base_model.language_model
    apply_liger_kernel_to_gemma3_text(**{**off, **dict.fromkeys(kernels, True)}, model=language_model)
