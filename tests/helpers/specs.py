"""JobSpecs for tests, from the built-in table: no file, cache or network is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.job import JobSpec
from planner.request.resolve import resolve
from trainer.architecture.known_models import KNOWN_MODELS
from trainer.architecture.shape import ModelShape
from trainer.architecture.shapes import shape_from_config

CHECKOUT = Path("/home/ada/trainyard")
"""A checkout that is not there: nothing of it can be read."""
GEMMA_4B = "google/gemma-3-4b-it"


def known_shape(model: str) -> ModelShape:
    return shape_from_config(KNOWN_MODELS[model], model=model)


def make_spec(model: str = GEMMA_4B, **request: Any) -> JobSpec:
    """Gemma 3 4B on one 24 GiB GPU, changed by `request`."""
    base: dict[str, Any] = {
        "shape": known_shape(model),
        "data": "data",
        "project_dir": str(CHECKOUT),
        "name": "gemma",
        "run_id": "gemma-0123abcd",
    }
    return JobSpec(model=model, **{**base, **request})


def request(**given: str) -> JobSpec:
    return resolve(given, project_dir=CHECKOUT, environ={}, run_suffix=given.pop("suffix", None))
