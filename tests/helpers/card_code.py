"""A model card's own code, run as whoever copies it would."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path


def code_of(card: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.S)
    return str(code)


def filled(card: Path, frames: list[str], record: Path) -> str:
    """The code on a card with its four pictures and its words filled in, as in the first line of `record`."""
    code = code_of(card)
    line = json.loads(record.read_text(encoding="utf-8").splitlines()[0])
    for old, new in (
        ('["0.png", "1.png", "2.png", "3.png"]', repr(frames)),
        ('"context, empty line, question"', repr(f"{line['context']}\n\n{line['question']}".strip())),
    ):
        assert old in code, old
        code = code.replace(old, new)
    return code


def run_card(folder: str, code: str, answer: str) -> None:
    """Run a card's code where Trainyard runs; its answer to a file. On a CPU with AVX512-BF16 plain bitsandbytes packs
    the weights for other kernels: they round otherwise, and fail where a width is no multiple of a block."""
    import bitsandbytes.nn.modules as linears

    linears.has_avx512bf16 = lambda: False
    os.chdir(folder)
    said: list[str] = []
    exec(code, {"print": said.append})
    Path(answer).write_text("".join(said), encoding="utf-8")
