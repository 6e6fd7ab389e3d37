"""`python -m local profile-memory`: the memory of two real steps and an evaluation, stage by stage, beside the
prediction.

The steps are the trainer's own, on the record with the most tokens, repeated to a micro-batch; then the record is
scored and answered as in a run, one sequence at a time. On a GPU the figures come from torch's allocator; on the CPU
from the process's resident memory, which also holds Python and its libraries.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from planner.job import JobSpec
from planner.memory.estimate import estimate
from planner.plan import Estimate
from trainer import outcome
from trainer.config import TrainConfig
from trainer.data.records import Dataset, dataset_of, take_apart
from trainer.data.turns import Record
from trainer.files import read_json, write_whole
from trainer.flags import answer_help, build
from trainer.model.refusal import UNFIT, refusing
from trainer.node.start import init_distributed, prepare_libraries
from trainer.outcome import FAILED, FINISHED
from trainer.settings import settings_here
from trainer.text import GIB, format_table, gib
from trainer.tracking.peak import MEASURED, Stage, read_stage

USAGE = """usage: python -m local profile-memory [--name value ...] [--json]

Loads the model, makes two optimizer steps on the longest record of the data and evaluates it, in this process alone,
and prints what each stage takes beside the plan's prediction. Takes the settings of a run (python -m trainer config
--help)."""
STEPS = 2
LIMIT_ENV = "TRAINYARD_LIMIT_GIB"  # the memory that one process may have, to test what would fit
LONGEST_ENV = "TRAINYARD_LONGEST_RECORD"  # a file that saves repeated searches on the same data
OUT_OF_MEMORY = "trainyard: out of memory"
# Predicted items by the stage in which they appear; all others exist from the first step on.
APPEARS = {
    "baseline": ("CUDA context", "Python process"),
    "model loaded": ("language model", "quantization constants", "embedding and head", "image tower"),
    "LoRA": ("LoRA weights",),
}


def main(argv: Sequence[str]) -> int:
    """Runs `profile-memory`. Raises ConfigError."""
    answer_help(argv, USAGE)
    settings = settings_here(argv)
    with tempfile.TemporaryDirectory(prefix="trainyard-profile-") as folder:
        # Under a launcher every rank measures, and the largest figure of all ranks counts.
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        values = {**settings.values, "output_dir": folder, "run_id": "profile", "world_size": ranks}
        config = build(TrainConfig, values)
        prepare_libraries(config)
        set_limit(config)
        try:
            stages, spec = measure(config)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print(f"{OUT_OF_MEMORY}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
            return FAILED
    if os.environ.get("RANK", "0") != "0":
        return FINISHED
    predicted = predict(spec, config)
    report = {
        "measured": MEASURED[config.device],
        "max_length": spec.training.max_length, "micro_batch_size": config.micro_batch_size,
        "process_bytes": stages[-1].process_bytes,
        "stages": [{**asdict(s), "predicted_bytes": predicted_at(predicted, s.name)} for s in stages],
        "predicted_items": dict(predicted.items),
    }  # fmt: skip
    print(json.dumps(report, indent=1) if settings.as_json else render(report))
    return FINISHED


def set_limit(config: TrainConfig) -> None:
    """Limit the memory of this process to LIMIT_ENV, if that is set."""
    limit = float(os.environ.get(LIMIT_ENV) or 0) * GIB
    if limit and config.device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    elif limit:
        import torch

        device = int(os.environ.get("LOCAL_RANK", "0"))
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory was lacking; with a limit, also that a thread could not start, since its
    stack counts."""
    more = "|can't start new thread" if LIMIT_ENV in os.environ else ""
    return outcome.is_out_of_memory(error, outcome.LACKING + more)


def measure(config: TrainConfig) -> tuple[list[Stage], JobSpec]:
    """(the stages, the JobSpec for the prediction) after making the steps. Raises ConfigError for a model, data or
    machine that cannot be used."""
    from accelerate.utils import gather_object
    from transformers import TrainerCallback

    from trainer.data.examples import Encoder
    from trainer.evaluation.heldout import build_heldout
    from trainer.evaluation.rows import Room
    from trainer.measure.keep import known_or_measured
    from trainer.model import base as model
    from trainer.model.contract import check_contract
    from trainer.node.ranks import Ranks
    from trainer.node.stop import Stop
    from trainer.training.checkpoint import CheckpointStore
    from trainer.training.sft import VisionSFTTrainer

    if config.device == "cuda":
        os.environ.setdefault("ACCELERATE_MIXED_PRECISION", "bf16")
    state = init_distributed(config)
    shape = known_or_measured(config.model)
    processor = model.load_processor(config.model)
    dataset = dataset_of(replace(config, eval_fraction=0))
    longest, tokens, supervised = longest_record(config, processor, dataset)
    one = replace(dataset, eval=(longest,))
    measured = replace(build_heldout(processor, one, config, lambda text: None), room=Room(most=1))
    stages = [read_stage("baseline", config)]
    base, anatomy = model.load_here(config, state)
    stages.append(read_stage("model loaded", config))
    peft_model = model.add_lora(base, config, anatomy)
    stages.append(read_stage("LoRA", config))
    records = [longest] * (config.micro_batch_size * STEPS * state.num_processes)
    encoder = Encoder(processor, records)
    check_contract(peft_model, config, anatomy, encoder.collate([{"index": 0}]))

    class FirstStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                stages.append(read_stage("first step", config))

    ranks = Ranks(state.num_processes)
    run_dir = Path(ranks.rank0_only(lambda: config.output_dir))
    steps = {"max_steps": STEPS, "gradient_accumulation_steps": 1, "logging_steps": STEPS}
    asked = build(TrainConfig, {**asdict(config), **steps})
    store = CheckpointStore(run_dir / "checkpoints", ranks, layout={}, keep=1, say=lambda text: None)
    stop = Stop(ranks, run_dir)
    stop.step = 0
    store.take_over()
    trainer = VisionSFTTrainer(
        asked, peft_model, processor, encoder.collate, (len(records), 0),
        store=store, stop=stop, callbacks=[FirstStep()],
    )  # fmt: skip
    with refusing(config.model, "trained for two steps", UNFIT):
        trainer.train_from(0)
        measured.measure(trainer.model, trainer.accelerator, stop.check)
    stages += [read_stage(name, config) for name in ("evaluation", "peak")]
    stages = most_of_all(gather_object([stages]))
    spec = JobSpec.of(
        model=config.model, shape=shape, data=config.data, project_dir=".", name="profile",
        run_id="profile", gpus=int(config.device == "cuda") * config.world_size, device=config.device,
        lora_r=config.lora_r, quantization=config.quantization, lora_dropout=config.lora_dropout, max_length=tokens,
        supervised_tokens=supervised, images_per_sample=len(longest.pictures), vision=config.vision,
    )  # fmt: skip
    return stages, spec


def longest_record(config: TrainConfig, processor: Any, dataset: Dataset) -> tuple[Record, int, int]:
    """(the training record with the most tokens, its number of tokens, that of its answers). Raises ConfigError. If
    LONGEST_ENV names a file, the result is written to it, and read from it the next time."""
    from trainer.data.inspection import inspect_dataset

    note = Path(os.environ.get(LONGEST_ENV, ""))
    if note.is_file():
        place, apart, tokens, supervised = read_json(note)
        return take_apart(dataset, {"train": apart, "eval": ()}).train[place], tokens, supervised
    inspection = inspect_dataset(dataset, processor, max_length=config.max_length)
    inspection.kept()
    pairs = enumerate(zip(inspection.dataset.train, inspection.checked["train"], strict=True))
    kept = [(c.tokens, c.supervised, len(r.pictures), place) for place, (r, c) in pairs if c.reason is None]
    tokens, supervised, _, place = max(kept)
    if LONGEST_ENV in os.environ:
        write_whole(note, json.dumps([place, sorted(inspection.apart["train"]), tokens, supervised]))
    return inspection.dataset.train[place], tokens, supervised


def most_of_all(ranks: Sequence[Sequence[Stage]]) -> list[Stage]:
    """For each stage, the most that any rank took."""
    names = ("bytes", "peak_bytes", "reserved_bytes", "process_bytes")
    return [
        replace(
            same[0], **{name: max(sizes) for name in names if None not in (sizes := [getattr(s, name) for s in same])}
        )
        for same in zip(*ranks, strict=True)
    ]


def predict(spec: JobSpec, config: TrainConfig) -> Estimate:
    sharded = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    plain = "cpu_mps" if config.device == "cpu" else "single_gpu" if config.world_size == 1 else "multi_gpu"
    return estimate(
        spec,
        config="deepspeed_zero3" if sharded else plain,
        checkpointing=config.activation_checkpointing,
        offload=sharded and os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE") == "cpu",
        optimizer=config.optimizer,
        micro_batch_size=config.micro_batch_size,
    )


def predicted_at(predicted: Estimate, stage: str) -> int:
    """The bytes predicted for the end of a stage: after a step everything alive in a step, after the evaluation the
    larger of step and evaluation."""
    items = dict(predicted.items)
    if stage not in APPEARS:
        later = {"evaluation": max(predicted.step_bytes, predicted.evaluation_bytes), "peak": predicted.peak_bytes}
        return later.get(stage, predicted.step_bytes)
    until = list(APPEARS)[: list(APPEARS).index(stage) + 1]
    return sum(items[name] for each in until for name in APPEARS[each])


def render(report: dict[str, Any]) -> str:
    on_gpu = report["stages"][0]["reserved_bytes"] is not None
    rows = [["GiB", "held", "peak so far", *(["reserved"] if on_gpu else []), "predicted"]]
    for stage in report["stages"]:
        reserved = [gib(stage["reserved_bytes"])] if on_gpu else []
        rows.append(
            [
                stage["name"], gib(stage["bytes"]), gib(stage["peak_bytes"]), *reserved, gib(stage["predicted_bytes"])
            ]
        )  # fmt: skip
    items = [["predicted, GiB", ""], *([name, gib(size)] for name, size in report["predicted_items"].items() if size)]
    first = f"measured: {report['measured']}; {report['max_length']} tokens x {report['micro_batch_size']} samples"
    return "\n\n".join((first, format_table(rows, rules_before=(1,)), format_table(items, rules_before=(1,))))


if __name__ == "__main__":
    from trainer.verbs import exit_code

    sys.exit(exit_code(main, sys.argv[1:]))
