"""The share of padding in batches of a set's own records: at random, and as trainer/data/order.py groups them.

    .venv/launch/bin/python -m benchmarks.padding DATA

A record's tokens are taken from its characters, 3.6 to a token, and 256 for each picture, as Gemma 3 gives it; so
neither model nor torch is needed.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.data.order import epoch_order
from trainer.data.records import load_dataset

PAGE = Path(__file__).parent / "results" / "padding.md"
CHARACTERS_A_TOKEN, PICTURE_TOKENS, PAD_TO = 3.6, 256, 8
BATCH, EPOCHS = 8, 20
MICRO_BATCHES = (8, 4, 2, 1)


def padding(lengths: Sequence[int], order: Sequence[int], micro: int) -> float:
    """The share of padding when the records of `lengths` come in this order, in micro-batches of that size."""
    shown = [lengths[place] for place in order]
    batches = [shown[first : first + micro] for first in range(0, len(shown), micro)]
    return 1 - sum(shown) / sum(-(-max(batch) // PAD_TO) * PAD_TO * len(batch) for batch in batches)


def main(data: str) -> None:
    records = load_dataset(data, eval_fraction=0).train
    lengths = [
        round((len(r.prompt) + len(r.answer)) / CHARACTERS_A_TOKEN) + PICTURE_TOKENS * len(r.pictures) for r in records
    ]
    places = range(len(lengths))
    rows = []
    for micro in MICRO_BATCHES:
        at_random = [padding(lengths, random.Random(n).sample(places, len(lengths)), micro) for n in range(EPOCHS)]
        grouped = [padding(lengths, epoch_order(lengths, batch=BATCH, seed=0, epoch=n), micro) for n in range(EPOCHS)]
        shares = (statistics.mean(at_random), statistics.mean(grouped), max(grouped))
        rows.append(f"| {micro} | {' | '.join(f'{share:.1%}' for share in shares)} |\n")
    text = f"""\
# Padding

Made by `.venv/launch/bin/python -m benchmarks.padding DATA` from {len(lengths)} records of real play, which are not
part of the project. Tokens are estimated: {CHARACTERS_A_TOKEN} characters to a token, {PICTURE_TOKENS} to a picture;
{min(lengths)} to {max(lengths)} tokens, {statistics.mean(lengths):.0f} in the mean.
{EPOCHS} epochs, {BATCH} records an optimizer step.

| micro-batch | at random | grouped by length | most in an epoch |
|---|---|---|---|
"""
    PAGE.write_text(text + "".join(rows), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1])
