"""Seconds and memory of an optimizer step: this trainer beside the recipes of benchmarks/flops.py, as they really run.

    .venv/cpu/bin/python -W ignore -m benchmarks.train_speed                  # an eighth of Gemma 3 4B, on the CPU
    .venv/cuda/bin/python -W ignore -m benchmarks.train_speed --device cuda   # all of it

Random weights in 4 bits, one picture and 330 tokens a sample, of which 16 are scored. Each recipe has a process of its
own, and they take turns, so that a busy machine slows all alike; a process's first step warms up and is not counted.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trainer.text import GIB

TOKENS, SCORED = 330, 16
EIGHTH = {"num_hidden_layers": 4, "vocab_size": 32776}  # of 34 and 262,208
EIGHTH_TOWER = {"num_hidden_layers": 3}  # of 27


def write_model(folder: Path, device: str) -> None:
    """Gemma 3 4B's shape in bf16 with random weights; for the CPU an eighth of its layers, tower and vocabulary."""
    import torch
    from transformers import AutoModelForImageTextToText

    from benchmarks.flops import SHAPE

    shape = copy.deepcopy(SHAPE)
    if device == "cpu":
        for part, sizes in ((shape.text_config, EIGHTH), (shape.vision_config, EIGHTH_TOWER)):
            for name, size in sizes.items():
                setattr(part, name, size)
        shape.text_config.layer_types = shape.text_config.layer_types[: EIGHTH["num_hidden_layers"]]
        shape.image_token_id = shape.image_token_index = 4
    torch.set_default_dtype(torch.bfloat16)
    AutoModelForImageTextToText.from_config(shape).save_pretrained(folder)


def steps(model: str, device: str, recipe_index: int, count: int, batch_size: int, run_dir: str) -> dict[str, Any]:
    """Make `count` optimizer steps and one to warm up: their seconds, and the most memory that the process had."""
    import torch

    from benchmarks.flops import RECIPES, adapt
    from trainer.config import TrainConfig
    from trainer.model.base import find_anatomy, load_base, load_model_config
    from trainer.model.features import keep_features
    from trainer.tracking.peak import read_stage

    config = TrainConfig(model=model, data="-", output_dir=run_dir, run_id="-", device=device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shape = load_model_config(model)
    base = load_base(config, find_anatomy(shape), dtype=dtype, device_map={"": device if device == "cpu" else 0})
    recipe = RECIPES[recipe_index]
    adapted = adapt(base, recipe, quantization="nf4").train()
    if recipe.seen_before:  # by the step that warms up
        keep_features(base, config, 0)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=2e-4, fused=True)
    ids = torch.randint(10, 1000, (batch_size, TOKENS), device=device)
    ids[:, 8 : 8 + shape.mm_tokens_per_image] = shape.image_token_id
    batch: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (ids == shape.image_token_id).long(),
        "pixel_values": torch.rand(batch_size, 3, 896, 896, device=device, dtype=dtype),
    }
    scored = torch.zeros_like(ids, dtype=torch.bool)
    scored[:, -SCORED - 1 : -1] = True
    if recipe.ours:
        batch |= {"loss_positions": scored.flatten().nonzero().flatten(), "loss_targets": ids.roll(-1)[scored]}
    else:
        batch["labels"] = torch.where(scored.roll(1, dims=1), ids, -100)
    taken = []
    for _ in range(count + 1):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            found = adapted(**batch)
            loss = found["loss_sum"] / batch["loss_targets"].numel() if recipe.ours else found.loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return {"seconds": taken[1:], "peak_bytes": read_stage("peak", config).peak_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", help="a folder or hub id, for real weights (left out: random ones)")
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a process (3)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each recipe (2)")
    parser.add_argument("--batch-size", type=int, default=1, help="samples a step (1)")
    parser.add_argument("--recipe", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.recipe is not None:
        with tempfile.TemporaryDirectory(prefix="trainyard-speed-") as run_dir:
            given = (options.model, options.device, options.recipe, options.steps, options.batch_size)
            print(json.dumps(steps(*given, run_dir)))
        return
    with tempfile.TemporaryDirectory(prefix="trainyard-speed-") as folder:
        model = options.model or folder
        if not options.model:
            write_model(Path(folder), options.device)
        compare(options, model)


def compare(options: argparse.Namespace, model: str) -> None:
    from benchmarks.flops import RECIPES

    runs: list[list[dict[str, Any]]] = [[] for _ in RECIPES]
    same = ["--device", options.device, "--steps", str(options.steps), "--batch-size", str(options.batch_size)]
    for turn in range(options.rounds):
        for index, recipe in enumerate(RECIPES):
            print(f"round {turn + 1} of {options.rounds}: {recipe.name}", file=sys.stderr, flush=True)
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train_speed", "--model", model, *same]
            quiet = {**os.environ, "TQDM_DISABLE": "1", "DS_ACCELERATOR": options.device}
            done = subprocess.run(
                [*command, "--recipe", str(index)], stdout=subprocess.PIPE, text=True, check=True, env=quiet
            )
            runs[index].append(json.loads(done.stdout.splitlines()[-1]))
    medians = [statistics.median([s for run in of_one for s in run["seconds"]]) for of_one in runs]
    print(
        f"{options.rounds} process(es) of each, {options.steps} counted steps of {options.batch_size} sample(s); "
        f"{_machine(options)}.\n"
    )
    print("| QLoRA, r=64 | median s a step | fastest | slowest | times ours | peak GiB |\n|---|---|---|---|---|---|")
    for recipe, of_one, median in zip(RECIPES, runs, medians, strict=True):
        seconds = [s for run in of_one for s in run["seconds"]]
        peak = max(run["peak_bytes"] for run in of_one) / GIB
        print(
            f"| {recipe.name} | {median:.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {median / medians[0]:.1f} "
            f"| {peak:.1f} |"
        )


def _machine(options: argparse.Namespace) -> str:
    import torch

    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {os.cpu_count()} cores"
    return f"torch {torch.__version__}, {where}"


if __name__ == "__main__":
    main()
