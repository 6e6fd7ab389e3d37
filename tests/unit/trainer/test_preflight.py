"""The look at a node before the launcher starts, through the real supervisor. The GPUs, the driver and the CUDA build
of torch are stand-ins: an `nvidia-smi` on PATH that prints, and a folder called torch with a version file."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm
from toy_project import make_toy_project, toy_argv

from trainer.log import bare

HOST = socket.gethostname()
A100 = "GPU-{n}, NVIDIA A100-PCIE-40GB, 40960, {free}, {cap}"


class Node:
    """A toy project, and what `nvidia-smi` says on its node."""

    def __init__(self, folder: Path) -> None:
        self.project = make_toy_project(folder / "project")
        self.bin = folder / "bin"
        self.bin.mkdir()
        (folder / "home").mkdir()
        self.environ = {
            **warm.around(), "PATH": f"{self.bin}:{os.environ['PATH']}", "HF_HOME": str(folder / "home"),
        }  # fmt: skip
        self.folder = folder

    def smi(self, *gpus: str, cuda: str = "13.0", script: str = "") -> None:
        table = "\n".join(gpus)
        program = self.bin / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\n{script}\ncase $1 in --query*) cat <<'E'\n{table}\nE\n;;\n"
            f"*) echo '| NVIDIA-SMI 580.95  Driver Version: 580.95  CUDA Version: {cuda} |';;\nesac\n"
        )
        program.chmod(0o755)

    def torch(self, cuda: str = "'13.0'") -> None:
        (self.project / "torch").mkdir(exist_ok=True)
        (self.project / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')\n")
        (self.project / "torch" / "version.py").write_text(
            f"from typing import Optional\ncuda: Optional[str] = {cuda}\n"
        )

    def run(self, *, processes: int = 1, nodes: int = 1, **options: object) -> tuple[int, str]:
        argv = toy_argv(
            options.pop("output_dir", "runs/toy"), processes=processes, nodes=nodes, max_steps=1, step_s=0, **options
        )  # fmt: skip
        done = warm.run("trainer.supervise", "--", *argv, cwd=self.project, environ=self.environ)
        return done.returncode, bare(done.stderr).strip()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def gpu(n: int = 0, free: int = 40000, cap: str = "8.0") -> str:
    return A100.format(n=n, free=free, cap=cap)


def test_a_node_as_planned_runs_and_torch_is_not_imported(node: Node) -> None:
    node.smi(gpu(0))
    node.torch()
    node.environ |= {"TRAINYARD_VRAM_GIB": "40", "TRAINYARD_PEAK_GIB": "20", "CUDA_VISIBLE_DEVICES": "GPU-0"}
    assert node.run(device="cuda", model=str(node.folder)) == (0, "")


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"])
def test_a_slice_of_a_card_is_taken_though_the_card_is_not_told_of(name: str, node: Node) -> None:
    node.smi("GPU-0, NVIDIA A100-SXM4-80GB, [Insufficient Permissions], [Insufficient Permissions], 8.0")
    node.torch()
    node.environ.pop("CUDA_VISIBLE_DEVICES", None)
    node.environ |= {"TRAINYARD_VRAM_GIB": "40", "TRAINYARD_PEAK_GIB": "20", name: "MIG-1b2c"}
    assert node.run(device="cuda", model=str(node.folder)) == (0, "")


def test_a_gpu_that_does_not_answer_is_no_matter_where_the_job_does_not_see_it(node: Node) -> None:
    node.smi("GPU-9, NVIDIA A100, [Unknown Error], [Unknown Error], 8.0", gpu(1))
    node.torch()
    node.environ["CUDA_VISIBLE_DEVICES"] = "1"
    assert node.run(device="cuda", model=str(node.folder)) == (0, "")


def test_a_gpu_that_shares_the_hosts_memory_is_held_to_the_hosts(node: Node) -> None:
    node.smi("GPU-0, NVIDIA GB10, [N/A], [N/A], 12.1")
    node.torch()
    node.environ |= {"TRAINYARD_VRAM_GIB": "1", "TRAINYARD_PEAK_GIB": "0.1"}
    assert node.run(device="cuda", model=str(node.folder)) == (0, "")
    node.environ["TRAINYARD_VRAM_GIB"] = "9000"
    code, said = node.run(device="cuda", model=str(node.folder))
    assert code == 78 and said.startswith("trainyard: planned for GPUs of 9000 GiB, NVIDIA GB10 on ")


@pytest.mark.parametrize(
    ("gpus", "environ", "cuda", "code", "message"),
    [
        ([gpu()], {}, "12.4", 78, f"torch is built for CUDA 13.0, and the driver of {HOST} supports 12.4 at most: "
         "use nodes with a newer driver, or a torch built for that CUDA"),
        ([gpu()], {}, "13.0", 78, f"2 GPUs a node were planned, {HOST} shows 1: GPUS=1"),
        ([gpu(0), gpu(1)], {"CUDA_VISIBLE_DEVICES": "1"}, "13.0", 78,
         f"2 GPUs a node were planned, {HOST} shows 1: GPUS=1"),
        ([gpu()], {"CUDA_VISIBLE_DEVICES": "0,1"}, "13.0", 1,
         f"{HOST}: CUDA_VISIBLE_DEVICES names GPU 1, nvidia-smi lists 1"),
        ([gpu(0), gpu(1, cap="7.5")], {}, "13.0", 78,
         "NVIDIA A100-PCIE-40GB (compute capability 7.5) has no bf16: use a GPU of 8.0 or newer"),
        ([gpu(0), gpu(1)], {"TRAINYARD_VRAM_GIB": "80"}, "13.0", 78,
         f"planned for GPUs of 80 GiB, NVIDIA A100-PCIE-40GB on {HOST} has 40.0: VRAM=40"),
        ([gpu(0), gpu(1, free=3072)], {"TRAINYARD_PEAK_GIB": "14.7"}, "13.0", 1,
         f"{HOST}: GPU 1 (NVIDIA A100-PCIE-40GB) has 3.0 of 40.0 GiB free, the plan needs 14.7: "
         "another process is on it"),
        ([gpu(0), "GPU-1, [Unknown Error], [N/A], [N/A], [N/A]"], {}, "13.0", 1,
         f"{HOST}: GPU 1 does not answer: nvidia-smi says GPU-1, [Unknown Error], [N/A], [N/A], [N/A]"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_gpus_is_one_line(
    gpus: list[str], environ: dict[str, str], cuda: str, code: int, message: str, node: Node
) -> None:
    node.smi(*gpus, cuda=cuda)
    node.torch()
    node.environ |= environ
    assert node.run(device="cuda", processes=2) == (code, f"trainyard: {message}")


def test_a_wandb_mode_that_there_is_not_is_78(node: Node) -> None:
    node.environ["WANDB_MODE"] = "ofline"
    said = "trainyard: WANDB_MODE=ofline: takes online, offline, disabled, shared, dryrun, run, did you mean offline?"
    assert node.run(device="cpu") == (78, said)


def test_a_driver_that_fails_is_a_sick_node(node: Node) -> None:
    node.smi(script="echo 'Unable to determine the device handle: GPU is lost'; exit 15")
    node.torch()
    assert node.run(device="cuda") == (
        1, f"trainyard: {HOST}: nvidia-smi failed (15): Unable to determine the device handle: GPU is lost"
    )  # fmt: skip


def test_cpu_torch_under_a_cuda_plan_is_78(node: Node) -> None:
    node.smi(gpu())
    node.torch(cuda="None")
    assert node.run(device="cuda") == (
        78,
        "trainyard: device cuda was planned, and torch here is without CUDA: make env TORCH=cuda, or DEVICE=cpu",
    )


def test_folders_that_cannot_be_written_are_named(node: Node) -> None:
    (node.folder / "file").touch()
    asked = f"{node.folder}/file/runs"
    assert node.run(device="cpu", output_dir=asked) == (
        78, f"trainyard: output folder {asked} cannot be written (Not a directory): give another, or make it yours"
    )  # fmt: skip
    node.environ["TMPDIR"] = "/no/such/scratch"
    assert node.run(device="cpu") == (
        1, f"trainyard: {HOST}: TMPDIR folder /no/such/scratch cannot be written (No such file or directory)"
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_a_sick_node(node: Node) -> None:
    disk = node.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], check=True)
    try:
        code, message = node.run(device="cpu", output_dir=f"{disk}/runs")
        assert code == 1
        assert message == (f"trainyard: {HOST}: output folder {disk}/runs has 0.00 GiB free, 1.00 are the least")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, int], list[str]]]:
    """A stand-in for the hub: (address, answers by model, tokens seen)."""
    answers: dict[str, int] = {}
    tokens: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            tokens.append(self.headers.get("Authorization", ""))
            self.send_response(answers[self.path.split("/")[2]])
            self.send_header("Location", "http://elsewhere.invalid/with/the/token")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", answers, tokens
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_model_is_here_cached_or_asked_for_at_the_hub(node: Node, hub: tuple[str, dict[str, int], list[str]]) -> None:
    address, answers, tokens = hub
    answers |= {"open": 200, "moved": 307, "gated": 403, "none": 404, "busy": 503}
    node.environ |= {"HF_ENDPOINT": address, "HF_TOKEN": "hf_canary"}
    said = {name: node.run(device="cpu", model=f"org/{name}") for name in answers}
    assert said == {
        "open": (0, ""),
        "moved": (0, ""),
        "gated": (78, "trainyard: MODEL=org/gated: is gated or private and the HF_TOKEN given has no access (403): "
                  f"accept the licence on {address}/org/gated, and put HF_TOKEN of that account into .env "
                  "(on Kubernetes: the Secret)"),
        "none": (78, f"trainyard: MODEL=org/none: not on {address}, and no folder here"),
        "busy": (1, f"trainyard: {HOST}: {address} answers 503 for org/busy, which is not in the cache"),
    }  # fmt: skip
    assert tokens == ["Bearer hf_canary"] * 5
    node.environ["HF_HUB_OFFLINE"] = "1"
    cache = f"{node.folder}/home/hub"
    assert node.run(device="cpu", model="org/open") == (
        78, f"trainyard: MODEL=org/open: is not in the hub cache ({cache}), and HF_HUB_OFFLINE is set: download it"
    )  # fmt: skip
    snapshot = Path(cache, "models--org--open", "snapshots", "abc")
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    index = snapshot / "model.safetensors.index.json"
    for name, text, lacking in (
        ("adapter_model.safetensors", "", f"the folder has neither model.safetensors nor {index.name}"),
        (index.name, '{"weight_map": {"w": "adapter_model.safetensors", "x": "model-2.safetensors"}}',
         f"lacks 'model-2.safetensors', which {index.name} lists"),
    ):  # fmt: skip
        (snapshot / name).write_text(text)
        said = f"trainyard: MODEL=org/open: in the hub cache ({cache}) {lacking}: download it"
        assert node.run(device="cpu", model="org/open") == (78, said)
    (snapshot / "model-2.safetensors").touch()
    assert node.run(device="cpu", model="org/open") == (0, "")


def test_a_hub_out_of_reach_says_how_to_bring_the_model(node: Node) -> None:
    node.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    code, message = node.run(device="cpu", model="org/some")
    assert code == 1
    assert message.startswith(f"trainyard: {HOST}: http://127.0.0.1:9 cannot be reached (")
    assert message.endswith("with the same HF_HOME: hf download org/some")


def test_a_meeting_port_in_use_is_a_sick_first_node(node: Node) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        node.environ |= {"SLURM_PROCID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        assert node.run(device="cpu", processes=2, nodes=2) == (
            1, f"trainyard: {HOST}: MASTER_PORT={port} cannot be listened on (Address already in use): "
            "the nodes cannot meet"
        )  # fmt: skip


@pytest.mark.slow
def test_a_stop_while_the_first_pod_has_no_name_yet_is_75(node: Node) -> None:
    node.smi(gpu(0), script=f"touch {node.folder}/asked")
    node.torch()
    node.environ |= {"MASTER_ADDR": "run-0.run.invalid", "MASTER_PORT": "29500", "JOB_COMPLETION_INDEX": "1"}
    argv = toy_argv("runs/toy", device="cuda", processes=2, nodes=2, model=node.folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.supervise", "--", *argv],
        cwd=node.project, env=node.environ, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (node.folder / "asked").exists():
        time.sleep(0.02)
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert (process.returncode, bare(said)) == (75, "trainyard: asked to stop by SIGTERM\n")  # the first node says more


@pytest.mark.slow
def test_a_stop_during_the_look_is_75(node: Node) -> None:
    node.smi(script=f"touch {node.folder}/asked; sleep 2")
    node.torch()
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.supervise", "--", *toy_argv("runs/toy", device="cuda")],
        cwd=node.project, env=node.environ, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (node.folder / "asked").exists():
        time.sleep(0.02)
    node.smi(gpu())
    process.terminate()
    _, said = process.communicate()
    assert (process.returncode, bare(said)) == (
        75,
        "trainyard: asked to stop by SIGTERM\n"
        "trainyard: stopped before training began: run again to go on from there\n",
    )
