"""One row in this process: python -m benchmarks.gpu_proof.row NAME FOLDER RESULT [--rehearse]"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from benchmarks.gpu_proof.rows import ROWS
from benchmarks.gpu_proof.stage import Stage, set_up, stage_in
from trainer.files import write_whole


def main(name: str, folder: str, result: str, *options: str) -> None:
    def write(found: dict[str, Any]) -> None:
        write_whole(Path(result), json.dumps({"found": found}))

    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    if options:
        os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    else:
        os.environ |= {"ACCELERATE_MIXED_PRECISION": "bf16", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    rows = {row.name: row for row in ROWS}
    if name in rows:
        row = rows[name]
        answer = resolve_name(f"benchmarks.gpu_proof.{row.module}:carry_out")(stage_in(folder), **row.settings)
        # A long row answers in parts: what is there when its time is up counts.
        parts = answer if isinstance(answer, Iterator) else (answer,)
        for found in parts:
            write(found)
    else:
        set_up(Stage(folder=folder, rehearsal=bool(options)), (330, *lengths()))
        write({})


def lengths() -> list[int]:
    return sorted({row.settings["tokens"] for row in ROWS if "tokens" in row.settings} - {330})


if __name__ == "__main__":
    main(*sys.argv[1:])
