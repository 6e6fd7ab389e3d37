"""What a process of a training asks of the libraries before it loads them."""

from __future__ import annotations

import json
import subprocess
import sys

from paths import ROOT

PROGRAM = """
import io, json, os, sys
from types import SimpleNamespace
from trainer.node import start
start.load_only_weights = lambda: None
class Stream(io.StringIO):
    def isatty(self): return terminal
found = []
for terminal, rank in ((True, "0"), (True, "1"), (False, "0"), (False, "1")):
    os.environ.pop("TQDM_DISABLE", None); os.environ.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)
    os.environ["RANK"] = rank
    real, sys.stderr = sys.stderr, Stream()
    start.prepare_libraries(SimpleNamespace(device="cuda"))
    sys.stderr = real
    found.append([os.environ.get("TQDM_DISABLE"), os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")])
print(json.dumps(found))
"""


def test_only_the_first_rank_at_a_terminal_shows_the_libraries_bars() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [[None, None], ["1", "1"], ["1", "1"], ["1", "1"]]
