"""One training run, start to end: data, model, contract, zero-shot score, training, score, export.

    accelerate launch --config_file accelerate_configs/cpu_mps.yaml -m trainer.train --model M --data D \\
        --output_dir runs/x --run_id x --device cpu

What it leaves in the run's folder: adapter/ (with the processor), metrics.json, predictions.jsonl,
report.html, checkpoints/, tensorboard/ and wandb/. Started again, it goes on from the newest checkpoint.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from trainer import log, terminal
from trainer.config import TrainConfig
from trainer.data.records import Dataset, dataset_of
from trainer.env_file import watched
from trainer.model.warm_start import check_start
from trainer.node.processes import in_rank
from trainer.node.start import join, leave_alone, prepare_libraries
from trainer.node.stop import Stopped
from trainer.outcome import ATTEMPT_DIR_ENV, FINISHED, ConfigError, SickNode, write_outcome
from trainer.progress_file import EVALUATING, LOADING, SAVING, ProgressWriter
from trainer.settings import resolve_settings
from trainer.training.checkpoint import CheckpointError

SHOWN_EXAMPLES = 3


def main(argv: Sequence[str]) -> int:
    in_rank()
    log.begin(f"rank {os.environ.get('RANK', '0')}")
    try:
        settings = resolve_settings(argv, os.environ)
        config = settings.config()
        if os.environ.get("RANK", "0") == "0":
            for notice in settings.notices:
                log.complain(notice)
        watched(os.environ)
        check_start(config)
        dataset = dataset_of(config)
        prepare_libraries(config)
        train(config, dataset)
    except SickNode as error:
        return leave_alone(error)
    except (ConfigError, CheckpointError) as error:
        return leave(error.exit_code, str(error))
    except Stopped as stopped:
        return leave(*stopped.args)
    return FINISHED


def leave(code: int, message: str) -> int:
    """The exit code of a rank that ends with a known outcome, once that is written down.

    Every rank comes to the same outcome, so under a supervisor all leave in peace: a code here would only make
    torchrun kill the others and print a traceback of its own. The supervisor reads the outcome instead.
    """
    write_outcome(code, message)
    if os.environ.get(ATTEMPT_DIR_ENV):
        return FINISHED
    log.complain(message)
    return code


def train(config: TrainConfig, dataset: Dataset) -> None:
    """Run everything, and say how it ended.

    Raises:
        ConfigError: this machine or this model cannot run the configuration.
    """
    import torch

    from trainer.data.endings import describe_end
    from trainer.data.examples import Encoder, describe_example
    from trainer.data.lengths import data_digest
    from trainer.evaluation import heldout
    from trainer.evaluation.generation import choose
    from trainer.evaluation.metrics import score_table
    from trainer.model import base as model
    from trainer.model import features, warm_start
    from trainer.model.contract import check_contract
    from trainer.model.refusal import UNFIT, refusing
    from trainer.node.pickles import allow_own_classes, unsafe_pickle
    from trainer.node.ranks import Ranks
    from trainer.node.stop import Stop
    from trainer.report.page import report_line
    from trainer.results import export, trained
    from trainer.results.card import base_name
    from trainer.tracking import track
    from trainer.tracking.progress import Progress
    from trainer.training.checkpoint import CheckpointStore
    from trainer.training.first_look import check_text_only, drop_unfit
    from trainer.training.layout import defaults, layout_of
    from trainer.training.sft import VisionSFTTrainer

    state = join(config)
    run_dir = Path(config.output_dir)
    ranks = Ranks(state.num_processes, config.collective_timeout_s)
    stop = Stop(ranks, run_dir)
    stop.check()
    say = state.on_main_process(terminal.say)

    say(f"data: {len(dataset.train)} records to train on, {len(dataset.eval)} held out ({dataset.split})")
    for note in dataset.notes:
        say(f"data: {note}")
    check_text_only(config, dataset)
    processor = model.load_processor(config.model)
    dataset = drop_unfit(processor, dataset, config, ranks, say)
    if line := describe_end(processor):
        say(f"data: {line}")
    stop.check()
    layout = layout_of(config, model=base_name(config.model), data=data_digest(config.data), records=len(dataset.train))
    allow_own_classes()
    progress = ProgressWriter(run_dir if ranks.first else None, say)
    store = CheckpointStore(
        run_dir / "checkpoints", ranks, layout=layout, unsaid=defaults(), keep=config.keep_checkpoints, say=say,
        look=unsafe_pickle, before_save=partial(progress.phase, SAVING),
    )  # fmt: skip
    start = store.take_over()
    progress.phase(LOADING)

    torch.manual_seed(config.seed)  # the adapters' first values
    say("loading the model ...")
    base, anatomy = model.load_here(config, state)
    peft_model = model.add_lora(base, config, anatomy)
    if config.init_adapter and not start:
        say(f"adapter: starts from {warm_start.load(peft_model, config)}")
    held_out = heldout.hold_out(processor, dataset, config, say)
    evaluated = [dataset.eval[place] for place in choose(dataset.eval, config.eval_samples)]
    encoder = Encoder(processor, [*dataset.train, *evaluated])
    for what, found in check_contract(peft_model, config, anatomy, encoder.collate([{"index": 0}])):
        say(f"  {what:<38} {found}")
    pictures = features.keep_features(base, config, len(dataset.train), say)
    say(f"  {'a picture goes through the tower':<38} {'once' if pictures else 'every time'}")
    for index in range(min(SHOWN_EXAMPLES, len(encoder.records))) if ranks.first else ():
        say(f"example {index + 1}\n{describe_example(processor, encoder(index))}")
    stop.check()

    tracker = track.Tracker()
    if ranks.first:
        run_dir.mkdir(parents=True, exist_ok=True)
        tracker.start(config, peft_model, export.describe_run(config, dataset), step=start)
    trainer = VisionSFTTrainer(
        config, peft_model, processor, encoder.collate, (len(dataset.train), len(evaluated)),
        store=store, stop=stop, callbacks=[Progress(progress), tracker], held_out=held_out, features=pictures,
    )  # fmt: skip

    def measure(when: str, step: int) -> heldout.Scores:
        progress.phase(EVALUATING)
        scores = trainer.scores(step)
        say(heldout.describe(when, scores))
        tracker.scores(scores, step)
        return scores

    stop.step = start
    if start:
        say(f"going on from step {start} ({store.path(start)})")
        zero_shot = export.load_zero_shot(run_dir)
    else:
        # The base model's own, also where the adapter knows something already.
        untrained = peft_model.disable_adapter() if config.init_adapter else nullcontext()
        with untrained, refusing(config.model, "asked for its answers", UNFIT):
            zero_shot = measure("before training", 0)
        if ranks.first:
            export.save_zero_shot(run_dir, zero_shot)
    totals = trainer.train_from(start).metrics
    kept = trainer.load_best()
    if kept != trainer.state.global_step:
        say(f"the adapter of step {kept} is kept: its evaluation was the best")
    after = measure("after training", kept)

    if pictures:
        pictures.close()
    progress.phase(SAVING)
    export.save_adapter(run_dir, trainer, processor)
    if ranks.first:
        record = export.RunRecord(
            config=config, answer_field=held_out.field, step=kept, before=zero_shot.action, after=after.action,
            generated_before=zero_shot.beside, generated_after=after.beside,
            train=totals, history=trainer.state.log_history, **export.describe_run(config, dataset),
        )  # fmt: skip
        usage = trained.usage_of(config, dataset, held_out)
        example = (dataset.eval or dataset.train)[0]
        export.save_record(record, after.predictions, usage, anatomy.unquantized, example)
    progress.phase("finished", action_accuracy=after.action and after.action.accuracy)
    write_outcome(FINISHED)  # the adapter is on disk; what follows may be slow or fail without spoiling that
    if ranks.first:
        say(f"\n{score_table(zero_shot.action, after.action)}\n")
        say(f"adapter: {run_dir}/adapter\n{report_line(run_dir)}")
        tracker.finish(after.action)
        shutil.rmtree(features.features_dir(config), ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
