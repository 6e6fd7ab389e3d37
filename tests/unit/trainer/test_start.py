"""What a process of a training asks of the libraries before it loads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from paths import ROOT

from trainer.node import late_imports
from trainer.start_clock import StartClock

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


def test_the_parts_of_a_start_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([101.0, 103.5, 104.0])
    monkeypatch.setenv("TRAINYARD_ATTEMPT_BEGAN", "100.0")
    cpu_seconds = iter([0.75, 2.75, 3.0])
    monkeypatch.setattr("time.time", lambda: next(seconds))
    monkeypatch.setattr("time.process_time", lambda: next(cpu_seconds))
    clock = StartClock()
    clock.passed("processes")
    clock.passed("libraries")
    said = "the first step was done 4.0 s after the start: processes 1.0, libraries 2.5, first step 0.5"
    assert clock.first_step() == said
    assert clock.parts == {"processes": (1.0, 0.75), "libraries": (2.5, 2.0), "first step": (0.5, 0.25)}


LIBRARIES = """
import io, json, os, sys
from types import SimpleNamespace
from trainer.node import start
start.load_only_weights = lambda: None
before = dict(os.environ)
sys.stderr = io.StringIO()
start.prepare_libraries(SimpleNamespace(device=sys.argv[1]))
print(json.dumps({name: text for name, text in os.environ.items() if before.get(name) != text}))
"""
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}


@pytest.mark.parametrize(
    ("device", "given", "told"),
    [
        ("cuda", {}, QUIET),
        ("cpu", {}, {**QUIET, "DS_ACCELERATOR": "cpu"}),
        ("cpu", {"DS_ACCELERATOR": "mine", **dict.fromkeys(QUIET, "0")}, {}),
    ],
)
def test_libraries_are_told_what_nobody_else_has_told_them(
    device: str, given: dict[str, str], told: dict[str, str]
) -> None:
    ours = {"DS_ACCELERATOR", *QUIET}
    environ = {name: text for name, text in os.environ.items() if name not in ours}
    words = [sys.executable, "-c", LIBRARIES, device]
    done = subprocess.run(words, cwd=ROOT, env={**environ, **given}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == told


LATE = """
import gc, json, os, sys
from trainer.node.late_imports import compiled_when_called, import_late, uncollected
with uncollected():
    import_late()
    import trainer.training.run
    collected = gc.isenabled()
from trainer.node.late_imports import _LateModule
found = ["torch._inductor.compile_fx" in sys.modules, "wandb.sdk" in sys.modules, type(sys.modules["wandb"]).__name__]
import torch, wandb
found += [callable(wandb.init), "wandb.sdk" in sys.modules, type(wandb) is _LateModule]
compiled = []
real, torch.compile = torch.compile, lambda function, **options: compiled.append(options) or function
with compiled_when_called():
    @torch.compile(dynamic=False)
    def double(number): return 2 * number
    @torch.compile
    def halve(number): return number / 2
found += [len(compiled), double(4), double(5), halve(4), compiled]
from accelerate.utils import extract_model_from_parallel
plain = torch.nn.Linear(1, 1)
found += [extract_model_from_parallel(plain) is plain, "deepspeed.comm" in sys.modules]
found += [collected, gc.isenabled(), gc.get_freeze_count() > 100_000]
from pathlib import Path
import transformers, transformers.models
from transformers.utils.import_utils import create_import_structure_from_path as read, define_import_structure
models = Path(transformers.__file__).parent / "models"
folders = sum("__init__.py" in files for _, _, files in os.walk(models))
found += [folders <= read.cache_info().misses < 2 * folders]
found += [define_import_structure(models / "gemma3" / "__init__.py") == define_import_structure(models / "gemma3")]
print(json.dumps(found))
"""
WITH_DEEPSPEED = """
import sys
from trainer.node.late_imports import import_late
import_late()
print(sorted({"deepspeed", "wandb"} & {*sys.modules}))
"""


@pytest.mark.slow
def test_a_rank_loads_neither_torchs_compiler_nor_wandbs_client_nor_deepspeed_before_it_needs_them() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LATE], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        False, False, "_LateModule", True, True, False, 0, 8, 10, 2.0, [{"dynamic": False}, {}],
        True, False, False, True, True, True, True,
    ]  # fmt: skip


def test_a_thread_that_asks_a_late_module_while_another_loads_it_waits_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "gate", SimpleNamespace(began=began, go_on=go_on))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "loaded_late.py").write_text(
        "import gate, loaded_late\n"
        "kept = getattr(loaded_late, 'value', 'not yet')\n"
        "gate.began.set()\n"
        "gate.go_on.wait(60)\n"
        "value = 7\n"
    )
    late_imports._put_off("loaded_late", {})
    try:
        module, found = sys.modules["loaded_late"], list[int]()
        threads = [threading.Thread(target=lambda: found.append(module.value)) for _ in range(2)]
        threads[0].start()
        assert began.wait(60)
        threads[1].start()
        threads[1].join(0.2)
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert (found, module.kept, type(module)) == ([7, 7], "not yet", ModuleType)
    finally:
        del sys.modules["loaded_late"]


@pytest.mark.slow
def test_under_deepspeed_its_library_is_loaded_as_ever() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITH_DEEPSPEED], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['wandb']"
