"""Which of the two names of the allocator's variable counts where both are set, and do expandable segments work?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.gpu_proof.stage import Stage

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
ASK = """
import json, torch
kept = torch.empty(1 << 26, device="cuda")
print(json.dumps([bool(segment.get("is_expandable")) for segment in torch.cuda.memory_snapshot()]))
"""


def carry_out(stage: Stage) -> dict[str, Any]:
    if stage.rehearsal:
        return {"left_out": "torch has this allocator on GPUs only"}
    return {
        f"{NAMES[0]}={first}, {NAMES[1]}={second}": expandable(dict(zip(NAMES, (first, second), strict=True)))
        for first in (None, True, False)
        for second in (None, True, False)
    }


def expandable(asked: dict[str, bool | None]) -> bool:
    """Whether a process with these settings takes expandable segments."""
    environment = {name: text for name, text in os.environ.items() if name not in NAMES}
    environment |= {name: f"expandable_segments:{on}" for name, on in asked.items() if on is not None}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    return all(json.loads(done.stdout.splitlines()[-1]))
