"""JobSpecs for tests, from the shipped shapes: no cache or network is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.job import JobSpec
from planner.request.resolve import resolve
from trainer.architecture.shape import ModelShape
from trainer.architecture.shape_file import SHAPE_FILE, text_of
from trainer.architecture.shapes import SHIPPED, shipped_models, shipped_shape

CHECKOUT = Path("/home/ada/trainyard")
"""A checkout that is not there: nothing of it can be read."""
GEMMA_4B = "google/gemma-3-4b-it"


def known_shape(model: str) -> ModelShape:
    """The shape that is shipped for a hub id."""
    found = shipped_shape(model)
    assert found, f"no shape is shipped for {model}"
    return found


def trained_models() -> list[str]:
    """The hub ids that a shape is shipped for, without the models that are refused."""
    records = {slug: json.loads((SHIPPED / f"{slug}.json").read_text()) for slug in set(shipped_models().values())}
    return [model for model, slug in shipped_models().items() if "refused" not in records[slug]]


def write_measured(folder: Path, config: dict[str, Any], **changes: Any) -> Path:
    """A model's folder with that config.json, measured as Gemma 3 4B is but for `changes`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / SHAPE_FILE).write_text(text_of(replace(known_shape(GEMMA_4B), **changes), config))
    return folder


def make_spec(model: str = GEMMA_4B, **request: Any) -> JobSpec:
    """Gemma 3 4B on one 24 GiB GPU, changed by `request`."""
    base: dict[str, Any] = {
        "shape": known_shape(model),
        "data": "data",
        "project_dir": str(CHECKOUT),
        "name": "gemma",
        "run_id": "gemma-0123abcd",
    }
    return JobSpec.of(model=model, **{**base, **request})


def request(**given: str) -> JobSpec:
    return resolve(given, project_dir=CHECKOUT, environ={}, run_suffix=given.pop("suffix", None))
