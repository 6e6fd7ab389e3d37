"""A project folder whose training is a toy that starts at once: real supervisor, stop and checkpoint code.

Two stand-ins lie in it: `accelerate`, a launcher in the manner of torchrun (every worker in a session of its own,
exit code 1 whatever they say), and `trainer.train`, a loop whose loss depends on every step before it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from paths import ROOT

LAUNCH = """
import os, socket, subprocess, sys
words = sys.argv[1:]
module = words.index("-m")
def value(name, default):
    return words[words.index(name) + 1] if name in words else default
count, nodes = int(value("--num_processes", "1")), int(value("--num_machines", "1"))
node, here = int(value("--machine_rank", "0")), count // nodes
port = value("--main_process_port", "0")
if port == "0":  # any that is free
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = str(probe.getsockname()[1])
workers = []
for local in range(here):
    env = {**os.environ, "LOCAL_RANK": str(local), "RANK": str(node * here + local), "WORLD_SIZE": str(count),
           "MASTER_ADDR": value("--main_process_ip", "127.0.0.1"),
           "MASTER_PORT": port}
    workers.append(subprocess.Popen([sys.executable, *words[module:]], env=env, start_new_session=True))
while workers:
    for worker in list(workers):
        try:
            code = worker.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        workers.remove(worker)
        if code:
            for other in workers:
                other.kill()
            sys.exit(1)
"""

TRAIN = """
import json, os, sys, time
from datetime import timedelta
from pathlib import Path
from trainer.node.processes import in_rank, rank_listens
in_rank()
from trainer.training.checkpoint import CheckpointStore
from trainer.outcome import ConfigError, write_outcome
from trainer.node.ranks import Ranks
from trainer.node.stop import Stop, Stopped
rank_listens()

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run_dir, steps = Path(words["--output_dir"]), int(words["--max_steps"])
step_s = float(words.get("--step_s") or os.environ["TOY_STEP_S"])
world, patience_s = int(os.environ.get("WORLD_SIZE", "1")), int(words.get("--collective_timeout_s", 60))

def train():
    if words.get("--bad"):
        raise ConfigError("a toy mistake")
    if world > 1:
        import torch.distributed as dist
        dist.init_process_group("gloo", timeout=timedelta(seconds=patience_s))
    ranks = Ranks(world, patience_s)
    stop = Stop(ranks, run_dir)
    print(f"attempt of {os.getpid()}", flush=True)
    while words.get("--never_steps") or Path("hold").exists():
        stop.check()
        time.sleep(0.05)
    store = CheckpointStore(run_dir / "checkpoints", ranks, layout={"processes": world}, keep=3,
                            say=lambda text: print(text, flush=True))
    start = store.take_over()
    board = None
    if ranks.first and os.environ.get("WANDB_BASE_URL"):
        from trainer.tracking.wandb_run import WandbRun
        board = WandbRun({"run_id": words.get("--run_id", run_dir.name), "output_dir": str(run_dir)}, None)
    state = {"step": 0, "value": 1, "losses": []}
    if start:
        state = json.loads((store.path(start) / "state.json").read_text())
        print("going on from step", start, flush=True)
    stop.step = state["step"]
    def fill(folder):
        if ranks.first:
            (folder / "state.json").write_text(json.dumps(state))
    while state["step"] < steps:
        stop.step_began()
        time.sleep(step_s)
        state["value"] = state["value"] * 6364136223846793005 % 2**64 + 1
        state["losses"].append(state["value"])
        state["step"] += 1
        ranks.any(False)
        stop.step_ended(state["step"])
        if ranks.first:
            print("step", state["step"], flush=True)
        while words.get("--waits_at") == str(state["step"]) and not Path("go").exists() and not stop.wanted():
            time.sleep(0.05)
        if board and state["step"] % 20 == 0:
            board.log({"value": state["step"]}, state["step"])
        if state["step"] % 20 == 0 or stop.wanted() or state["step"] == steps:
            store.save(state["step"], fill)
        if stop.agreed:
            stop.leave()
    if board:
        board.finish({})
    if ranks.first:
        (run_dir / "losses.json").write_text(json.dumps(state["losses"]))

try:
    train()
    write_outcome(0)
except ConfigError as error:
    write_outcome(78, str(error))
except Stopped as stopped:
    write_outcome(*stopped.args)
except Exception as error:
    (run_dir / f"failed-{os.getpid()}").write_text(str(error))  # srun may no longer listen
    raise
"""


def make_toy_project(folder: Path, python_program: str = sys.executable) -> Path:
    """`python_program` is what the jobs' environment has for a Python."""
    (folder / "trainer").mkdir(parents=True)
    (folder / "accelerate_configs").symlink_to(ROOT / "accelerate_configs")
    for source in (ROOT / "trainer").iterdir():
        if source.name not in ("train.py", "__pycache__"):
            (folder / "trainer" / source.name).symlink_to(source)
    (folder / "trainer" / "train.py").write_text(TRAIN)
    # Compiled already; what Python writes takes a link's place.
    (folder / "trainer" / "__pycache__").mkdir()
    for source in (ROOT / "trainer" / "__pycache__").glob("*.pyc"):
        if not source.name.startswith("train."):
            (folder / "trainer" / "__pycache__" / source.name).symlink_to(source)
    (folder / "accelerate" / "commands").mkdir(parents=True)
    for package in ("accelerate", "accelerate/commands"):
        (folder / package / "__init__.py").touch()
    (folder / "accelerate" / "commands" / "launch.py").write_text(LAUNCH)
    python = folder / ".venv" / "cpu" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{python_program}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "cpu" / ".made").touch()
    return folder


def toy_argv(run_dir: str | Path, *, processes: int = 1, nodes: int = 1, **options: object) -> tuple[str, ...]:
    """The planned command; `options` are the toy's: max_steps, step_s, bad, never_steps, ... With `waits_at`, a toy of
    one process waits at that step until it is told to stop, or the project has a file `go`."""
    values = {"output_dir": run_dir, "max_steps": 100, "step_s": 0.05, **options}
    return (
        *("accelerate", "launch", "--num_processes", str(processes), "--num_machines", str(nodes)),
        *("-m", "trainer.train"),
        *(str(word) for name, value in values.items() for word in (f"--{name}", value)),
    )


def toy_losses(max_steps: int = 100) -> list[int]:
    """What a run that nothing happened to ends with."""
    value, losses = 1, []
    for _ in range(max_steps):
        value = value * 6364136223846793005 % 2**64 + 1
        losses.append(value)
    return losses


def read_losses(run_dir: Path) -> list[int]:
    return json.loads((run_dir / "losses.json").read_text())


def make_snapshot(home: Path) -> None:
    """An HF_HOME with a hub's snapshot of the default model, whose files nobody opens."""
    model = home / "hub" / "models--google--gemma-3-4b-it"
    (model / "snapshots" / "abc").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    for name in ("config.json", "model.safetensors"):
        (model / "snapshots" / "abc" / name).write_text("{}")
