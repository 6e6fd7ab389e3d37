"""Refuses models whose config.json says that their weights are already quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.outcome import ConfigError

QUANTIZED = ("quantization_config", "compression_config", "quantization")
"""Keys by which a config.json says that its weights are quantized: transformers' present key, its earlier one,
MLX's."""


def check_unquantized(model: str, config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a config.json of weights that are already quantized: training in 4 bits cannot start
    from them."""
    for part in (config, *(section for section in config.values() if isinstance(section, Mapping))):
        for how in (part[key] for key in QUANTIZED if part.get(key)):
            method = how.get("quant_method") if isinstance(how, Mapping) else None
            raise ConfigError(
                f"its weights are quantized already ({method or 'says its config.json'}): give the "
                "16-bit model that they were made from; QUANTIZATION=nf4 makes 4 bits of it as it loads",
                name="MODEL",
                given=model,
            )
