"""A Slurm job whose program writes down what it was given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from plans import make_plan

from planner.plan import Plan

# Stands where the supervisor stands: writes down what it was given, and ends as it is told.
TOY = """
import json, os, sys
environ = dict(os.environ)
with open(f"seen-{environ['SLURM_PROCID']}.json", "w") as file:
    json.dump({"argv": sys.argv[1:], "cwd": os.getcwd(), "environ": environ}, file)
os.write(1, f"toy {environ['SLURM_PROCID']} speaks\\n".encode())  # in one piece: print would write word by word
if "sleep" in sys.argv and environ["SLURM_PROCID"] == "0":
    import time
    time.sleep(600)
with open(environ["TRAINYARD_STATUS_FILE"], "w") as file:
    file.write(environ.get("TOY_EXIT", "0"))
sys.exit(int(environ.get("TOY_EXIT", "0")))
"""


def toy_project(folder: Path, flavour: str = "cpu") -> Path:
    """A project folder whose `trainer.supervise` is the toy."""
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer" / "supervise.py").write_text(TOY)
    python = folder / ".venv" / flavour / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / flavour / ".made").touch()
    return folder


def toy_plan(folder: Path, records: Path, **options: Any) -> Plan:
    request = {"device": "cpu", "data": str(records), "name": "toy", "run_id": "toy-1", "cpus": 2, "mem_gib": 1}
    return make_plan(project_dir=str(toy_project(folder)), **{**request, **options})


def seen_by(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("seen-*.json"))]
