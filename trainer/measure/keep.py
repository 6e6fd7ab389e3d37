"""Measures a model once, and keeps its shape where the plan looks for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from trainer.architecture.shape import ModelShape
from trainer.architecture.shape_file import SHAPE_FILE, digest, file_name, text_of, user_folder
from trainer.architecture.shapes import SAID, Unmeasured, resolve_shape
from trainer.files import read_json, write_whole
from trainer.measure.pictures import picture_of
from trainer.measure.shape import measure
from trainer.model.base import load_model_config
from trainer.outcome import ConfigError
from trainer.text import printable


def known_or_measured(model: str) -> ModelShape:
    """The shape of `model`, measured in this process if it is not known yet. Raises ConfigError or SickNode."""
    try:
        return resolve_shape(model, measure=False)
    except Unmeasured:
        return measure_and_keep(model)[0]


def measure_and_keep(model: str) -> tuple[ModelShape, Path]:
    """(the shape of `model`, the file that keeps it from now on). Raises ConfigError or SickNode."""
    config = load_model_config(model)
    picture = picture_of(model, config)
    if picture.beside:
        raise ConfigError(
            "its pictures lie beside the text, in cross-attention, and no plan counts yet what they take there",
            name="MODEL",
            given=model,
            advice="docs/model-types.md has what can be planned",
        )
    shape = measure(model, config, tokens_per_image=picture.tokens, patches=picture.patches, fixed=picture.fixed)
    if shape.tokens_per_image and not picture.asked:
        print(
            f"{SAID}{printable(model)}: its processor cannot be loaded here, so a picture is counted by config.json "
            f"alone, as {shape.tokens_per_image:,} tokens: add the processor's files, then make shape again",
            file=sys.stderr,
        )
    return shape, keep(model, shape)


def keep(model: str, shape: ModelShape) -> Path:
    """The file that now keeps the shape: beside the model if that is a writable folder, else in the user's folder.
    Raises OSError."""
    folder = Path(os.path.expanduser(model))
    written = _written(model)
    if folder.is_dir() and os.access(folder, os.W_OK):
        path, named = folder / SHAPE_FILE, {}  # a folder that is copied or moved keeps its shape
    else:
        name = f"{digest(written)}.json" if folder.is_dir() else file_name(model)
        path, named = user_folder(os.environ) / name, {"model": model}
    write_whole(path, text_of(shape, written, **named))
    return path


def _written(model: str) -> dict[str, Any]:
    """config.json as it is written; the kept shape is found again by its digest."""
    folder = Path(os.path.expanduser(model))
    if folder.is_dir():
        return dict(read_json(folder / "config.json"))
    from huggingface_hub import hf_hub_download

    return dict(read_json(Path(hf_hub_download(model, "config.json"))))
