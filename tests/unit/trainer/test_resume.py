"""Interrupted runs end like uninterrupted ones, bit for bit on the CPU: the whole trainer at toy size."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zero3
from poison import Poison, sums_anew
from training import Ended, train_forked

from launcher.records import finished
from trainer.node.stop import FLAG
from trainer.outcome import ATTEMPT_DIR_ENV, ATTEMPT_ID_ENV, read_outcome
from trainer.training.checkpoint import check_manifest

pytestmark = pytest.mark.slow

# Dropout draws random numbers, two batches make a step, logs and checkpoints fall on different steps.
OPTIONS: dict[str, Any] = {
    "micro_batch_size": 2, "gradient_accumulation_steps": 2, "lora_dropout": 0.1, "max_steps": 10,
    "logging_steps": 3, "save_steps": 2, "eval_steps": 4, "eval_samples": 4,
}  # fmt: skip
TIMINGS = ("runtime", "per_second", "resident_gib")


@pytest.fixture(scope="module")
def train(tiny_model: Path, walks: Path) -> Callable[..., Ended]:
    def run(folder: Path, **options: Any) -> Ended:
        return train_forked(folder, model=tiny_model, data=walks, **{**OPTIONS, **options})

    return run


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Ended]) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    ended = train(folder)
    assert ended.codes == (0,), ended.output
    return folder


def history(folder: Path) -> list[dict[str, float]]:
    """Everything logged with its step, without what the clock and the memory of the day decide."""
    entries = json.loads((folder / "run" / "metrics.json").read_text())["history"]
    return [{k: v for k, v in entry.items() if not k.endswith(TIMINGS)} for entry in entries]


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "checkpoints").glob("*-*"))


def at_step(step: int) -> Callable[[str], bool]:
    return lambda output: any(f"step {n:>2}/10" in output for n in range(step, 11))


def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, straight: Path, train: Callable[..., Ended]
) -> None:
    ended = train(tmp_path, kill_when=at_step(6))
    assert ended.codes == (-9,), ended.output
    ended = train(tmp_path)
    assert ended.codes == (0,), ended.output
    assert "going on from step" in ended.output
    assert history(tmp_path) == history(straight)
    for name in ("before", "after"):
        assert metrics(tmp_path)[name] == metrics(straight)[name]
    adapters = [f / "run" / "adapter" / "adapter_model.safetensors" for f in (tmp_path, straight)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_ended_between_its_adapter_and_what_is_known_of_it_it_is_completed_by_another_start(
    tmp_path: Path, straight: Path, train: Callable[..., Ended]
) -> None:
    """A folder in the place of predictions.jsonl ends the export there, as a full disk or kill -9 would."""
    run = tmp_path / "run"
    (run / "predictions.jsonl").mkdir(parents=True)
    ended = train(tmp_path)
    assert ended.codes == (1,), ended.output
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert not (run / "metrics.json").exists() and not finished(run)
    (run / "predictions.jsonl").rmdir()
    ended = train(tmp_path)
    assert ended.codes == (0,) and "going on from step 10 " in ended.output, ended.output
    assert finished(run) and history(tmp_path) == history(straight)
    assert metrics(tmp_path)["after"] == metrics(straight)["after"]
    assert weights.read_bytes() == (straight / "run" / "adapter" / weights.name).read_bytes()


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "metrics.json").read_text())


def flag_when(attempt: Path, seen: Callable[[str], bool]) -> Callable[[str], bool]:
    """Raises the stop flag, as the supervisor does, once the output is as wanted."""

    def look(output: str) -> bool:
        if not (attempt / FLAG).exists() and seen(output):
            (attempt / FLAG).touch()
        return False

    return look


def stopped(train: Callable[..., Ended], folder: Path, seen: Callable[[str], bool], **options: Any) -> tuple[int, str]:
    """The outcome of a run whose stop flag is raised when its output is as wanted."""
    attempt = folder / f"attempt{len(list(folder.glob('attempt*')))}"
    attempt.mkdir(parents=True)
    environment = {ATTEMPT_DIR_ENV: str(attempt), ATTEMPT_ID_ENV: "a"}
    ended = train(folder, environment=environment, kill_when=flag_when(attempt, seen), **options)
    assert set(ended.codes) == {0}, ended.output
    outcome = read_outcome(attempt, "a")
    assert outcome is not None, ended.output
    return outcome


def test_a_stop_saves_the_very_step_and_ends_with_75(
    tmp_path: Path, straight: Path, train: Callable[..., Ended]
) -> None:
    code, message = stopped(train, tmp_path, at_step(3))
    (last,) = saved(tmp_path)[-1:]
    step = int(last.removeprefix("step-"))
    assert 3 <= step < 10
    assert (code, message) == (75, f"stopped at step {step}: run again to go on from there")
    ended = train(tmp_path)
    assert ended.codes == (0,), ended.output
    assert f"going on from step {step} " in ended.output
    assert history(tmp_path) == history(straight)


def test_two_processes_stop_together_and_continue_exactly(tmp_path: Path, train: Callable[..., Ended]) -> None:
    options = {"world_size": 2, "gradient_accumulation_steps": 2, "micro_batch_size": 1}
    ended = train(tmp_path / "straight", **options)
    assert ended.codes == (0, 0), ended.output
    code, _ = stopped(train, tmp_path / "stopped", at_step(3), **options)
    assert code == 75
    ended = train(tmp_path / "stopped", kill_when=at_step(9), **options)
    assert ended.codes == (-9, -9), ended.output
    ended = train(tmp_path / "stopped", **options)
    assert ended.codes == (0, 0), ended.output
    assert history(tmp_path / "stopped") == history(tmp_path / "straight")


def test_a_stop_before_the_first_step_is_75_without_a_checkpoint_and_1_the_third_time(
    tmp_path: Path, train: Callable[..., Ended]
) -> None:
    outcomes = [stopped(train, tmp_path, lambda _: True)[0] for _ in range(3)]
    assert outcomes == [75, 75, 1]
    assert saved(tmp_path) == []


def test_a_stop_during_an_evaluation_leaves_it_to_the_next_attempt(tmp_path: Path, train: Callable[..., Ended]) -> None:
    """Every step is an evaluation's, and most of the time is spent there."""
    options = {"eval_steps": 1, "max_steps": 6, "micro_batch_size": 1, "eval_samples": 8, "logging_steps": 1}
    assert train(tmp_path / "straight", **options).codes == (0,)
    for step in (2, 4):
        # That line comes after the step has ended, so only its evaluation is left to be stopped in.
        outcome = stopped(train, tmp_path / "stopped", lambda out, n=step: f"step {n}/6" in out, **options)
        assert outcome == (75, f"stopped at step {step}: run again to go on from there")
    assert train(tmp_path / "stopped", **options).codes == (0,)
    assert history(tmp_path / "stopped") == history(tmp_path / "straight")


def test_a_run_that_is_started_again_after_its_last_step_trains_no_further(
    tmp_path: Path, straight: Path, train: Callable[..., Ended]
) -> None:
    shutil.copytree(straight / "run", tmp_path / "run")
    ended = train(tmp_path)
    assert ended.codes == (0,), ended.output
    assert history(tmp_path)[:-1] == history(straight)[:-1]
    assert history(tmp_path)[-1]["train_loss"] == history(straight)[-1]["train_loss"]
    for step in (10, 8):
        manifest = json.loads((tmp_path / f"run/checkpoints/step-{step:06d}/manifest.json").read_text())
        assert manifest["step"] == step


def test_the_best_evaluated_adapter_is_kept_and_scored(tmp_path: Path, train: Callable[..., Ended]) -> None:
    """So high a learning rate spoils what the first steps learned."""
    ended = train(tmp_path, learning_rate=0.03, eval_steps=1, keep_checkpoints=1, max_steps=6, seed=1)
    assert ended.codes == (0,), ended.output
    record = metrics(tmp_path)
    scored = {e["step"]: e for e in record["history"] if "eval_loss" in e}
    assert sorted(scored) == [1, 2, 3, 4, 5, 6]
    best = min(scored, key=lambda n: (-scored[n]["eval_action_accuracy"], scored[n]["eval_loss"]))
    assert record["step"] == best < 6
    assert record["after"]["accuracy"] == scored[best]["eval_action_accuracy"]
    assert record["after"]["macro_f1"] == scored[best]["eval_macro_f1"]
    assert f"the adapter of step {best} is kept: its evaluation was the best" in ended.output
    assert saved(tmp_path) == [f"step-{best:06d}", "step-000006"]
    kept, checkpoint = tmp_path / "run" / "adapter", tmp_path / "run" / "checkpoints" / f"step-{best:06d}"
    name = "adapter_model.safetensors"
    assert (kept / name).read_bytes() == (checkpoint / name).read_bytes()


def test_patience_runs_out_at_the_same_step_whatever_is_in_between(tmp_path: Path, train: Callable[..., Ended]) -> None:
    """Nothing is learned, so the first evaluation stays the best; stopped before, and in the last evaluation."""
    options = {"learning_rate": 1e-30, "eval_steps": 1, "early_stopping_patience": 3, "logging_steps": 1}
    ended = train(tmp_path / "straight", **options)
    assert ended.codes == (0,), ended.output
    assert "stopped early: 3 evaluations without a better one than that of step 1\n" in ended.output
    assert metrics(tmp_path / "straight")["step"] == 1
    evaluated = [entry["step"] for entry in history(tmp_path / "straight") if "eval_loss" in entry]
    assert evaluated == [1, 2, 3, 4]
    for step in (2, 4):
        outcome = stopped(train, tmp_path / "stopped", lambda out, n=step: f"step  {n}/10" in out, **options)
        assert outcome[0] == 75
    assert train(tmp_path / "stopped", **options).codes == (0,)
    assert history(tmp_path / "stopped") == history(tmp_path / "straight")
    # Started once more it trains no further.
    assert train(tmp_path / "stopped", **options).codes == (0,)
    assert history(tmp_path / "stopped")[:-1] == history(tmp_path / "straight")[:-1]


def test_a_run_that_ends_anyway_is_not_said_to_stop_early(tmp_path: Path, train: Callable[..., Ended]) -> None:
    options = {"learning_rate": 1e-30, "eval_steps": 1, "early_stopping_patience": 1, "max_steps": 2}
    ended = train(tmp_path, **options)
    assert ended.codes == (0,), ended.output
    assert [entry["step"] for entry in history(tmp_path) if "eval_loss" in entry] == [1, 2]
    assert "stopped early" not in ended.output


def test_a_broken_newest_checkpoint_is_set_aside_for_the_one_before(
    tmp_path: Path, straight: Path, train: Callable[..., Ended]
) -> None:
    shutil.copytree(straight / "run", tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    weights = checkpoints / "step-000010" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    garbled = checkpoints / "step-000008" / "optimizer.pt"
    garbled.write_bytes(garbled.read_bytes()[:-1] + b"x")
    ended = train(tmp_path)
    assert ended.codes == (0,), ended.output
    assert "adapter_model.safetensors has " in ended.output and "going on from step 6 " in ended.output
    assert "optimizer.pt has other contents than were written" in ended.output
    assert [name.rpartition("-")[0] for name in saved(tmp_path)[:2]] == [
        "broken-step-000008", "broken-step-000010",
    ]  # fmt: skip
    assert history(tmp_path) == history(straight)


def test_another_number_of_processes_is_refused_with_what_to_do(
    tmp_path: Path, straight: Path, train: Callable[..., Ended]
) -> None:
    shutil.copytree(straight / "run", tmp_path / "run")
    ended = train(tmp_path, gradient_accumulation_steps=1)
    assert ended.codes == (78,)
    assert "was saved with gradient_accumulation_steps 2, not 1: its losses cannot be continued" in ended.output
    ended = train(tmp_path, world_size=2)
    assert ended.codes == (78, 78)
    assert "was saved with processes 1, not 2" in ended.output


def test_other_records_and_another_schedule_are_no_continuation(
    tmp_path: Path, straight: Path, tiny_model: Path, walks: Path
) -> None:
    """As many records, other answers: the losses would go on, and the scores mean something else."""
    shutil.copytree(straight / "run", tmp_path / "run")
    data = shutil.copytree(walks, tmp_path / "data")
    records = data / "train.jsonl"
    records.write_text(records.read_text().replace("up", "left"))
    options = {**OPTIONS, "weight_decay": 0.9, "score_samples": 3, "learn": "last"}
    ended = train_forked(tmp_path, model=tiny_model, data=data, **options)
    assert ended.codes == (78,)
    assert re.search(
        r"saved with data \w{12}, not \w{12}, learn all, not last, weight_decay 0\.01, not 0\.9, score_samples "
        "10000000, not 3: its losses",
        ended.output,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_leaves_the_older_checkpoint_and_ends_with_one_clear_line(
    tmp_path: Path, straight: Path, train: Callable[..., Ended]
) -> None:
    newest = straight / "run" / "checkpoints" / "step-000010"
    size = sum(path.stat().st_size for path in newest.iterdir())
    disk = tmp_path / "run" / "checkpoints"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ended = train(tmp_path)
        assert ended.codes == (1,)
        (line,) = [line for line in ended.output.splitlines() if line.startswith("trainyard:")]
        assert line.startswith(f"trainyard: the checkpoint of step 4 could not be written to {disk} (")
        assert line.endswith("): step 2 is the newest there is")
        assert saved(tmp_path) == ["step-000002"]
        assert check_manifest(disk / "step-000002") == ""
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def poison_newest(checkpoints: Path, marker: Path) -> Path:
    """Whoever loads a shard of the newest checkpoint would make `marker`; its sums are computed anew."""
    import torch

    newest = max(checkpoints.glob("step-*"))
    torch.save({"optimizer_state_dict": Poison(marker)}, next(newest.glob("global_step*/*optim_states.pt")))
    sums_anew(newest)
    assert check_manifest(newest) == ""
    return newest


def test_zero3_shards_are_stopped_and_continued_exactly(tmp_path: Path, train: Callable[..., Ended]) -> None:
    options = {
        "program": zero3.main, "world_size": 2, "micro_batch_size": 1, "lora_alpha": 128, "score_samples": 8,
    }  # fmt: skip
    ended = train(tmp_path / "straight", **options)
    assert ended.codes == (0, 0), ended.output
    assert stopped(train, tmp_path / "stopped", at_step(3), **options)[0] == 75
    marker = tmp_path / "it ran"
    poisoned = poison_newest(tmp_path / "stopped" / "run" / "checkpoints", marker)
    ended = train(tmp_path / "stopped", **options)
    assert ended.codes == (0, 0), ended.output
    assert f"checkpoint {poisoned} is broken (global_step" in ended.output and "holds posix.system" in ended.output
    assert "weights_only" not in ended.output and not marker.exists()
    assert "going on from step" in ended.output
    assert history(tmp_path / "stopped") == history(tmp_path / "straight")
    losses = [entry["loss"] for entry in history(tmp_path / "straight") if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
