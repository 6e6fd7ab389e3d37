"""Starts the only process of a job as `accelerate launch` would start it, but without loading torch first.

For a job of one process accelerate's launcher does nothing but set variables, and it imports torch before it does;
the process that it starts then imports torch again. A test compares the variables with accelerate's own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from trainer.launch import Launch
from trainer.yaml_file import read_yaml

FIXED = {
    "compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "num_processes": 1, "num_machines": 1,
    "machine_rank": 0,
}  # fmt: skip
"""The keys of a configuration of one process, without those that its process is told."""
TOLD = {"mixed_precision", "use_cpu"}
CPU = "--cpu"
NO_COMPILER = {
    "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
}  # fmt: skip
ON_CPU = {"KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1"}


def alone(launch: Launch, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]] | None:
    """(command, variables) of the job's only process; None when `accelerate launch` has more to do than to set them."""
    configuration = Path(launch.configuration)
    if launch.processes != 1 or launch.machines != 1 or set(launch.overrides) - {CPU} or not configuration.is_file():
        return None
    found = read_yaml(configuration, launch.configuration, takes="accelerate's settings", typed=True)
    if set(found) != {*FIXED, *TOLD} or any(found[name] != value for name, value in FIXED.items()):
        return None
    on_cpu = CPU in launch.overrides or found["use_cpu"]
    variables = {
        "ACCELERATE_USE_CPU": str(on_cpu),
        "ACCELERATE_MIXED_PRECISION": found["mixed_precision"],
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", "1"),
        **NO_COMPILER,
        **(ON_CPU if on_cpu else {}),
    }
    return [sys.executable, "-m", launch.module, *launch.setting_words()], variables
