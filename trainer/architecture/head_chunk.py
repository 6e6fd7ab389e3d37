"""How many positions the language-model head scores at once, for the planner and the trainer alike."""

from __future__ import annotations

from trainer.text import GIB

# What trainer/model/head.py holds of each logit at most: the logit in bf16 and in fp32, and its log-probability in
# fp32, which becomes the gradient in place. On the CPU fp32 is the head's own type, and it is 8.
BYTES_PER_LOGIT = 10
# As much as the largest tile of TRL's head takes: 4,096 positions x 32,768 rows in bf16.
CHUNK_BYTES = GIB // 4
# Under ZeRO-3 every chunk gathers the whole head from all GPUs, forwards and backwards: 2.6 GiB each for Gemma 3 27B.
SHARDED_CHUNK_BYTES = 5 * CHUNK_BYTES


def chunk_positions(vocabulary: int, *, sharded: bool) -> int:
    """Positions whose logits over a `vocabulary` of so many rows exist at once; `sharded` under ZeRO-3.

    A bound in bytes, not in positions, so a vocabulary of 32,000 rows is cut eight times less finely than one of
    262,208. It depends on nothing else, not on the free memory of a card or of a moment either: other chunks round
    the gradients differently, and a run that goes on after a stop, perhaps on another card, must round as before.
    """
    return max(1, (SHARDED_CHUNK_BYTES if sharded else CHUNK_BYTES) // (BYTES_PER_LOGIT * vocabulary))
