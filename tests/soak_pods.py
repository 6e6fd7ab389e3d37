"""The pod bed of tests/soak.py: one run on an API server of its own, whose pods podman runs from the image.

The real kubectl, the manifest, the image's supervisor, the stop protocol, the checkpoints and W&B's client take part;
the Job controller and the kubelet are those of tests/helpers (job_controller.py, kubelet.py), and so is the training
(toy_project.py), unless the whole trainer fine-tunes the demo's tiny model. Whoever looks after the run types the
command that `make status` names.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkouts import make_checkout
from image import Image
from kube import Cluster
from kubelet import Kubelet
from pods import Containers, Pod
from programs import until
from soaking import LONGEST_S, Lost, check_goes_on, check_toy, damage_newest, remove_newest, steps, summary, whole
from toy_project import make_snapshot, make_toy_project
from wandb_server import Service

WORDS = ("--image", "registry.example.org/trainyard:0.1.0", "--device", "cpu", "--cpus", "2")
ASK_EVERY_S = 2.0
WORK_DIR = "/workspace"


@dataclass
class Soak:
    """The run, and what happened to it."""

    cluster: Cluster
    kubelet: Kubelet
    random: random.Random
    longest_s: float
    """For what a fault brings about."""
    faults: list[str] = field(default_factory=list)
    typed: list[str] = field(default_factory=list)
    """What was typed, as status said it."""
    newest: int = 0
    """The last step whose checkpoint was seen whole and that nobody has removed since."""
    attempts: list[str] = field(default_factory=list)
    """The names of the pods that have run."""

    @property
    def claim(self) -> Path:
        return self.kubelet.containers.folder / "claim"

    @property
    def folder(self) -> Path:
        return self.claim / "runs" / "soak"

    def pod(self) -> tuple[str, Pod]:
        """The pod that runs. Raises Lost when there is none."""
        if self.kubelet.error:
            raise Lost(f"the bed itself: {self.kubelet.error!r}")
        running = list(self.kubelet.running.items())
        if len(running) != 1:
            raise Lost(f"{len(running)} pods run")
        return running[0]

    @property
    def is_complete(self) -> bool:
        jobs = self.cluster.objects("jobs")
        return any(self.kubelet.controller.condition(job) == "Complete" for job in jobs)

    @property
    def are_complete(self) -> bool:
        """Whether every run has a Job that is complete."""
        conditions = {job: self.kubelet.controller.condition(job) for job in self.cluster.objects("jobs")}
        runs = {job.partition("--")[0] for job in conditions}
        return runs == {job.partition("--")[0] for job, condition in conditions.items() if condition == "Complete"}

    def verb(self, *words: str) -> str:
        done = self.cluster.k8s(*words)
        if done.returncode:
            raise Lost(f"{words}: {done.stderr}")
        return done.stdout

    def trains(self, *, anew: bool = True) -> None:
        """Until a pod, a new one, has made a step. A person asks for the status now and then, and types what it
        says next."""
        deadline, ask_at = time.monotonic() + self.longest_s, 0.0
        before = set(self.attempts)
        while time.monotonic() < deadline:
            if self.kubelet.error:
                raise Lost(f"the bed itself: {self.kubelet.error!r}")
            if self.is_complete:
                return
            for name, pod in list(self.kubelet.running.items()):
                if (name not in before or not anew) and steps(pod.said()):
                    if name not in self.attempts:
                        self.attempts.append(name)
                        check_goes_on(pod.said(), self.newest)
                    return
            if time.monotonic() > ask_at:
                self.type_next(self.verb("status", "--run", "soak"))
                ask_at = time.monotonic() + ASK_EVERY_S
            time.sleep(0.2)
        raise Lost(f"no step in {self.longest_s} s: {self.verb('status', '--run', 'soak')}")

    def type_next(self, status: str) -> None:
        """Type the command of the last line of `status`, unless it only follows the log."""
        told = status.splitlines()[-1].removeprefix("next   ")
        if "make resume" in told:
            # "make logs ... (what happened), then make resume ...": what happened is a fault of ours.
            done = self.cluster.k8s("resume", "--run", "soak")
            if done.returncode and "try again" not in done.stderr:
                raise Lost(f"{told}: {done.stderr}")
        elif found := re.search(r"kubectl .*?(?= \()", told):
            subprocess.run(["sh", "-c", found[0]], env=self.cluster.environ, capture_output=True, check=True)
        else:
            return
        self.typed.append(told)

    def sees(self) -> None:
        self.newest = max([self.newest, *whole(self.folder)])

    def has_two_checkpoints(self) -> None:
        until(lambda: len(whole(self.folder)) > 1, timeout_s=self.longest_s)

    def until_ended(self, name: str) -> None:
        until(lambda: name not in self.kubelet.running or self.kubelet.error, timeout_s=self.longest_s)


def drained(soak: Soak) -> None:
    soak.kubelet.drain(soak.pod()[0])


def preempted(soak: Soak) -> None:
    soak.kubelet.drain(soak.pod()[0], "PreemptionByScheduler")


def evicted(soak: Soak) -> None:
    soak.kubelet.evict(soak.pod()[0])


def rank_killed(soak: Soak) -> None:
    soak.pod()[1].kill("trainer.train")


def out_of_memory(soak: Soak) -> None:
    """The kernel ends every process of the container."""
    soak.pod()[1].kill()


def node_lost(soak: Soak) -> None:
    name, _ = soak.pod()
    node = soak.cluster.objects("pods")[name]["spec"]["nodeName"]
    soak.kubelet.lose_node(name)
    until(lambda: name not in soak.cluster.objects("pods") or _ask(soak), timeout_s=soak.longest_s)
    soak.kubelet.bring_back(node)


def _ask(soak: Soak) -> None:
    soak.type_next(soak.verb("status", "--run", "soak"))


def server_away(soak: Soak) -> None:
    """Nobody reaches the API server, and the pod trains on."""
    soak.cluster.server.away = True
    done = soak.cluster.k8s("status", "--run", "soak")
    if done.returncode != 1 or done.stderr.count("\n") != 1:
        raise Lost(f"the server is away, and status says {done}")
    time.sleep(soak.random.uniform(0, 4))
    soak.cluster.server.away = False


def cancelled(soak: Soak) -> None:
    soak.verb("cancel", "--run", "soak")


def suspended(soak: Soak) -> None:
    """As Kueue does that takes the quota back, and as an administrator does."""
    name, _ = soak.pod()
    (job,) = [job for job in soak.cluster.objects("jobs").values() if not job["status"].get("conditions")]
    job["spec"]["suspend"] = True
    soak.until_ended(name)


def disk_full(soak: Soak) -> None:
    """The claim has no room, and the pod is drained: nothing can be saved until somebody makes room."""
    name, _ = soak.pod()
    filler = soak.claim / "runs" / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * (1 << 20))
    soak.kubelet.drain(name)
    soak.until_ended(name)
    filler.unlink()


def newest_removed(soak: Soak) -> None:
    """Somebody removes the newest checkpoint, and the run dies before the next."""
    _killed(soak)
    soak.newest = remove_newest(soak.folder)


def newest_damaged(soak: Soak) -> None:
    """As after a failing disk: the one before it is taken, and the damaged one is set aside."""
    _killed(soak)
    soak.newest = damage_newest(soak.folder)


def _killed(soak: Soak) -> None:
    soak.has_two_checkpoints()
    name, pod = soak.pod()
    with soak.cluster.server.lock:  # no next pod before the checkpoint is touched
        soak.kubelet.controller.back_off_s = 5
        pod.kill()
    soak.until_ended(name)
    soak.kubelet.controller.back_off_s = 1


FAULTS: dict[str, Callable[[Soak], None]] = {
    fault.__name__: fault
    for fault in (
        *(drained, preempted, evicted, rank_killed, out_of_memory, node_lost, server_away, cancelled, suspended),
        *(disk_full, newest_removed, newest_damaged),
    )
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run of the soak trains."""

    words: tuple[str, ...]
    """The words of its submit."""
    fill: Callable[[Path, Path], Sequence[str]]
    """Fill the claim, with a folder for other files; returns more words for podman."""
    settings: str = ""
    longest_s: float = LONGEST_S


def _fill_toy(claim: Path, folder: Path) -> Sequence[str]:
    make_snapshot(claim / "huggingface")
    (claim / "data").mkdir()
    (claim / "data" / "train.jsonl").write_text('{"question": "Which button?", "output": "a"}\n')
    toy = make_toy_project(folder / "toy")
    shutil.copytree(toy, folder / "inside")  # the files behind its links: a container does not see this checkout
    mounts = [f"{folder / 'inside' / name}:{WORK_DIR}/{name}:ro" for name in ("trainer", "accelerate")]
    return [word for mount in mounts for word in ("--volume", mount)]


def _fill_whole(claim: Path, folder: Path) -> Sequence[str]:
    from training import built

    from examples.demo.frames import write_dataset
    from examples.demo.tiny import write_tiny_model

    for place in (claim, folder / "checkout"):
        shutil.copytree(built(folder / "tiny", write_tiny_model), place / "models" / "tiny")
    write_dataset(claim / "data" / "walks", episodes=4, eval_episodes=2)
    return ()


TOY = Training(words=("--data", "data/train.jsonl", "--mem", "32"), fill=_fill_toy)
WHOLE = Training(
    words=(
        *("--model", "models/tiny", "--data", "data/walks", "--max-length", "128", "--mem", "4"),
        *("--config-file", "train.yaml"),
    ),
    fill=_fill_whole,
    settings="logging_steps: 1\neval_samples: 2\nscore_samples: 2\nsave_steps: 10\n",
    longest_s=5 * LONGEST_S,  # its libraries alone take half a minute to load
)


@contextlib.contextmanager
def containers(folder: Path, image: Image, service: Service, training: Training) -> Iterator[Containers]:
    """Pods whose claim is a small disk of its own."""
    claim = folder / "pods" / "claim"
    claim.mkdir(parents=True)
    # The preflight wants 1 GiB where the run is kept.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200m", "tmpfs", str(claim)], check=True)
    try:
        more = tuple(training.fill(claim, folder))
        secrets = {"WANDB_API_KEY": service.environment["WANDB_API_KEY"]}
        made = Containers(image=image.name, podman=image.podman, folder=folder / "pods", secrets=secrets, more=more)
        made.prepare()
        yield made
    finally:
        subprocess.run(["umount", "--lazy", str(claim)], check=False)


def soaked(
    image: Image, minutes: float, seed: int, faults: Sequence[str], last_step: int, training: Training = TOY
) -> dict[str, Any]:
    """What came of it. Raises Lost, or AssertionError where something took too long."""
    drawn, began, service = random.Random(seed), time.monotonic(), Service()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trainyard-soak-")))
        stack.callback(service.end)
        folder.chmod(0o755)
        make_checkout(folder / "checkout")
        made = stack.enter_context(containers(folder, image, service, training))
        environment = {
            "TOY_STEP_S": f"{0.4 * minutes * 60 / last_step:g}", "WANDB_MODE": "online",
            "WANDB_BASE_URL": service.address,
        }  # fmt: skip
        (folder / "checkout" / "k8s" / "site.yaml").write_text(json.dumps({"environment": environment}))
        (folder / "checkout" / "train.yaml").write_text(training.settings)
        cluster = stack.enter_context(Cluster.started(folder / "checkout", folder / "cluster"))
        soak = Soak(cluster, stack.enter_context(Kubelet.started(cluster.server, made)), drawn, training.longest_s)
        words = (*WORDS, *training.words, "--max-steps", str(last_step), "--run")
        soak.verb("submit", *words, "soak")
        soak.trains()
        order: list[str] = []
        first_step_at = time.monotonic()
        while time.monotonic() - first_step_at < minutes * 60 and not soak.is_complete:
            time.sleep(drawn.uniform(1, 6))
            if soak.is_complete or len(soak.kubelet.running) != 1:
                break
            if not order:  # each once before any comes again
                order = drawn.sample(list(faults), len(faults))
            soak.sees()
            fault = order.pop()
            at = f"{time.monotonic() - began:6.0f} s  step {steps(soak.pod()[1].said()):4}"
            print(f"{at}  {fault}", file=sys.stderr, flush=True)
            FAULTS[fault](soak)
            soak.faults.append(fault)
            soak.trains(anew=fault != server_away.__name__)
        until(
            lambda: soak.is_complete or soak.kubelet.error, lambda: soak.verb("status"), minutes * 60 + soak.longest_s
        )
        lines = soak.verb("status", "--run", "soak").splitlines()
        if " COMPLETED" not in lines[-4] + lines[-5] or soak.kubelet.running:
            raise Lost(f"{len(soak.kubelet.running)} pods run, and status says\n" + "\n".join(lines))
        kept = (soak.folder / "logs" / "node-0.log").read_text()
        if (count := kept.count("loading libraries")) < len(soak.attempts):
            raise Lost(f"{len(soak.attempts)} attempts have made a step, and the log of {count} is kept")
        record = summary(
            soak.folder, service, soak.faults, last_step, minutes=minutes, seed=seed,
            took_s=round(time.monotonic() - began), attempts=count, typed=len(soak.typed),
            kubectl=cluster.kubectl("version", "--client").stdout.split()[2],
        )  # fmt: skip
        if training is TOY:
            check_toy(soak.folder, last_step)
            return record
        soak.verb("submit", *words, "calm")
        until(lambda: soak.are_complete or soak.kubelet.error, lambda: soak.verb("list"), minutes * 60 + soak.longest_s)
        calm = soak.folder.with_name("calm")
        if _adapter(soak.folder) != _adapter(calm):
            raise Lost("the adapter is not, bit for bit, that of a run without faults")
        return {**record, "adapter": "bit for bit that of a run without faults"}


def _adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()
