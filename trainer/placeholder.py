"""Tells a token from the words that stand in its place in an example, such as your_key_here: a line of `.env` that was
copied and not filled in. Sent as a token it would be refused, also where no token is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer.spellings import SECRETS

# Each token that is issued holds digits; a value of letters alone with one of these words in it was written by hand.
WORDS = (
    r"your|yours|my|here|insert|paste|enter|replace|change|changeme|placeholder|example|dummy|todo|tbd|none|null|xxx+"
)
SIGNS = r"[.*_x-]{3,}|\$?\{+.*\}+|\[.*\]|<.*>"
NOT_FILLED_IN = "holds a placeholder, which counts as not given"


def is_placeholder(value: str) -> bool:
    """Whether a value stands for a token and is none."""
    words = [word.lower() for word in re.split(r"[\W_]+", value) if word]
    by_hand = all(word.isalpha() for word in words) and any(re.fullmatch(WORDS, word) for word in words)
    return by_hand or bool(re.fullmatch(SIGNS, value.removeprefix("hf_"), re.IGNORECASE))


def placeholders(environ: Mapping[str, str]) -> list[str]:
    """The names of tokens for which `environ` holds a placeholder."""
    return [name for name in SECRETS if is_placeholder(environ.get(name, ""))]
