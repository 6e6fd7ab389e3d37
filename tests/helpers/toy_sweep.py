"""A sweep whose members are toys of different lengths. Each waits at its tenth step for the project's file `go`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plans import ENV, make_plan
from toy_project import toy_argv

from launcher.grid import Sweep


def toy_sweep(project: Path, records: Path, *, count: int, parallel: int, **request: Any) -> Sweep:
    given: dict[str, Any] = {
        "project_dir": str(project), "device": "cpu", "data": str(records), "name": "toy", "gpus": 0,
        "cpus": 1, "mem_gib": 32, "time_limit_min": 10, "sweep": "toys", **request,
    }  # fmt: skip
    plans = []
    for index in range(count):
        spec = make_plan(run_id=f"toys-{index}", **given).spec
        argv = toy_argv(spec.run_dir, max_steps=40 + index, step_s=0.05, waits_at=10)
        plans.append(make_plan(run_id=f"toys-{index}", argv=argv, env=ENV, **given))
    values = tuple({"MAX_STEPS": str(40 + index)} for index in range(count))
    return Sweep(sweep_id="toys", values=values, plans=tuple(plans), parallel=parallel)
