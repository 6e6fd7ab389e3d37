"""The questions for the card, as data: one row for each, the most telling first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FULL_SECONDS = 480


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    name: str
    module: str
    """Module of this package whose `carry_out(stage, **settings)` returns the answer for the JSON, or yields it again
    each time that more of it is there."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    most_seconds: int = 150
    """A row that takes longer is ended; one that would begin later than this before the end is left out."""
    gib: float = 0
    """Memory of the card that the row may take; 0: the row is timed, and has the card to itself."""


def _fit(name: str, card_gib: float, tokens: int, *words: str, **more: Any) -> Row:
    settings = {"card_gib": card_gib, "tokens": tokens, "words": words, **more}
    return Row(name=name, module="fit", settings=settings, gib=card_gib)


# Plans of Gemma 3 4B for cards of 8 to 80 GiB, as `make plan` makes them, carried out under that card's limit. The
# lengths are those of a short answer about one picture, of an answer with reasons, and of a conversation.
FIT = (
    _fit("8 GiB, 330 tokens", 8, 330),
    _fit("10 GiB, 330 tokens", 10, 330),
    _fit("12 GiB, 900 tokens", 12, 900),
    _fit("16 GiB, 900 tokens", 16, 900),
    _fit("16 GiB, 900 tokens, no dropout", 16, 900, "--lora-dropout", "0"),
    _fit("16 GiB, 330 tokens, rank 128", 16, 330, "--lora", "high"),
    _fit("24 GiB, 900 tokens", 24, 900),
    _fit("24 GiB, 2048 tokens", 24, 2048),
    _fit("24 GiB, 330 tokens, tower adapted", 24, 330, "--vision", "lora"),
    _fit("32 GiB, 900 tokens, not in 4 bits", 32, 900, "--quantization", "none"),
    _fit("40 GiB, 900 tokens", 40, 900),
    _fit("48 GiB, 2048 tokens", 48, 2048),
    _fit("80 GiB, 900 tokens", 80, 900),
    _fit("24 GiB, 900 tokens, ZeRO-3 on one GPU", 24, 900, zero3="sharded"),
    _fit("24 GiB, 900 tokens, ZeRO-3 with offload", 24, 900, zero3="offload"),
)
ROWS = (
    *FIT[:13],
    Row(name="speed at 330 tokens", module="speed", settings={"tokens": 330, "scored": 16}),
    Row(name="evaluation under 16 GiB", module="scoring", settings={"card_gib": 16, "tokens": 900}, gib=16),
    Row(name="features kept and read back", module="kept", settings={"tokens": 330}, gib=16),
    Row(name="SIGTERM and going on", module="stop", gib=8, most_seconds=240),
    Row(name="4-bit kernels", module="nf4", gib=4),
    Row(name="8-bit paged AdamW", module="adamw", gib=4),
    Row(name="which ALLOC_CONF counts", module="segments", gib=2),
    Row(name="pinned memory", module="pinned"),
    *FIT[13:],
    Row(name="Liger's kernels", module="kernels", settings={"ways": "Liger's", "tokens": 330, "scored": 16}),
    Row(name="layers compiled", module="kernels", settings={"ways": "compiled", "tokens": 330, "scored": 16}),
    Row(name="speed at 900 tokens", module="speed", settings={"tokens": 900, "scored": 80}),
)  # fmt: skip
