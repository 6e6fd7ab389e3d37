"""Seconds and memory of an optimizer step: this trainer beside the recipes of benchmarks/flops.py, as they really run.

    .venv/cpu/bin/python -W ignore -m benchmarks.train_speed                  # a slice of Gemma 3 4B, on the CPU
    .venv/cuda/bin/python -W ignore -m benchmarks.train_speed --device cuda   # all of it

Random weights in 4 bits, one picture and 330 tokens a sample, the last 16 of them the answer. Each recipe has a process
of its own, and they take turns, so that a busy machine slows all alike; on the CPU it is the process's own seconds, of
one thread, that count. On a GPU the first step warms up and is not counted, nor is the one that fills the cache.

On a GPU TRL's head chooses the positions with a label, on a CPU it runs on all of them: unless a recipe says otherwise,
it chooses them on both here. All adapters are fp32; SFTTrainer would cast them to bf16.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.text import GIB

TOKENS, SCORED = 330, 16
SLICE = {"num_hidden_layers": 1, "vocab_size": 8192}  # of 34 and 262,208
SLICE_TOWER = {"num_hidden_layers": 1}  # of 27


def write_model(folder: Path, device: str) -> None:
    """Gemma 3 4B's shape in bf16 with random weights; for the CPU a slice of its layers, tower and vocabulary."""
    import torch
    from transformers import AutoModelForImageTextToText

    from benchmarks.flops import SHAPE

    shape = copy.deepcopy(SHAPE)
    if device == "cpu":
        for part, sizes in ((shape.text_config, SLICE), (shape.vision_config, SLICE_TOWER)):
            for name, size in sizes.items():
                setattr(part, name, size)
        shape.text_config.layer_types = shape.text_config.layer_types[: SLICE["num_hidden_layers"]]
        shape.image_token_id = shape.image_token_index = 4
    torch.set_default_dtype(torch.bfloat16)
    AutoModelForImageTextToText.from_config(shape).save_pretrained(folder)


def steps(
    model: str, device: str, recipe_index: int, count: int, batch_size: int, run_dir: str, *,
    tokens: int = TOKENS, scored: int = SCORED, change: Callable[[Any], object] = bool,
) -> dict[str, Any]:  # fmt: skip
    """Make `count` optimizer steps of samples of so many `tokens`, the last `scored` learned, behind one that warms up
    where there is anything to: their seconds, the first one's loss, and the most memory that the process had.
    `change` is called with the model before."""
    import torch
    import trl.trainer.utils

    from benchmarks.flops import RECIPES, adapt
    from trainer.config import TrainConfig
    from trainer.model.base import find_anatomy, load_base, load_model_config
    from trainer.model.features import keep_features
    from trainer.tracking.peak import read_stage

    config = TrainConfig(model=model, data="-", output_dir=run_dir, run_id="-", device=device)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if device == "cpu":
        torch.set_num_threads(1)
    shape = load_model_config(model)
    base = load_base(config, find_anatomy(shape), dtype=dtype, device_map={"": device if device == "cpu" else 0})
    recipe = RECIPES[recipe_index]
    torch.manual_seed(0)
    adapted = adapt(base, recipe, quantization="nf4").train()
    change(adapted)
    if recipe.seen_before:  # by the step that warms up
        keep_features(base, config)
    if not recipe.all_scored:
        trl.trainer.utils._use_triton = lambda device: (
            True
        )  # read by TRL's forward to choose positions, by its head not
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=2e-4, fused=True)
    side = shape.vision_config.image_size
    ids = torch.randint(10, 1000, (batch_size, tokens), device=device)
    ids[ids == shape.image_token_id] = 9
    ids[:, 8 : 8 + shape.mm_tokens_per_image] = shape.image_token_id
    batch: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (ids == shape.image_token_id).long(),
        "pixel_values": torch.rand(batch_size, 3, side, side, device=device, dtype=dtype),
    }
    answer = torch.zeros_like(ids, dtype=torch.bool)
    answer[:, -scored:] = True
    if recipe.head == "ours":
        positions = answer.roll(-1, dims=1).flatten().nonzero().flatten()
        batch |= {"loss_positions": positions, "loss_targets": ids[answer]}
    else:  # of `messages` everything is learned
        batch |= {"labels": ids if recipe.targets else torch.where(answer, ids, -100), "fused_lm_head": True}
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken, losses = [], []
    warm_up = int(recipe.seen_before or device == "cuda")
    for _ in range(warm_up + count):
        start = clock()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            found = adapted(**batch)
            loss = found["loss_sum"] / answer.sum() if recipe.head == "ours" else found.loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(clock() - start)
        losses.append(loss.item())
    return {"seconds": taken[warm_up:], "first_loss": losses[0], "peak_bytes": read_stage("peak", config).peak_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", help="a folder or hub id, for real weights (left out: random ones)")
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a process (3)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each recipe (2)")
    parser.add_argument("--batch-size", type=int, default=1, help="samples a step (1)")
    options = parser.parse_args()
    os.environ |= {"TQDM_DISABLE": "1", "DS_ACCELERATOR": options.device}
    with tempfile.TemporaryDirectory(prefix="trainyard-speed-") as folder:
        model = options.model or folder
        if not options.model:
            write_model(Path(folder), options.device)
        compare(options, model)


def compare(options: argparse.Namespace, model: str) -> None:
    from benchmarks.flops import RECIPES

    runs: dict[int, list[dict[str, Any]]] = {i: [] for i, r in enumerate(RECIPES) if options.device in r.timed}
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["benchmarks.flops", "trainer.model.features", "bitsandbytes"])
    for turn in range(options.rounds):
        for index, found in runs.items():
            print(f"round {turn + 1} of {options.rounds}: {RECIPES[index].name}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="trainyard-speed-") as run_dir, forks.Pool(1) as process:
                given = (model, options.device, index, options.steps, options.batch_size, run_dir)
                found.append(process.apply(steps, given))
    seconds = {index: [s for run in of_one for s in run["seconds"]] for index, of_one in runs.items()}
    ours = statistics.median(seconds[0])
    print(
        f"{options.rounds} process(es) of each, {options.steps} counted steps of {options.batch_size} sample(s); "
        f"{_machine(options)}.\n"
    )
    unit = "CPU s" if options.device == "cpu" else "s"
    print(f"| QLoRA, r=64 | median {unit} a step | least | most | times ours (least to most) | peak GiB |")
    print("|---|---|---|---|---|---|")
    for index, taken in seconds.items():
        times = " to ".join(f"{s / ours:.2f}" for s in (min(taken), max(taken)))
        median, peak = statistics.median(taken), max(run["peak_bytes"] for run in runs[index]) / GIB
        print(
            f"| {RECIPES[index].name} | {median:.2f} | {min(taken):.2f} | {max(taken):.2f} "
            f"| {median / ours:.2f} ({times}) | {peak:.1f} |"
        )


def _machine(options: argparse.Namespace) -> str:
    import torch

    load = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, one thread, {load}"
    return f"torch {torch.__version__}, {where}"


if __name__ == "__main__":
    main()
