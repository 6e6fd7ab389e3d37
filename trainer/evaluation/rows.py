"""The number of sequences evaluated at once: as many as the free memory holds, up to 32, or more where these are short.
Arithmetic without torch.

The plan counts with the same formulas, for one sequence, which is the least possible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_ROWS = 32
MOST_TOKENS = 10_240  # of short sequences so many tokens: a batch of them takes less to compute than to start
SCORED_POSITIONS = 64  # positions whose logits over the vocabulary exist at the same time
USED_SHARE = 0.8  # of the free memory; the rest is for fragmentation and for what is not counted
FP32_BYTES = 4
# Bytes a logit: in the head's own type, accelerate's returned copy, the fp32 copy, and the log-softmax.
LOGIT_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes of a model that the memory of an evaluation depends on."""

    layers: int
    hidden: int
    mlp: int
    q_width: int
    """Query heads x head size."""
    kv_width: int
    """Key heads x head size."""
    vocab: int
    vision_hidden: int
    vision_mlp: int
    width: int
    """Bytes a value: 2, or 4 on the CPU."""

    def kept(self, tokens: int) -> int:
        """Bytes of keys and values of one sequence in every layer. Layers with a sliding window count fully: until
        the next token comes, they keep a view into the keys of all tokens of a prompt."""
        return 2 * self.layers * self.kv_width * tokens * self.width

    def passing(self, tokens: int, seen: int, patches: int = 0) -> int:
        """The most bytes that one sequence takes besides keys and values while `tokens` of it run, which attend to
        `seen` tokens: the stream and one layer, or the frozen tower before them."""
        stream = tokens * self.hidden * (4 * self.width + 2 * FP32_BYTES)
        # The MLP's two inner values and their product; the adapters add two.
        inner = tokens * self.width * (5 * self.mlp + 2 * self.q_width + 2 * self.kv_width)
        # Keys and values at the queries' width, grown by cat; each mask as flags, and as numbers for the kernel.
        attention = 2 * seen * self.q_width * self.width + 2 * seen * self.kv_width * self.width
        masks = tokens * seen * (self.width + 2)
        tower = patches * (4 * self.width * self.vision_hidden + 3 * self.width * self.vision_mlp)
        return max(stream + inner + attention + masks, tower)

    @property
    def fixed(self) -> int:
        """Bytes for any number of sequences: the largest linear, expanded from its 4 bits."""
        return self.hidden * max(self.mlp, self.q_width) * self.width


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The sizes of one record: the longest, which takes the most memory in an evaluation."""

    tokens: int
    """Length of the prompt."""
    patches: int = 0
    """Rows that the tower works on for the record's pictures."""
    written: int = 0
    """The most tokens of an answer."""
    candidates: Sequence[int] = ()
    """Tokens of each candidate that is scored behind the prompt."""

    @property
    def most_rows(self) -> int:
        """The most sequences at once, whatever the memory. A stop of the run waits for a batch."""
        return max(MOST_ROWS, MOST_TOKENS // (self.tokens + max(self.written, *self.candidates, 0)))


def records_at_once(rows: int, candidates: int) -> int:
    """Number of prompts at once when `rows` sequences are allowed and each prompt has `candidates` candidates."""
    return max(1, rows // max(1, candidates))


def candidates_at_once(rows: int, candidates: int) -> int:
    """Number of candidates at once behind each of these prompts."""
    return min(candidates, rows)


def needed_bytes(sizes: Sizes, asked: Asked, rows: int) -> int:
    """Bytes that an evaluation of `rows` sequences at once takes on top of the memory already in use."""
    return sizes.fixed + sum(parts(sizes, asked, rows).values())


def parts(sizes: Sizes, asked: Asked, rows: int) -> dict[str, int]:
    """The bytes of `needed_bytes`, item by item, at the moment of their maximum, without the fixed part."""
    records = records_at_once(rows, len(asked.candidates))
    kept = sizes.kept(asked.tokens + asked.written)
    prompts = {
        "keys and values": records * kept,
        "forward of a layer": records * sizes.passing(asked.tokens, asked.tokens, asked.patches),
        "logits": records * sizes.vocab * LOGIT_BYTES,
    }
    longest = max(asked.candidates, default=0) - 1
    if longest < 1:
        return prompts
    copies = records * candidates_at_once(rows, len(asked.candidates))
    seen = asked.tokens + longest
    scored = {
        "keys and values": records * kept + copies * sizes.kept(seen),
        "forward of a layer": copies * sizes.passing(longest, seen),
        "logits": min(copies * longest, SCORED_POSITIONS) * sizes.vocab * LOGIT_BYTES,
    }
    return max(prompts, scored, key=lambda moment: sum(moment.values()))


@dataclass(kw_only=True, slots=True)
class Room:
    """The batch size that the evaluations of one model have found to fit into memory."""

    most: int = MOST_TOKENS
    """Sequences at once, on every process; reduced when fewer fitted."""


def rows_that_fit(free_bytes: int, need: Callable[[int], int], most: int = MOST_ROWS) -> int:
    """The most sequences, up to `most`, that need no more than USED_SHARE of the free bytes; at least one, which
    must be tried."""
    usable = int(free_bytes * USED_SHARE)
    return next((rows for rows in range(most, 1, -1) if need(rows) <= usable), 1)
