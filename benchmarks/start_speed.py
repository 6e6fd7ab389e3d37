"""From a job's first process to its first optimizer step, taken apart, beside a plain script with TRL's SFTTrainer.

    .venv/cpu/bin/python -W ignore -m benchmarks.start_speed            # five starts of each, in turn

Both train the demo's model on the demo's records in 4 bits on the CPU, to the end of the first optimizer step. Ours
checks records and model and scores the base model before it; the plain script (plain_sft.py) does neither, and has no
W&B. A requeued job continues from a checkpoint, behind an attempt that has inspected the records. Seconds are those of
the clock and, as other work tells less on them, of the processors. results/start_speed.json keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.plain_sft import leave
from trainer.files import write_whole
from trainer.log import last_words
from trainer.outcome import RUN_AGAIN, write_outcome
from trainer.progress_file import read_progress

PROJECT_DIR = Path(__file__).resolve().parent.parent
RESULTS = PROJECT_DIR / "benchmarks" / "results"
RESULT_ENV = "TRAINYARD_BENCHMARK_RESULT"
BATCH = 8
EPISODES = 60
FLAGS = (
    "--device", "cpu", "--effective-batch", str(BATCH), "--max-steps", "200", "--learning-rate", "2e-3",
    "--name", "start", "--config-file", "examples/demo/settings.yaml",
)  # fmt: skip
OURS, AGAIN, LOGGED = "Trainyard", "Trainyard, requeued", "Trainyard, with W&B offline"
PLAIN = "a plain SFTTrainer script"
FIRST = "first"
"""The run's name that is started anew each time."""
NOT_PLAIN = ("looking at the records", "score before training")
"""The parts of ours that the plain script does not do at all."""
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")


def rank(argv: list[str]) -> int:
    """trainer.train, which ends with the first optimizer step."""
    from trainer import start_clock, train

    clock, first_step = start_clock.CLOCK, start_clock.CLOCK.first_step

    def ended() -> str:
        first_step()
        write_outcome(0)
        leave(Path(os.environ[RESULT_ENV]), clock.parts)
        raise AssertionError

    clock.first_step = ended  # type: ignore[method-assign]
    return train.main(argv)


def prepare(folder: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """(command, environment) by name, once the model, the records and a run to continue are there."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "TQDM_DISABLE": "1"}
    from examples.demo.frames import write_dataset
    from examples.demo.tiny import write_tiny_model
    from local.measure.batch_size import request_here
    from planner.choose import choose

    write_dataset(folder / "data", episodes=EPISODES, eval_episodes=EPISODES // 10)
    write_tiny_model(folder / "model")
    where = ["--model", f"{folder}/model", "--data", f"{folder}/data", "--output", f"{folder}/runs"]
    found = {}
    for name, run in ((OURS, FIRST), (AGAIN, "again")):
        _, spec = request_here([*where, *FLAGS, "--run", run])
        plan = choose(spec)
        environment = {**os.environ, **dict(plan.env), RESULT_ENV: f"{folder}/{run}.json"}
        if name == AGAIN:
            make_checkpoint(plan.launch.words(), environment, Path(spec.run_dir))
        words = replace(plan.launch, module="benchmarks.start_speed").words()
        command = [sys.executable, "-m", "trainer.supervise", "--", *words]
        found[name] = (command, {**environment, "WANDB_MODE": "disabled"})
        if name == OURS:
            found[LOGGED] = (command, {**environment, "WANDB_MODE": "offline"})
    micro = plan.chosen.micro_batch_size
    plain = ["benchmarks.plain_sft", f"{folder}/model", f"{folder}/data", f"{folder}/plain.json", str(micro)]
    environment = {**environment, RESULT_ENV: f"{folder}/plain.json"}
    found[PLAIN] = ([sys.executable, "-W", "ignore", "-m", *plain], environment)
    return {name: found[name] for name in (OURS, AGAIN, LOGGED, PLAIN)}


def make_checkpoint(words: Sequence[str], environment: dict[str, str], run_dir: Path) -> None:
    """Train until the first steps are done, and stop, so that there is a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.supervise", "--", *words],
        cwd=PROJECT_DIR, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and not ((found := read_progress(run_dir)) and found.step):
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate()
    if process.returncode != RUN_AGAIN:
        raise RuntimeError(f"the run to continue ended with {process.returncode}: {last_words(said)}")


def start(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """One start: {"seconds", "cpu_seconds", "parts"}; the processors' seconds are those of all its processes."""
    result = Path(environment[RESULT_ENV])
    result.unlink(missing_ok=True)
    before, began = os.times(), time.time()
    done = subprocess.run(
        command, cwd=PROJECT_DIR, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    after = os.times()
    if not result.is_file():
        raise RuntimeError(f"{Path(environment[RESULT_ENV]).stem} made no step: {last_words(done.stderr)}")
    found = json.loads(result.read_text(encoding="utf-8"))
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": found["at"] - began, "cpu_seconds": cpu, "parts": found["parts"]}


def table(taken: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    plain = median(taken[PLAIN], "cpu_seconds")
    lines = [
        "| start | median CPU s | least | most | times the plain script's | median s of the clock |",
        "|---|---|---|---|---|---|",
    ]
    for name, starts in taken.items():
        cpu = [one["cpu_seconds"] for one in starts]
        lines.append(
            f"| {name} | {median(starts, 'cpu_seconds'):.2f} | {min(cpu):.2f} | {max(cpu):.2f} "
            f"| {median(starts, 'cpu_seconds') / plain:.2f} | {median(starts, 'seconds'):.2f} |"
        )
    left = statistics.median(
        one["cpu_seconds"] - sum(one["parts"][part][1] for part in NOT_PLAIN) for one in taken[OURS]
    )
    lines += [
        "", f"Without what the plain script does not do ({' and '.join(NOT_PLAIN)}), Trainyard takes {left:.2f} CPU s, "
        f"{left / plain:.2f} times the plain script's.",
    ]  # fmt: skip
    for name, starts in taken.items():
        lines += ["", f"| {name}: part | median CPU s of its process | median s of the clock |", "|---|---|---|"]
        for part in starts[0]["parts"]:
            clock, cpu_s = (statistics.median(one["parts"][part][place] for one in starts) for place in (0, 1))
            lines.append(f"| {part} | {cpu_s:.2f} | {clock:.2f} |")
    return "\n".join(lines)


def median(starts: Sequence[Mapping[str, Any]], what: str) -> float:
    return statistics.median(one[what] for one in starts)


def page(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {text}" for name, text in found["versions"].items())
    return f"""\
# From the start to the first optimizer step

Made by `.venv/cpu/bin/python -W ignore -m benchmarks.start_speed --rounds {found["rounds"]}`
on {found["cores"]} {found["machine"]} cores (load {found["load"]:.1f}):
starts of each, in turn, counted: {found["rounds"]}, of the demo's model on the demo's records, on the CPU.
Python {found["python"]}, {versions}.

CPU seconds of the first table are those of all processes of a start, in one row W&B's service among them; those of a
part are its process's own. "processes" is the job's first process and, where there is one, accelerate's launcher.

{table(found["starts"])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted starts of each (5); one comes first, uncounted")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for start_speed.json and start_speed.md")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one start of each must be counted")
    with tempfile.TemporaryDirectory(prefix="trainyard-start-") as name:
        folder = Path(name)
        asked = prepare(folder)
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
        for turn in range(options.rounds + 1):
            for name, (command, environment) in asked.items():
                print(f"round {turn} of {options.rounds}: {name}", file=sys.stderr, flush=True)
                shutil.rmtree(folder / "runs" / FIRST, ignore_errors=True)  # it has inspected the records
                found = start(command, environment)
                if turn:
                    taken[name].append(found)
    found = {
        "rounds": options.rounds, "cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0],
        "python": platform.python_version(), "versions": {name: version(name) for name in LIBRARIES}, "starts": taken,
    }  # fmt: skip
    write_whole(options.out / "start_speed.json", json.dumps(found, indent=1) + "\n")
    write_whole(options.out / "start_speed.md", page(found))
    print(page(found))


if __name__ == "__main__":
    if "--model" in sys.argv:  # as a job's rank
        sys.exit(rank(sys.argv[1:]))
    main()
