"""Checks of a node that take seconds, before any heavy process starts on it. No torch.

The supervisor runs them on every node, before the launcher. A mistake in the request is a ConfigError (78: never run
again); a fault of this node alone is a SickNode (1), which names the node.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from trainer.architecture.folder import check_weights
from trainer.launch import Launch
from trainer.node.gpus import check_gpus
from trainer.node.model_folder import wrong_file
from trainer.node.stop import asked_to_stop
from trainer.outcome import ConfigError, SickNode, node_name, node_rank
from trainer.text import GIB, gib, nearest

LEAST_FREE_BYTES = {"output": GIB, "hub cache": GIB, "TMPDIR": GIB // 4}
OF_THIS_NODE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
"""Errors of writing to a folder that other nodes may not have."""
HUB_TIMEOUT_S = 10
WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")  # the modes of W&B's client
MEETING_TIMEOUT_S = 300  # for the first node to get a name, for every node, and then for every process to come


def check_node(launch: Launch) -> None:
    """Check this node against the planned command.

    Raises:
        ConfigError: no node could run the command.
        SickNode: this node cannot run it.
    """
    mode = os.environ.get("WANDB_MODE") or "offline"
    if mode not in WANDB_MODES:
        raise ConfigError(f"takes {', '.join(WANDB_MODES)}{nearest(mode, WANDB_MODES)}", name="WANDB_MODE", given=mode)
    check_folder("output", launch.settings.get("output_dir", "."))
    check_tmpdir()
    if launch.settings.get("device") == "cuda":
        check_gpus(launch.processes // launch.machines)
    if model := launch.settings.get("model"):
        check_model(model)


def check_tmpdir() -> str:
    return check_folder("TMPDIR", os.environ.get("TMPDIR") or tempfile.gettempdir())


def check_folder(what: str, folder: str) -> str:
    """Check that a file can be written in `folder` (or in the parent in which it will be made), with enough free
    space; returns the result in words. Raises ConfigError or SickNode."""
    there = Path(folder).absolute()
    if what != "TMPDIR":
        there = next(path for path in (there, *there.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
            file.flush()
        free, least = shutil.disk_usage(there).free, LEAST_FREE_BYTES[what]
    except OSError as error:
        message = f"{what} folder {folder} cannot be written ({error.strerror})"
        if what == "TMPDIR" or error.errno in OF_THIS_NODE:
            raise SickNode(message) from None
        raise ConfigError(f"{message}: give another, or make it yours") from None
    if free < least:
        raise SickNode(f"{what} folder {folder} has {gib(free)} GiB free, {gib(least)} are the least")
    return f"{folder} can be written, with room"


def meeting_place(environ: Mapping[str, str]) -> tuple[int, str, str]:
    """(this node's rank, the first node's address, its port), after checking that the nodes can meet.

    A pod's name resolves only when the pod has a node, which the first pod may get long after the others. Names that
    only Slurm knows never resolve, but srun sets the address of the node it was started on.

    Raises:
        ConfigError: no scheduler has set them.
        SickNode: the first node cannot listen, or its name did not resolve.
    """
    rank, address, port = node_rank(environ), environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if rank is None or not address or not port:
        raise ConfigError("several nodes were planned, but SLURM_PROCID, MASTER_ADDR or MASTER_PORT is not set")
    if rank == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise SickNode(f"MASTER_PORT={port} cannot be listened on ({reason}): the nodes cannot meet") from None
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    while True:
        try:
            socket.getaddrinfo(address, None)
            return rank, address, port
        except OSError:
            known = environ.get("SLURM_LAUNCH_NODE_IPADDR")
            if known or asked_to_stop():
                return rank, known or address, port
            if time.monotonic() > deadline:
                raise SickNode(f"MASTER_ADDR={address} did not resolve within {MEETING_TIMEOUT_S} s") from None
            time.sleep(1)


def check_model(model: str, *, weights: bool = True) -> str:
    """Check that `model` is a folder, or a hub id that can be downloaded or is in the cache, its `weights` too;
    returns the result in words. Raises ConfigError or SickNode."""
    found = f"{model} is here or can be had"
    if Path(model).is_dir():
        if wrong := wrong_file(Path(model)):
            raise ConfigError(f"{wrong}: download it again", name="MODEL", given=model)
        return found
    from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    try:
        config = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        raise ConfigError(f"no such folder on {node_name()}", name="MODEL", given=model) from None
    lacking = None
    if isinstance(config, str):
        snapshot = Path(config).parent
        if wrong := wrong_file(snapshot):  # whoever shares the cache may write into it
            advice = f"remove {snapshot}, and download it again"
            raise ConfigError(f"in the hub cache {wrong}", name="MODEL", given=model, advice=advice)
        try:
            if weights:
                check_weights(model, snapshot)
            return found
        except ConfigError as error:
            lacking = error.but(problem=f"in the hub cache ({cache}) {error.problem}", advice="download it")
    if constants.HF_HUB_OFFLINE:
        raise lacking or ConfigError(
            f"is not in the hub cache ({cache}), and HF_HUB_OFFLINE is set: download it", name="MODEL", given=model
        )
    check_folder("hub cache", cache)
    token = get_token()
    try:
        get_hf_file_metadata(hf_hub_url(model, "config.json"), token=token, timeout=HUB_TIMEOUT_S)
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            have = "the HF_TOKEN given has no access" if token else "no HF_TOKEN is given"
            raise ConfigError(
                f"is gated or private and {have} ({status}): accept the licence on {hub}/{model}, "
                "and put HF_TOKEN of that account into .env (on Kubernetes: the Secret)",
                name="MODEL",
                given=model,
            ) from None
        if status == 404:
            raise ConfigError(f"not on {hub}, and no folder here", name="MODEL", given=model) from None
        raise SickNode(f"{hub} answers {status} for {model}, which is not in the cache") from None
    except Exception as error:  # any error of the client when nobody answers
        raise SickNode(
            f"{hub} cannot be reached ({error}) and {model} is not in the hub cache ({cache}): "
            f"download it where there is network, with the same HF_HOME: hf download {model}"
        ) from None
    return found
