"""Whole training runs at toy size: the real processor, the real 4-bit kernels, TRL's trainer, real files."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from PIL import Image
from training import reload_adapter, run_forked, train_forked

from trainer.data.examples import load_pictures
from trainer.data.grid import compose_grid
from trainer.data.records import load_dataset

pytestmark = pytest.mark.slow


def history(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "run" / "metrics.json").read_text())["history"]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in history(folder) if "loss" in entry]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, walks: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    ended = train_forked(folder, model=tiny_model, data=walks)
    assert ended.codes == (0,), ended.output
    return folder


def test_the_adapter_loads_with_plain_peft_and_has_learned_in_every_linear(
    finished: Path, tiny_model: Path, tmp_path: Path
) -> None:
    ended = run_forked(tmp_path, reload_adapter, str(tiny_model), str(finished / "run"), str(tmp_path / "out.json"))
    assert ended.codes == (0,), ended.output
    layers = json.loads((tiny_model / "config.json").read_text())["text_config"]["num_hidden_layers"]
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "same": True, "tensors": 2 * 7 * layers, "moved": 7 * layers, "dtypes": ["torch.float32"],
    }  # fmt: skip


def test_tensorboard_holds_loss_and_learning_rate_of_every_step(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "run" / "tensorboard")).Reload()
    logged = [entry for entry in history(finished) if "loss" in entry]
    for tag, key in (("train/loss", "loss"), ("train/learning_rate", "learning_rate")):
        stored = [(event.step, event.value) for event in events.Scalars(tag)]
        assert stored == [(entry["step"], pytest.approx(entry[key], rel=1e-6)) for entry in logged]


def test_wandb_keeps_one_offline_run_under_the_run_id(finished: Path) -> None:
    runs = [path.name for path in (finished / "run" / "wandb").iterdir() if path.name.startswith("offline-run-")]
    assert len(runs) == 1
    assert runs[0].endswith("-test")
    assert list((finished / "run" / "wandb" / runs[0]).glob("run-test.wandb"))


def test_every_held_out_record_is_scored_and_some_are_written_out(finished: Path, walks: Path) -> None:
    lines = [json.loads(line) for line in (finished / "run" / "predictions.jsonl").read_text().splitlines()]
    metrics = json.loads((finished / "run" / "metrics.json").read_text())
    held_out = load_dataset(str(walks)).eval
    assert [line["images"] for line in lines] == [[str(p.absolute()) for p in r.images] for r in held_out]
    assert [line["truth"] for line in lines] == [json.loads(r.answer)["button"] for r in held_out]
    for name, key, samples in (("", "prediction", len(held_out)), ("generated_", "generated", 8)):
        said = [line for line in lines if key in line]
        assert len(said) == metrics[f"{name}after"]["samples"] == metrics[f"{name}before"]["samples"] == samples
        assert metrics[f"{name}after"]["accuracy"] == sum(x["truth"] == x[key] for x in said) / samples
    for line in lines:
        assert line["prediction"] == max(line["probabilities"], key=line["probabilities"].get)
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_the_loss_falls_on_the_answer_and_its_end_of_turn_only(tiny_model: Path, walks: Path) -> None:
    from transformers import AutoProcessor

    from trainer.data.examples import Encoder

    processor = AutoProcessor.from_pretrained(tiny_model)
    records = load_dataset(str(walks)).train
    example = Encoder(processor, records)(0)
    ids, labels = example["input_ids"][0], example["labels"][0]
    scored = labels != -100
    assert processor.tokenizer.decode(ids[scored]) == records[0].answer + "<end_of_turn>\n"
    assert bool((labels[scored] == ids[scored]).all())
    assert int((ids == processor.tokenizer.bos_token_id).sum()) == 1


def test_two_processes_follow_one_with_the_same_effective_batch(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    one = train_forked(
        tmp_path / "one", model=tiny_model, data=walks, micro_batch_size=4, gradient_accumulation_steps=2
    )
    two = train_forked(tmp_path / "two", model=tiny_model, data=walks, micro_batch_size=4, world_size=2)
    assert (one.codes, two.codes) == ((0,), (0, 0)), one.output + two.output
    # DDP warns when it is told to look for unused parameters, every step, where there are none.
    assert "find_unused_parameters" not in two.output
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    scores = [json.loads((tmp_path / name / "run" / "metrics.json").read_text()) for name in ("one", "two")]
    assert scores[0]["before"] == scores[1]["before"]
    assert scores[0]["generated_before"] == scores[1]["generated_before"]


def test_the_held_out_loss_is_a_mean_over_answer_tokens_however_they_are_shared_out(
    tmp_path: Path, tiny_model: Path
) -> None:
    """7 records of unlike answers, alone, four at once, and on two processes, which fill up their last batches."""
    for side, count in (("train", 8), ("eval", 7)):
        rows = [
            {"image": None, "context": "", "question": f"{side} {n}", "output": "go " * n**2} for n in range(1, count)
        ]
        rows.append({**rows[0], "question": "which?", "output": "up"})
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for micro, world in ((1, 1), (4, 1), (2, 2)):
        folder = tmp_path / f"{micro}x{world}"
        ended = train_forked(
            folder, model=tiny_model, data=tmp_path, micro_batch_size=micro, world_size=world,
            gradient_accumulation_steps=4 // micro // world, max_steps=1, learning_rate=1e-30, text_only=True,
        )  # fmt: skip
        assert set(ended.codes) == {0}, ended.output
        found += [entry["eval_loss"] for entry in history(folder) if "eval_loss" in entry]
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


def test_checkpointing_and_accumulation_change_memory_not_losses(
    tmp_path: Path, finished: Path, tiny_model: Path, walks: Path
) -> None:
    ended = train_forked(
        tmp_path, model=tiny_model, data=walks, activation_checkpointing=True,
        micro_batch_size=2, gradient_accumulation_steps=2,
    )  # fmt: skip
    assert ended.codes == (0,), ended.output
    assert losses(tmp_path) == pytest.approx(losses(finished), rel=1e-4)
    assert all(math.isfinite(loss) for loss in losses(tmp_path))


def test_a_ready_image_trains_exactly_like_the_four_frames_it_was_made_of(
    tmp_path: Path, finished: Path, tiny_model: Path, walks: Path
) -> None:
    for side in ("train", "eval"):
        lines = []
        for number, line in enumerate((walks / f"{side}.jsonl").read_text().splitlines()):
            entry = json.loads(line)
            frames = [Image.open(walks / name) for name in entry.pop("frames")]
            entry["image"] = f"{side}-{number}.png"
            compose_grid(frames).save(tmp_path / entry["image"])
            lines.append(json.dumps(entry) + "\n")
        (tmp_path / f"{side}.jsonl").write_text("".join(lines))
    first = [load_pictures(load_dataset(str(folder)).train[0])[0] for folder in (tmp_path, walks)]
    assert first[0].tobytes() == first[1].tobytes()
    ended = train_forked(tmp_path, model=tiny_model, data=tmp_path)
    assert ended.codes == (0,), ended.output
    assert losses(tmp_path) == losses(finished)


def test_fewer_processes_than_planned_end_as_a_configuration_error(
    tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    ended = train_forked(tmp_path, model=tiny_model, data=walks, **{"world_size": 1}, environment=None)
    assert ended.codes == (0,)
    from trainer.train import main

    argv = ["--model", str(tiny_model), "--data", str(walks), "--output_dir", str(tmp_path / "x"), "--run_id", "x"]
    ended = run_forked(tmp_path / "log", main, [*argv, "--device", "cpu", "--world_size", "2"])
    assert ended.codes == (78,)
    assert "1 process(es) started where 2 were planned" in ended.output
    assert not (tmp_path / "x").exists()


def test_long_records_are_left_out_and_said(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    (tmp_path / "frames").symlink_to(walks / "frames")
    lines = (walks / "train.jsonl").read_text().splitlines()
    entry = json.loads(lines[0])
    lines.append(json.dumps({**entry, "question": "why? " * 400}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "eval.jsonl").write_text((walks / "eval.jsonl").read_text())
    ended = train_forked(tmp_path, model=tiny_model, data=tmp_path, max_seq_length=200, max_steps=1)
    assert ended.codes == (0,), ended.output
    assert "command line: max_seq_length=200 is max_length=200 here\n" in ended.output
    assert f"data: 1 of {len(lines)} train records left out: longer than max_length (200 tokens;" in ended.output


@pytest.mark.slow
def test_accelerate_launch_runs_it_cold_and_the_supervisor_reports_success(
    tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    options = {
        "model": tiny_model, "data": walks, "output_dir": tmp_path / "run", "run_id": "cold", "device": "cpu",
        "max_steps": 2, "eval_samples": 2, "gradient_accumulation_steps": 1,
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    config = "accelerate_configs/cpu_mps.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "trainer.supervise", "--", "accelerate", "launch", "--config_file", config,
         "--num_processes", "1", "--num_machines", "1", "-m", "trainer.train", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_bad_data_ends_a_supervised_job_with_78_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{not json}\n")
    done = subprocess.run(
        [sys.executable, "-m", "trainer.supervise", "--", "accelerate", "launch", "--config_file",
         "accelerate_configs/cpu_mps.yaml", "-m", "trainer.train", "--model", str(tmp_path), "--data", str(tmp_path),
         "--output_dir", str(tmp_path / "run"), "--run_id", "bad", "--device", "cpu"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    said = [line.partition(" supervisor: ")[2] for line in done.stderr.splitlines() if "trainyard:" in line]
    assert said == [
        f"trainyard: {tmp_path}/train.jsonl record 1 is not JSON (Expecting property name enclosed in double quotes in "
        "line 1): nothing behind it can be read"
    ]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_zero3_shards_trains_and_saves_whole_fp32_adapters(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    """The planned command, launched cold; tests/zero3_on_cpu makes accelerate pick gloo for it.

    The second rank has memory for two sequences of an evaluation (tests/helpers/short_of_memory.py): all ranks go down.
    Steps so small change nothing that is measured: the first evaluation stays the best, and its adapter is kept.
    """
    options = {
        "model": tiny_model, "data": walks, "output_dir": tmp_path / "run", "run_id": "zero3", "device": "cpu",
        "world_size": 2, "max_steps": 6, "eval_samples": 4, "gradient_accumulation_steps": 1, "lora_r": 8,
        "activation_checkpointing": "true", "learning_rate": 1e-30, "warmup_fraction": 0, "logging_steps": 1,
        "eval_steps": 1,
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    environment = {
        **os.environ, "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": f"{ROOT / 'tests' / 'zero3_on_cpu'}:{ROOT / 'tests' / 'helpers'}",
        "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "trainer.supervise", "--", "accelerate", "launch", "--config_file",
         "accelerate_configs/deepspeed_zero3.yaml", "--num_processes", "2", "--num_machines", "1",
         "-m", "short_of_memory", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    # Two of an action's candidates behind one prompt take no more than the prompt itself did, and neither do four.
    halved = [line.partition(" rank 0: ")[2] for line in done.stderr.splitlines() if "memory ran out" in line]
    assert halved == [
        f"trainyard: scoring: memory ran out with {n} sequences at once, {n // 2} from now on" for n in (75, 37, 18, 9)
    ]
    import torch
    from safetensors.torch import load_file

    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    layers = json.loads((tiny_model / "config.json").read_text())["text_config"]["num_hidden_layers"]
    assert len(adapter) == 2 * 7 * layers
    assert {str(tensor.dtype) for tensor in adapter.values()} == {"torch.float32"}
    assert all(float(tensor.abs().sum()) > 0 for tensor in adapter.values())
    said = [" ".join(line.partition(" rank 0: ")[2].split()) for line in done.stdout.splitlines()]
    assert "adapter precision float32 masters of bfloat16 adapters (DeepSpeed)" in said
    assert "largest share of an adapter here 1 of 2" in said
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    scored = {e["step"]: e for e in record["history"] if "eval_loss" in e}
    assert record["step"] == 1
    assert record["after"]["accuracy"] == scored[record["step"]]["eval_action_accuracy"]
    checkpoint = tmp_path / "run" / "checkpoints" / f"step-{record['step']:06d}"
    best = load_file(checkpoint / "adapter_model.safetensors")
    assert all(torch.equal(adapter[name], best[name]) for name in best)
    last = load_file(tmp_path / "run" / "checkpoints" / "step-000006" / "adapter_model.safetensors")
    assert not all(torch.equal(adapter[name], last[name]) for name in last)


@pytest.mark.slow
def test_a_service_out_of_reach_means_one_offline_run_with_everything_in_it(
    tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    nobody = {
        "WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "local-" + "a" * 40,
    }  # fmt: skip
    ended = train_forked(tmp_path, model=tiny_model, data=walks, environment=nobody)
    assert ended.codes == (0,), ended.output
    assert "going on offline" in ended.output
    assert "wandb sync --include-online" in ended.output
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*-test")
    assert (offline / "run-test.wandb").stat().st_size > 5000
    assert "a" * 40 not in ended.output


def test_the_last_step_is_logged_whatever_the_interval(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    ended = train_forked(tmp_path, model=tiny_model, data=walks, logging_steps=3, max_steps=5)
    assert ended.codes == (0,), ended.output
    assert [entry["step"] for entry in history(tmp_path) if "loss" in entry] == [1, 3, 5]
