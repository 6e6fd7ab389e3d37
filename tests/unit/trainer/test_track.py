"""What people watch: W&B with the real client against a stand-in service that fails for real, and TensorBoard."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from paths import ROOT
from plans import make_plan
from process_tree import descendants
from safetensors import safe_open
from training import train_forked
from wandb_server import KEY, Service

from launcher.records import run_record, write_record
from trainer.architecture.shapes import resolve_shape

pytestmark = pytest.mark.slow

FAULTS = ("dies", "hangs", "401", "429", "500")
# A run's W&B side in a process of its own, which ends as a rank does: through the interpreter's exit. Each line of
# the script's input is a step; what a step cost the training is printed.
RUN = """
import sys, time
from pathlib import Path
from PIL import Image
from trainer.tracking.wandb_run import WandbRun

facts = {"run_id": "r1", "output_dir": sys.argv[1], "logging_steps": 1, "lora_r": 8}
run = WandbRun(facts, model=None)
while run._run is None and run._thread.is_alive() and "waits" in sys.argv:
    time.sleep(0.05)
samples = [{"picture": Image.new("RGB", (8, 8)), "truth": "up", "prediction": "down"}]
longest = 0.0
for step, line in enumerate(sys.stdin, start=1):
    if line == "end":
        break
    began = time.monotonic()
    run.log({"train/loss": 1.0 / step}, step)
    run.show({"up": {"up": 2, "down": 1}, "down": {"up": 0, "down": 1}}, samples, step)
    longest = max(longest, time.monotonic() - began)
    print("step", step, flush=True)
print(f"longest {longest:.3f}", flush=True)
if "stopped" not in sys.argv:
    run.finish({"eval/action_accuracy": 0.75})
print("over", flush=True)
"""


class Process:
    """One attempt, step by step."""

    def __init__(self, folder: Path, service: Service, *words: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **service.environment, "WANDB_FINISH_TIMEOUT": "4", **environ},
            cwd=ROOT,
        )  # fmt: skip
        self.said = ""

    def step(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("step "):
            assert line, self.said
            self.said += line

    def end(self, timeout_s: float = 150) -> None:
        began = time.monotonic()
        rest, _ = self.process.communicate(timeout=timeout_s)
        self.said += rest
        assert self.process.returncode == 0, self.said
        assert KEY not in self.said
        self.took_s = time.monotonic() - began

    @property
    def longest_s(self) -> float:
        return float(re.findall(r"longest ([0-9.]+)", self.said)[0])


def break_down(service: Service, fault: str) -> None:
    if fault == "dies":
        service.end()
    elif fault == "hangs":
        service.process.send_signal(signal.SIGSTOP)
    else:
        service.answer_with(int(fault))


def test_rows_media_and_summary_reach_the_service_under_group_tags_and_notes(tmp_path: Path, service: Service) -> None:
    run = Process(tmp_path, service, "waits", WANDB_RUN_GROUP="g", WANDB_TAGS="a,b", WANDB_NOTES="why")
    run.step()
    run.step()
    run.end()
    seen = service.seen()
    rows = [(row["train/global_step"], row["train/loss"]) for row in seen["history"] if "train/loss" in row]
    assert rows == [(1, 1.0), (2, 0.5)]
    shown = next(row for row in seen["history"] if "eval/samples" in row)
    assert (shown["eval/samples"]["nrows"], shown["train/global_step"]) == (1, 1)
    kinds = {name.split("/")[3].split("_")[0] for name in seen["files"] if name.startswith("media/table")}
    assert kinds == {"samples", "confusion", "targets", "predictions"}
    assert any(re.match(r"media/images/.*\.png", name) for name in seen["files"])
    assert seen["summary"]["eval/action_accuracy"] == 0.75
    first = seen["runs"][0]
    assert (first["name"], first["project"], first["groupName"]) == ("r1", "trainyard", "g")
    assert (first["tags"], first["notes"]) == (["a", "b"], "why")
    assert json.loads(first["config"])["lora_r"]["value"] == 8
    assert seen["exitcode"] == 0 and "wandb sync" not in run.said


def test_tensorboard_goes_on_after_a_resume_without_a_step_twice_and_ties_settings_to_the_result(
    tmp_path: Path,
) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from trainer.config import TrainConfig
    from trainer.tracking.track import TensorBoard

    config = TrainConfig(model="m", data="d", output_dir=str(tmp_path), run_id="r", lora_r=8)
    first = TensorBoard(config, step=0)
    first.log({"eval/action_accuracy": 0.25}, 0)
    for step in range(1, 6):
        first.log({"train/loss": 1 / step}, step)
    first._writer.close()  # killed at step 5, and the newest checkpoint is that of step 3
    time.sleep(1.1)  # files are read in the order of their names, which have seconds
    second = TensorBoard(config, step=3)
    for step in range(4, 7):
        second.log({"train/loss": 1 / step}, step)
    picture = Image.new("RGB", (192, 192))
    samples = [
        {"picture": picture, "truth": "up", "prediction": "\u2191"},
        {"picture": None, "truth": "a", "prediction": None},
    ]
    second.show({"up": {"up": 2, "a|b": 1}}, samples, 6)
    second.log({"eval/action_accuracy": 0.75}, 6)
    second.finish({"eval/action_accuracy": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [(e.step, e.value) for e in events.Scalars("eval/action_accuracy")] == [(0, 0.25), (6, 0.75)]
    (image,) = events.Images("eval/samples")
    assert (image.step, image.width, image.height) == (6, 408, 230)
    (text,) = events.Tensors("eval/confusion/text_summary")
    assert text.tensor_proto.string_val[0].decode() == (
        "| truth \\ answer | up | a\\|b |\n| --- | --- | --- |\n| up | 2 | 1 |"
    )
    found = {title: events.Histograms(f"eval/{title}") for title in ("targets", "predictions")}
    counts = {title: (event.step, event.histogram_value.bucket) for title, (event,) in found.items()}
    # Numbered as the columns: all 3 truths are the first, 2 predictions too, 1 is the second.
    assert {title: (step, [n for n in bucket if n]) for title, (step, bucket) in counts.items()} == {
        "targets": (6, [3.0]), "predictions": (6, [2.0, 1.0]),
    }  # fmt: skip
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(events.summary_metadata)
    started = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"lora_r" in started
    experiment = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"eval/action_accuracy" in experiment


@pytest.mark.slow
def test_a_run_reaches_the_service_whole_with_its_plan_and_versions_and_the_trainers_own_steps(
    tmp_path: Path, service: Service, tiny_model: Path, walks: Path
) -> None:
    plan = make_plan(run_id="test", gpus=2)
    (tmp_path / "run").mkdir()
    write_record(tmp_path / "run", run_record(plan))
    ended = train_forked(
        tmp_path, model=tiny_model, data=walks, max_steps=3, eval_steps=2, environment=service.environment,
    )  # fmt: skip
    assert ended.codes == (0,), ended.output
    assert KEY not in ended.output and "may lack" not in ended.output
    seen = service.seen()
    config = {name: entry["value"] for name, entry in json.loads(seen["runs"][0]["config"]).items() if "value" in entry}
    assert config["plan"]["accelerate_config"] == plan.chosen.label
    assert config["plan"]["predicted_peak_gib"] == round(plan.chosen.estimate.peak_bytes / 2**30, 2)
    assert (config["effective_batch_size"], config["git"]) == (4, run_record(plan)["git"])
    assert config["parameters"]["trainable"] == resolve_shape(str(tiny_model)).lora_params(8)
    total, trainable = config["parameters"]["total"], config["parameters"]["trainable"]
    (counted,) = [row for row in seen["history"] if "model/total_params" in row]
    assert {name: counted[name] for name in counted if name.startswith("model/")} == {
        "model/total_params": total, "model/trainable_params": trainable,
        "model/trainable_percent": pytest.approx(100 * trainable / total),
    }  # fmt: skip
    assert config["versions"]["torch"].startswith("2.") and len(config["dataset"]["sha256"]) == 64
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for key, name in (("train/loss", "loss"), ("eval/loss", "eval_loss"), ("train/tokens_seen", "tokens_seen")):
        logged = [(entry["step"], entry[name]) for entry in metrics["history"] if name in entry]
        rows = [(row["train/global_step"], row[key]) for row in seen["history"] if key in row]
        assert rows == logged and rows
    steps = [row["train/global_step"] for row in seen["history"] if "eval/action_accuracy" in row]
    assert steps == [0, 2, 3]
    assert seen["summary"]["eval/action_accuracy"] == metrics["after"]["accuracy"]
    assert [row["train/global_step"] for row in seen["history"] if "eval/samples" in row] == [0, metrics["step"]]
    assert not [key for row in seen["history"] for key in row if key.startswith(("gradients/", "parameters/"))]


@pytest.mark.slow
@pytest.mark.parametrize(("watch", "world"), [("all", 1), ("Parameters", 2), ("gradients", 1), ("false", 1)])
def test_wandb_watches_the_trained_parameters_alone(
    tmp_path: Path, service: Service, tiny_model: Path, walks: Path, watch: str, world: int
) -> None:
    """Every second step of two micro-batches; an evaluation is no step."""
    ended = train_forked(
        tmp_path, model=tiny_model, data=walks, world_size=world, max_steps=5, logging_steps=2, eval_steps=2,
        micro_batch_size=2, gradient_accumulation_steps=2, environment={**service.environment, "WANDB_WATCH": watch},
    )  # fmt: skip
    assert set(ended.codes) == {0} and "may lack" not in ended.output and "was not logged" not in ended.output
    with safe_open(tmp_path / "run" / "adapter" / "adapter_model.safetensors", "pt") as stored:
        trained = {re.sub(r"(lora_[AB])", r"\1.default", name) for name in stored.keys()}  # noqa: SIM118
    counts = Counter(key for row in service.seen()["history"] for key in row if key.startswith(("grad", "param")))
    kinds = {"all": ("gradients", "parameters"), "false": ()}.get(watch, (watch.lower(),))
    assert set(counts) == {f"{kind}/{name}" for kind in kinds for name in trained}
    assert set(counts.values()) <= {1, 2}  # W&B starts beside the training, and may come after the second step


@pytest.mark.parametrize("world", [1, 2])
def test_a_wandb_watch_that_there_is_not_is_refused_in_one_line(
    tmp_path: Path, tiny_model: Path, walks: Path, world: int
) -> None:
    ended = train_forked(
        tmp_path, model=tiny_model, data=walks, world_size=world, environment={"WANDB_WATCH": "weights"}
    )
    assert set(ended.codes) == {78}
    assert ended.output == "trainyard: WANDB_WATCH=weights: takes gradients, parameters, all or false\n"


def through_faults(folder: Path, *words: str, healthy_steps: int, faults: Sequence[str] = FAULTS) -> list[Process]:
    """Ended attempts of 20 steps each whose service failed after `healthy_steps`; at once: they mostly wait."""
    services = {fault: Service() for fault in faults}
    for fault, service in services.items() if healthy_steps == 0 else ():
        break_down(service, fault)
    runs = {fault: Process(folder / fault, service, *words) for fault, service in services.items()}
    try:
        for steps in (healthy_steps, 20 - healthy_steps):
            for run in runs.values():
                for _ in range(steps):
                    run.step()
            if steps == healthy_steps > 0:
                time.sleep(2)  # what was said so far has been sent
                for fault, service in services.items():
                    break_down(service, fault)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.end, runs.values()))
    finally:
        for service in services.values():
            service.end()
    for fault, run in runs.items():
        assert run.longest_s < 3, fault  # a busy machine; waiting for the client takes 20
        assert run.took_s < 90, fault
        assert "Traceback" not in run.said, run.said
    return list(runs.values())


@pytest.mark.slow
def test_a_service_that_fails_in_mid_run_delays_no_step_and_the_upload_command_is_said(tmp_path: Path) -> None:
    commands = []
    for run in through_faults(tmp_path, "waits", healthy_steps=2):
        commands += re.findall(r"to upload: (.* -m wandb sync --include-online .*)", run.said)
    assert len(commands) == len(FAULTS)
    assert every_row_arrives(commands[FAULTS.index("401")])


@pytest.mark.slow
def test_a_service_that_fails_at_init_means_an_offline_run_with_every_row(tmp_path: Path) -> None:
    commands = []
    for run in through_faults(tmp_path, healthy_steps=0):
        assert "going on offline" in run.said
        commands += re.findall(r"to upload: (.* -m wandb sync --include-online .*)", run.said)
    assert len(commands) == len(FAULTS)
    assert every_row_arrives(commands[FAULTS.index("dies")])


@pytest.mark.slow
def test_a_service_that_fails_at_the_end_lets_the_run_end(tmp_path: Path) -> None:
    for run in through_faults(tmp_path, "waits", healthy_steps=20, faults=("hangs", "401")):
        assert run.said.count("wandb sync --include-online") == 1


@pytest.mark.slow
def test_a_client_process_that_hangs_holds_neither_a_step_nor_the_end(tmp_path: Path, service: Service) -> None:
    run = Process(tmp_path, service, "waits")
    run.step()
    for pid in descendants(run.process.pid):
        os.kill(pid, signal.SIGSTOP)
    for _ in range(20):
        run.step()
    run.end()
    assert run.took_s < 90
    assert run.longest_s < 3


@pytest.mark.slow
def test_a_client_process_that_the_scheduler_ends_first_leaves_no_traceback(tmp_path: Path, service: Service) -> None:
    run = Process(tmp_path, service, "waits", "stopped")
    run.step()
    for pid in descendants(run.process.pid):
        os.kill(pid, signal.SIGTERM)
    time.sleep(1)
    run.step()
    run.end()
    assert run.took_s < 40
    assert "Traceback" not in run.said, run.said
    assert len(re.findall(r"W&B may lack a part of this run; to upload: \S*python -m wandb sync", run.said)) == 1


@pytest.mark.slow
def test_a_stopped_run_is_preempted_for_wandb_and_leaves_in_seconds_whatever_the_service_does(
    tmp_path: Path, service: Service
) -> None:
    run = Process(tmp_path / "a", service, "waits", "stopped")
    run.step()
    run.end()
    assert service.seen()["exitcode"] == 75
    run = Process(tmp_path / "b", service, "waits", "stopped")
    run.step()
    break_down(service, "hangs")
    run.end()
    assert run.took_s < 40


def every_row_arrives(command: str) -> bool:
    """When the printed command is run, once the service is back."""
    back = Service()
    try:
        environment = {**os.environ, **back.environment}
        synced = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=60)
        assert synced.returncode == 0, synced.stdout + synced.stderr
        rows = back.seen()["history"]
    finally:
        back.end()
    return [row["train/global_step"] for row in rows if "train/loss" in row] == list(range(1, 21))
