"""What can be found out about a node in seconds, before anything heavy is started there. No torch.

The supervisor asks on every node, before the launcher. What the request gets wrong is a ConfigError (78: never run
again); what only this node gets wrong is a SickNode (1), which names it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.node.gpus import check_gpus
from trainer.node.hub import cached_config, hub_cache
from trainer.node.stop import asked_to_stop
from trainer.outcome import ConfigError, SickNode, node_name, node_rank
from trainer.text import GIB, gib, nearest

MIB = 1024**2
LEAST_FREE_BYTES = {"output": GIB, "hub cache": GIB, "TMPDIR": 256 * MIB}
HUB_TIMEOUT_S = 10
WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")  # what its client takes
NAME_TIMEOUT_S = 300  # for the first node to have one
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def check_node(options: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Look at this node against the options of the planned `accelerate launch ...`.

    Raises:
        ConfigError: no node could run this.
        SickNode: this one cannot.
    """
    mode = environ.get("WANDB_MODE") or "offline"
    if mode not in WANDB_MODES:
        raise ConfigError(f"WANDB_MODE={mode}: takes {', '.join(WANDB_MODES)}{nearest(mode, WANDB_MODES)}")
    if output := options.get("--output_dir"):
        check_folder("output", Path(output), shared=True)
    check_folder("TMPDIR", Path(environ.get("TMPDIR") or tempfile.gettempdir()), shared=False)
    nodes = int(options.get("--num_machines", "1"))
    if options.get("--device") == "cuda":
        check_gpus(int(options.get("--num_processes", "1")) // nodes, environ)
    if nodes > 1:
        check_rendezvous(environ)
    if model := options.get("--model"):
        check_model(model, environ)


def check_folder(what: str, folder: Path, *, shared: bool) -> None:
    """Whether a file can be written in `folder` (or where it will be made), with room for more."""
    there = folder
    while shared and not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
            file.flush()
        free = shutil.disk_usage(there).free
    except OSError as error:
        message = f"{what} folder {folder} cannot be written ({error.strerror})"
        if shared and error.errno not in (*NO_SPACE, errno.EIO, errno.ESTALE):
            raise ConfigError(f"{message}: give another, or make it yours") from None
        raise SickNode(message) from None
    if free < LEAST_FREE_BYTES[what]:
        raise SickNode(f"{what} folder {folder} has {gib(free)} GiB free, {gib(LEAST_FREE_BYTES[what])} are the least")


def check_rendezvous(environ: Mapping[str, str]) -> None:
    """Where the nodes meet: a name that resolves and, on the first node, a free port.

    A pod's name appears when the pod has a node, which the first may get long after the others.
    """
    address, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    deadline = time.monotonic() + NAME_TIMEOUT_S
    while not (resolves(address) or environ.get("SLURM_LAUNCH_NODE_IPADDR") or asked_to_stop(environ)):
        if time.monotonic() > deadline:
            raise SickNode(f"MASTER_ADDR={address} did not resolve within {NAME_TIMEOUT_S} s: the nodes cannot meet")
        time.sleep(1)
    try:
        if not node_rank(environ):
            socket.create_server(("", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SickNode(f"MASTER_PORT={port} cannot be listened on ({reason}): the nodes cannot meet") from None


def resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def check_model(model: str, environ: Mapping[str, str]) -> None:
    """A folder, or a hub id whose weights are in the cache or can be had."""
    if Path(model).is_dir():
        return
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith("."):
        raise ConfigError(f"MODEL={model}: no such folder on {node_name()}")
    config = cached_config(model, environ)
    if config is not None and any(config.parent.glob("*.safetensors")):
        return
    if environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        raise ConfigError(
            f"MODEL={model} is not in the hub cache ({hub_cache(environ)}), and HF_HUB_OFFLINE is set: "
            "download it first"
        )
    check_folder("hub cache", hub_cache(environ), shared=True)
    _ask_hub(model, environ)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect says enough, and following it would hand the token to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _ask_hub(model: str, environ: Mapping[str, str]) -> None:
    hub = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    request = urllib.request.Request(f"{hub}/{model}/resolve/main/config.json", method="HEAD")
    token = environ.get("HF_TOKEN") or environ.get("HUGGINGFACE_TOKEN")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        urllib.request.build_opener(_NoRedirect).open(request, timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            have = "the HF_TOKEN given has no access" if token else "no HF_TOKEN is given"
            raise ConfigError(
                f"MODEL={model} is gated or private and {have} ({error.code}): accept the licence on {hub}/{model}, "
                "and put HF_TOKEN of that account into .env (on Kubernetes: the Secret)"
            ) from None
        if error.code == 404:
            raise ConfigError(f"MODEL={model}: not on {hub}, and no folder here") from None
        if error.code >= 400:
            raise SickNode(f"{hub} answers {error.code} for {model}, which is not in the cache") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise SickNode(
            f"{hub} cannot be reached ({reason}) and {model} is not in the hub cache ({hub_cache(environ)}): "
            f"download it where there is network, with the same HF_HOME: hf download {model}"
        ) from None
