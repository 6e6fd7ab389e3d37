"""One training run, start to end: data, model, contract, zero-shot score, training, score, export.

    accelerate launch --config_file accelerate_configs/cpu_mps.yaml -m trainer.train --model M --data D \\
        --output_dir runs/x --run_id x --device cpu

What it leaves in the run's folder: adapter/ (with the processor), metrics.json, predictions.jsonl,
report.html, checkpoints/, tensorboard/ and wandb/. Started again, it goes on from the newest checkpoint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.data.records import Dataset, dataset_of
from trainer.model.warm_start import check_start
from trainer.node.processes import in_rank
from trainer.node.start import device_map, join, leave_alone, prepare_libraries
from trainer.node.stop import Stopped
from trainer.outcome import FAILED, FINISHED, ConfigError, SickNode, write_outcome
from trainer.settings import resolve_settings, say
from trainer.training.checkpoint import CheckpointError


def main(argv: Sequence[str]) -> int:
    in_rank()
    try:
        settings = resolve_settings(argv, os.environ)
        config = settings.config()
        if os.environ.get("RANK", "0") == "0":
            say(settings.notices)
        check_start(config)
        dataset = dataset_of(config)
        prepare_libraries(config)
        finish = train(config, dataset)
    except ConfigError as error:
        return leave(error.exit_code, str(error))
    except SickNode as error:
        return leave_alone(error)
    except CheckpointError as error:
        return leave(FAILED, str(error))
    except Stopped as stopped:
        return leave(*stopped.args)
    write_outcome(FINISHED)  # the adapter is on disk; what follows may be slow or fail without spoiling that
    finish()
    return FINISHED


def leave(code: int, message: str) -> int:
    """The exit code of a rank that ends with a known outcome, once that is written down.

    Every rank comes to the same outcome, so under a supervisor all leave in peace: a code here would only make
    torchrun kill the others and print a traceback of its own. The supervisor reads the outcome instead.
    """
    write_outcome(code, message)
    if os.environ.get("TRAINYARD_ATTEMPT_DIR"):
        return FINISHED
    print(f"trainyard: {message}", file=sys.stderr)
    return code


def train(config: TrainConfig, dataset: Dataset) -> Any:
    """Run everything and return a function that builds the report and closes the trackers.

    Raises:
        ConfigError: this machine or this model cannot run the configuration.
        RuntimeError: the loaded model breaks the contract.
    """
    import torch

    from trainer.data.examples import Encoder, TrainCollator
    from trainer.evaluation import generation as evaluate
    from trainer.evaluation import heldout
    from trainer.evaluation.metrics import score_table
    from trainer.model import base as model
    from trainer.model import warm_start
    from trainer.node.stop import Stop
    from trainer.results import export, trained
    from trainer.tracking import track
    from trainer.training import first_look, sft
    from trainer.training.checkpoint import CheckpointStore
    from trainer.training.ranks import ranks_of

    state = join(config)
    run_dir = Path(config.output_dir)
    ranks = ranks_of(state.num_processes, config.collective_timeout_s)
    stop = Stop(ranks, run_dir)
    stop.check()
    say = print if state.is_main_process else _silent
    say(f"data: {len(dataset.train)} records to train on, {len(dataset.eval)} held out ({dataset.split})", flush=True)
    for note in dataset.notes:
        say(f"data: {note}", flush=True)
    first_look.check_text_only(config, dataset)

    processor = model.load_processor(config.model)
    dataset = first_look.drop_unfit(processor, dataset, config, ranks, say)
    stop.check()
    store = CheckpointStore(
        run_dir / "checkpoints",
        ranks,
        layout=layout(config, dataset),
        keep=config.keep_checkpoints,
        say=lambda text: say(text, flush=True),
    )
    checkpoint = store.take_over()
    anatomy = model.find_anatomy(model.load_model_config(config.model))
    dtype = torch.bfloat16 if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16" else torch.float32
    torch.manual_seed(config.seed)  # the adapters' first values
    base = model.load_base(config, anatomy, dtype=dtype, device_map=device_map(state))
    peft_model = model.add_lora(base, config, anatomy)
    if config.init_adapter and checkpoint is None:
        say(f"adapter: starts from {warm_start.load(peft_model, config)}", flush=True)
    for what, found in model.check_contract(peft_model, config, anatomy):
        say(f"  {what:<38} {found}", flush=True)
    stop.check()

    tracker = track.Tracker()
    callbacks: list[Any] = [track.progress_callback(), tracker]
    if state.is_main_process:
        run_dir.mkdir(parents=True, exist_ok=True)
        described = export.describe_run(config, dataset)
        tracker.start(config, peft_model, described, step=checkpoint.step if checkpoint else 0)
    measured = heldout.hold_out(processor, dataset, config, say)
    held_out = evaluate.choose_records(dataset.eval, config.eval_samples)
    encoder = Encoder(processor, [*dataset.train, *held_out])
    collator = TrainCollator(encoder)
    if state.is_main_process:
        first_look.show_examples(processor, encoder, say)
    for what, found in first_look.check_batch(collator([{"index": 0}]), base, config):
        say(f"  {what:<38} {found}", flush=True)
    sizes = (len(dataset.train), len(held_out))
    scores_of: dict[int, Any] = {}  # of the latest evaluated step: the adapter that is kept may be its

    def score(between: Any) -> dict[str, float]:
        scores_of.clear()
        found = measured.score(trainer.model, trainer.accelerator, between)
        scores_of[trainer.state.global_step] = found
        return {"action_accuracy": found[1].accuracy, "macro_f1": found[1].macro_f1} if found[1] else {}

    trainer = sft.build_trainer(config, peft_model, processor, sizes, collator, callbacks, store, stop, score)

    def measure(when: str, step: int) -> heldout.Scores:
        if step not in scores_of:
            scores_of[step] = measured.score(trainer.model, trainer.accelerator, stop.check)
        logprobs, scored = scores_of[step]
        answers, generated = measured.answer(trainer.model, trainer.accelerator, stop.check)
        scores = heldout.Scores(step=step, scored=scored, generated=generated, logprobs=logprobs, answers=answers)
        say(heldout.describe(when, scores), flush=True)
        tracker.scores(export.summary(scores), measured.predictions(scores), scores.step)
        return scores

    stop.step = checkpoint.step if checkpoint else 0
    if checkpoint is None:
        # The base model's own, also where the adapter knows something already.
        with peft_model.disable_adapter() if config.init_adapter else nullcontext():
            zero_shot = export.summary(measure("before training", 0))
        if state.is_main_process:
            export.save_zero_shot(run_dir, zero_shot)
    else:
        say(f"going on from step {checkpoint.step} ({checkpoint.path})", flush=True)
        zero_shot = export.load_zero_shot(run_dir)
    totals = trainer.train_from(checkpoint.path if checkpoint else None).metrics
    kept = trainer.load_best()
    if kept != trainer.state.global_step:
        say(f"the adapter of step {kept} is kept: its evaluation was the best", flush=True)
    after = measure("after training", kept)

    export.save_adapter(run_dir, trainer, processor)
    if not state.is_main_process:
        return _silent
    record = export.RunRecord(
        config=config, answer_field=measured.field, **{f"{name}before": m for name, m in zero_shot.items()},
        **{f"{name}after": m for name, m in export.summary(after).items()},
        step=kept, train=totals, history=trainer.state.log_history,
        **export.describe_run(config, dataset),
    )  # fmt: skip
    usage = trained.usage_of(config, dataset, measured)
    export.save_record(record, measured.predictions(after), usage, anatomy.unquantized)

    def finish() -> None:
        print(f"\n{score_table(zero_shot[''], after.action)}\n", flush=True)
        print(f"adapter: {run_dir}/adapter\n{export.report_line(run_dir)}", flush=True)
        tracker.finish(after.action)

    return finish


def layout(config: TrainConfig, dataset: Dataset) -> dict[str, int | str]:
    """What must be the same for a checkpoint to be continued exactly."""
    return {
        "processes": config.world_size,
        "micro_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "training records": len(dataset.train),
        "seed": config.seed,
        "max_steps": config.max_steps,
        "lora_r": config.lora_r,
        "vision": config.vision,
    }


def _silent(*_: Any, **__: Any) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
