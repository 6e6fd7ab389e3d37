"""One training run, start to end: data, model, contract, zero-shot score, training, score, export.

    accelerate launch --config_file accelerate_configs/cpu_mps.yaml -m trainer.train --model M --data D \\
        --output_dir runs/x --run_id x --device cpu

The run's folder then has adapter/ (with the processor), metrics.json, predictions.jsonl, report.html, checkpoints/,
tensorboard/ and wandb/. A second start continues from the newest checkpoint.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from trainer import log
from trainer.data.shared import node_dataset
from trainer.env_file import watched
from trainer.model.warm_start import check_start
from trainer.node.late_imports import import_late, uncollected
from trainer.node.processes import in_rank, rank_listens
from trainer.node.start import exit_unagreed, prepare_libraries
from trainer.node.stop import Stopped
from trainer.outcome import (
    ATTEMPT_DIR_ENV,
    BAD_CONFIG,
    FINISHED,
    ConfigError,
    SickNode,
    is_panic,
    panic_words,
    write_outcome,
)
from trainer.settings import resolve_settings
from trainer.start_clock import CLOCK
from trainer.training.checkpoint import CheckpointError


def main(argv: Sequence[str]) -> int:
    in_rank()
    log.begin(f"rank {os.environ.get('RANK', '0')}")
    CLOCK.passed("processes")
    try:
        settings = resolve_settings(argv, os.environ)
        config = settings.config()
        if os.environ.get("RANK", "0") == "0":
            for notice in settings.notices:
                log.complain(notice)
        watched(os.environ)
        check_start(config)
        dataset = node_dataset(config, os.environ)
        CLOCK.passed("settings and records")
        prepare_libraries(config)
        with uncollected():
            import_late()
            from trainer.training.run import train  # its imports read the environment that was just prepared

        CLOCK.passed("libraries")
        rank_listens()
        train(config, dataset)
    except SickNode as error:
        return exit_unagreed(error)
    except (ConfigError, CheckpointError) as error:
        return leave(error.exit_code, str(error))
    except Stopped as stopped:
        return leave(*stopped.args)
    except BaseException as error:
        if not is_panic(error):
            raise
        log.complain(panic_words(error))
        write_outcome(BAD_CONFIG, panic_words(error))
        return BAD_CONFIG  # not 0, so that torchrun ends the ranks that wait for this one
    return FINISHED


def leave(code: int, message: str) -> int:
    """The exit code of a rank that ends with a known outcome, after recording the outcome.

    Every rank has the same outcome, so under a supervisor all ranks exit with 0: another code would only make
    torchrun kill the others and print its own traceback. The supervisor reads the outcome instead.
    """
    write_outcome(code, message)
    if os.environ.get(ATTEMPT_DIR_ENV):
        return FINISHED
    log.complain(message)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
