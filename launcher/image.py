"""The paths in the image. docker/Dockerfile makes these places; docker-run, slurm and k8s mount and set them.

The working directory looks like a checkout, with `accelerate_configs/` in it, so that a plan's command line and
relative paths are the same inside and outside. Only RUNS_DIR, CACHE_DIR and TMP_DIR need to be writable; the image
works under any uid and with a read-only root.
"""

from __future__ import annotations

from trainer import __version__

UID = 10001
"""The image's user and group, numeric so that Kubernetes can see that it is not root."""

PYTHON = "/opt/trainyard/bin/python"
SUPERVISE = (PYTHON, "-m", "trainer.supervise", "--")
"""The image's entry point; its arguments are a plan's `accelerate launch ...`."""

WORK_DIR = "/workspace"
RUNS_DIR = f"{WORK_DIR}/runs"  # writable: checkpoints, logs, results
DATA_DIR = f"{WORK_DIR}/data"  # may be read-only
CACHE_DIR = "/cache"  # writable; worth keeping between runs, since it holds downloaded models
TMP_DIR = "/tmp"

ENVIRONMENT = {
    "HOME": f"{CACHE_DIR}/home",
    "HF_HOME": f"{CACHE_DIR}/huggingface",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE_DIR}/inductor",
    "TORCH_EXTENSIONS_DIR": f"{CACHE_DIR}/torch_extensions",
    "TRITON_CACHE_DIR": f"{CACHE_DIR}/triton",
    "WANDB_CACHE_DIR": f"{CACHE_DIR}/wandb",
    "WANDB_CONFIG_DIR": f"{CACHE_DIR}/wandb/config",
    "WANDB_DATA_DIR": f"{CACHE_DIR}/wandb/data",
    "XDG_CACHE_HOME": f"{CACHE_DIR}/xdg",
    "TMPDIR": TMP_DIR,
}
"""Every writable place by the variable that names it. The image sets only these variables, so that it never overrides
a scheduler's environment."""


def local_name(device: str) -> str:
    """The name that `make image` gives the image for cuda or cpu."""
    return f"trainyard:{__version__}{'-cpu' if device == 'cpu' else ''}"
