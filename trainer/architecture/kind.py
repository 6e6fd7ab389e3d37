"""Refuses models that do not continue a text, as far as their config.json says so: without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trainer.flags import EXAMPLES
from trainer.outcome import ConfigError

WORDLESS = re.compile(r"\w{1,64}For(MaskedLM|\w{0,32}Classification)", re.ASCII)
"""transformers' names of classes that fill gaps or classify. What other classes do is asked of the class itself."""


def check_writes(model: str, config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a config.json of an encoder with a decoder, or of a class that writes no text."""
    if config.get("is_encoder_decoder") is True:
        raise encoder_decoder_refusal(model, str(config.get("model_type")))
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    if isinstance(first, str) and WORDLESS.fullmatch(first):
        raise wordless_refusal(model, first)


def encoder_decoder_refusal(model: str, kind: str) -> ConfigError:
    """The refusal of an encoder with a decoder, whose model type is `kind`."""
    said = kind if re.fullmatch(r"[\w.-]{1,64}", kind, re.ASCII) else "it"
    return ConfigError(
        f"{said} reads in an encoder and answers in a decoder, and Trainyard trains models that do both in one: "
        f"give another, as {EXAMPLES['model']} is",
        name="MODEL",
        given=model,
    )


def wordless_refusal(model: str, what: str) -> ConfigError:
    """The refusal of `what`, a class or a model type."""
    return ConfigError(
        f"{what} writes no text (it classifies, fills gaps, or moves a robot): give a model that answers "
        f"in words, as {EXAMPLES['model']} does",
        name="MODEL",
        given=model,
    )
