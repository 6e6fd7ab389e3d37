"""usage: python tests/soak.py [--minutes 30] [--seed 0] [--beds slurm,pods,trainer] [--faults requeue,...] [--write]

One run on a Slurm of its own (22.05, two nodes) for half of the time, then one on the pod bed (soak_pods.py). Something
happens to each at random moments, drawn from the seed: the job is signalled, requeued, preempted, its processes are
killed, its node goes down, the controller restarts, the disk fills up, its newest checkpoint is removed. Whoever looks
after it types what `make status` says: a job that has failed is resumed. The script, the supervisor, the stop protocol,
the checkpoints and W&B's client are the real ones; the training is a toy whose every step depends on all before it, and
W&B's service a stand-in.

Prints a summary as JSON, and ends with 1 unless the run came to its exact last step, as one W&B run, with no valid
checkpoint lost and nobody left over; --write puts it into benchmarks/results. Takes root, slurm-wlm and munge, and for
the pods buildah, podman, crun and debootstrap.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS.parent)]

from checkouts import PINS  # noqa: E402
from cluster import Cluster, missing  # noqa: E402
from image import missing as image_missing  # noqa: E402
from paths import ROOT  # noqa: E402
from programs import slurm, until  # noqa: E402
from soaking import (  # noqa: E402
    LONGEST_S,
    STEPS,
    Lost,
    check_goes_on,
    check_toy,
    damage_newest,
    remove_newest,
    steps,
    summary,
    whole,
)
from toy_project import make_snapshot, make_toy_project  # noqa: E402
from wandb_server import Service  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "soak.json"
# The preflight wants 1 GiB where the run is kept.
DISK = "1200m"
LAUNCH_SIDE = ("pyproject.toml", "make-env.sh", "docker", "planner", "launcher", "slurm")


@dataclass
class Soak:
    """The run, and what happened to it."""

    cluster: Cluster
    project: Path
    random: random.Random
    faults: list[str] = field(default_factory=list)
    resumed: int = 0
    newest: int = 0
    """The last step whose checkpoint was seen whole and that nobody has removed since."""
    seen: int = 0
    """How much of the log was there then."""

    @property
    def folder(self) -> Path:
        return self.project / "runs" / "soak"

    @property
    def job_id(self) -> str:
        return str(json.loads((self.folder / "run.json").read_text())["job_ids"][-1])

    @property
    def state(self) -> dict[str, str]:
        return self.cluster.job(self.job_id)

    @property
    def log(self) -> str:
        path = self.folder / "logs" / f"slurm-{self.job_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def verb(self, *words: str) -> str:
        done = slurm(*words, cwd=self.project, **{**self.cluster.environ, "HOME": str(self.project)})
        if done.returncode:
            raise Lost(f"{words}: {done.stderr}")
        return done.stdout

    def rank(self) -> int:
        return int(re.findall(r"attempt of (\d+)", self.log)[-1])

    def processes(self, word: str = "") -> list[int]:
        """Those that work in the project's folder and have the word on their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                here = (path / "cwd").readlink().is_relative_to(self.project)
                if here and word.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return found

    def trains(self, *, anew: bool = True) -> None:
        """Until an attempt, a new one, has made a step; what ended is resumed, what waits is started at once."""
        deadline = gone_since = time.monotonic()
        deadline += LONGEST_S
        while not re.search((r"(?s)attempt of \d+.*" if anew else "") + r"\nstep \d+\n", self.log[self.seen :]):
            if time.monotonic() > deadline:
                raise Lost(f"no step in {LONGEST_S} s: {self.state}\n{self.log[-2000:]}")
            state = self.state["JobState"]
            if state == "COMPLETED":
                return
            if state in ("FAILED", "NODE_FAIL", "TIMEOUT", "PREEMPTED", "OUT_OF_MEMORY", "CANCELLED"):
                self.verb("resume", "--run=soak")
                self.resumed, self.seen = self.resumed + 1, 0
            elif state != "PENDING" or self.cluster.has_steps(self.job_id):
                gone_since = time.monotonic()
            elif time.monotonic() - gone_since > 3:  # as Cluster.start_again: the last attempt is gone everywhere
                self.cluster.run("scontrol", "update", f"jobid={self.job_id}", "starttime=now", check=False)
            time.sleep(0.3)
        check_goes_on(self.log[self.seen :], self.newest)

    def sees(self) -> None:
        self.newest, self.seen = max([self.newest, *whole(self.folder)]), len(self.log)

    def has_two_checkpoints(self) -> None:
        until(lambda: len(whole(self.folder)) > 1, lambda: self.log[-2000:], LONGEST_S)


def sigterm(soak: Soak) -> None:
    soak.cluster.run("scancel", "--signal=TERM", soak.job_id, check=False)


def usr1(soak: Soak) -> None:
    soak.cluster.run("scancel", "--signal=USR1", soak.job_id, check=False)


def rank_killed(soak: Soak) -> None:
    os.kill(soak.rank(), signal.SIGKILL)


def supervisor_killed(soak: Soak) -> None:
    for pid in soak.processes("trainer.supervise"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def requeue(soak: Soak) -> None:
    soak.cluster.run("scontrol", "requeue", soak.job_id, check=False)


def preempted(soak: Soak) -> None:
    done = soak.cluster.run("sbatch", "--parsable", "-phigh", "-N2", "-c64", "-o/dev/null", "--wrap=sleep 1")
    until(lambda: soak.cluster.job(done.stdout.strip())["JobState"] == "COMPLETED", timeout_s=LONGEST_S)


def node_down(soak: Soak) -> None:
    node = soak.state["NodeList"]
    soak.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=soak")
    until(lambda: soak.state["JobState"] != "RUNNING", timeout_s=LONGEST_S)
    soak.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)


def controller_restarted(soak: Soak) -> None:
    (daemon,) = (d for d in soak.cluster.daemons if isinstance(d.args, tuple) and d.args[0] == "slurmctld")
    daemon.send_signal(soak.random.choice([signal.SIGTERM, signal.SIGKILL]))
    daemon.wait()
    soak.cluster.daemons.remove(daemon)
    time.sleep(soak.random.uniform(0, 5))
    soak.cluster.daemon("slurmctld", "-D", log="slurmctld-again")
    until(lambda: soak.cluster.run("squeue", check=False).returncode == 0, timeout_s=LONGEST_S)


def disk_full(soak: Soak) -> None:
    """Nothing can be saved until somebody makes room."""
    filler = soak.project / "runs" / "filler"
    free = shutil.disk_usage(filler.parent).free
    with contextlib.suppress(OSError), filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free)
    with contextlib.suppress(OSError), filler.with_name("rest").open("wb") as file:
        while True:
            file.write(b"x" * 512)
    soak.cluster.run("scancel", "--signal=USR1", soak.job_id, check=False)
    until(lambda: soak.state["JobState"] != "RUNNING", timeout_s=LONGEST_S)
    for path in (filler, filler.with_name("rest")):
        path.unlink(missing_ok=True)


def newest_removed(soak: Soak) -> None:
    """Somebody removes the newest checkpoint, and the run dies before the next."""
    soak.has_two_checkpoints()
    os.kill(soak.rank(), signal.SIGKILL)
    until(lambda: soak.state["JobState"] != "RUNNING", timeout_s=LONGEST_S)
    soak.newest = remove_newest(soak.folder)


def newest_damaged(soak: Soak) -> None:
    """As after a failing disk: the one before it is taken, and the damaged one is set aside."""
    soak.has_two_checkpoints()
    os.kill(soak.rank(), signal.SIGKILL)
    until(lambda: soak.state["JobState"] != "RUNNING", timeout_s=LONGEST_S)
    soak.newest = damage_newest(soak.folder)


FAULTS: dict[str, Callable[[Soak], None]] = {
    fault.__name__: fault
    for fault in (
        *(sigterm, usr1, rank_killed, supervisor_killed, requeue, preempted, node_down, controller_restarted),
        *(disk_full, newest_removed, newest_damaged),
    )
}


@contextlib.contextmanager
def project(folder: Path, service: Service, step_s: float) -> Iterator[Path]:
    """A checkout whose training is the toy. Its runs lie on a small disk of their own, mounted before slurmd starts."""
    checkout = make_toy_project(folder / "a checkout")
    for name in LAUNCH_SIDE:
        (checkout / name).symlink_to(ROOT / name)
    made = subprocess.run(["sh", "-c", PINS], cwd=ROOT, capture_output=True, check=True).stdout
    (checkout / ".venv" / "cpu" / ".made").write_bytes(made)
    (checkout / "slurm").unlink()
    shutil.copytree(ROOT / "slurm", checkout / "slurm", ignore=shutil.ignore_patterns("site.yaml", "__pycache__"))
    (checkout / "data").mkdir()
    (checkout / "data" / "grid.png").write_bytes(b"not opened")
    line = '{"image": "grid.png", "context": "", "question": "Which button?", "output": "a"}\n'
    (checkout / "data" / "train.jsonl").write_text(line * 2)
    make_snapshot(checkout / "hub")
    (checkout / ".env").touch(mode=0o600)
    (checkout / ".env").write_text(f"WANDB_API_KEY={service.environment['WANDB_API_KEY']}\n")
    environment = {
        "HF_HOME": str(checkout / "hub"), "TOY_STEP_S": f"{step_s:g}", "WANDB_MODE": "online",
        "WANDB_BASE_URL": service.address,
    }  # fmt: skip
    (checkout / "slurm" / "site.yaml").write_text(json.dumps({"environment": environment}))
    (checkout / "runs").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(checkout / "runs")], check=True)
    try:
        yield checkout
    finally:
        subprocess.run(["umount", "--lazy", str(checkout / "runs")], check=False)


def soaked(minutes: float, seed: int, faults: Sequence[str] = tuple(FAULTS), last_step: int = STEPS) -> dict[str, Any]:
    """What came of it. Raises Lost, or AssertionError where something took too long."""
    drawn, began, service = random.Random(seed), time.monotonic(), Service()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trainyard-soak-")))
        stack.callback(service.end)
        # Two fifths of the time are steps, the others starts: the last fault comes before the last step.
        checkout = stack.enter_context(project(folder, service, step_s=0.4 * minutes * 60 / last_step))
        cluster = stack.enter_context(Cluster.started(folder / "slurm"))
        soak = Soak(cluster, checkout, drawn)
        words = ("--device=cpu", "--cpus=2", "--mem=32", f"--max-steps={last_step}", "--run=soak")
        soak.verb("submit", *words)
        soak.trains()
        order: list[str] = []
        while time.monotonic() - began < minutes * 60 and soak.state["JobState"] != "COMPLETED":
            time.sleep(drawn.uniform(1, 6))
            if soak.state["JobState"] != "RUNNING":
                break
            if not order:  # each once before any comes again
                order = drawn.sample(list(faults), len(faults))
            soak.sees()
            fault = order.pop()
            print(f"{time.monotonic() - began:6.0f} s  step {steps(soak.log):4}  {fault}", file=sys.stderr, flush=True)
            FAULTS[fault](soak)
            soak.faults.append(fault)
            soak.trains(anew=fault != controller_restarted.__name__)
        until(lambda: soak.state["JobState"] == "COMPLETED", lambda: f"{soak.state}\n{soak.log[-2000:]}", minutes * 60)
        until(lambda: not soak.processes("python"), lambda: f"left over: {soak.processes('python')}", 30)
        check_toy(soak.folder, last_step)
        logs = "".join(path.read_text(errors="replace") for path in (soak.folder / "logs").glob("*.log"))
        return summary(
            soak.folder, service, soak.faults, last_step, minutes=minutes, seed=seed,
            took_s=round(time.monotonic() - began), attempts=len(re.findall("attempt of", logs)), resumed=soak.resumed,
            slurm=cluster.run("sbatch", "--version").stdout.strip(),
        )  # fmt: skip


def soaked_pods(minutes: float, seed: int, faults: Sequence[str] = ()) -> dict[str, Any]:
    """As `soaked`, on the pod bed. Builds the image first."""
    import image
    import soak_pods

    return soak_pods.soaked(image.build(), minutes, seed, faults or tuple(soak_pods.FAULTS), STEPS)


def soaked_trainer(minutes: float, seed: int, faults: Sequence[str] = ()) -> dict[str, Any]:
    """As `soaked_pods`, with the whole trainer in the place of the toy."""
    import image
    import soak_pods

    given = faults or tuple(soak_pods.FAULTS)
    return soak_pods.soaked(image.build(), minutes, seed, given, TRAINER_STEPS, soak_pods.WHOLE)


BEDS = ("slurm", "pods", "trainer")
TRAINER_STEPS = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beds", default="slurm,pods", help="of slurm, pods, trainer (pods with the whole trainer)")
    parser.add_argument("--faults", default="", help="of one bed; left out: all")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    beds, faults = given.beds.split(","), tuple(filter(None, given.faults.split(",")))
    reasons = {"slurm": missing(), "pods": image_missing(), "trainer": image_missing()}
    if reason := next(filter(None, (reasons[bed] for bed in beds)), None):
        print(f"trainyard: {reason}", file=sys.stderr)
        return 1
    soaks = {"slurm": soaked, "pods": soaked_pods, "trainer": soaked_trainer}
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for bed in beds:
        try:
            kept[bed] = soaks[bed](given.minutes / len(beds), given.seed, *((faults,) if faults else ()))
        except AssertionError as error:
            print(f"trainyard: {bed}: {error}", file=sys.stderr)
            return 1
        print(json.dumps({bed: kept[bed]}, indent=1), flush=True)
        if given.write:
            RESULT.write_text(json.dumps({bed: kept[bed] for bed in BEDS if bed in kept}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
