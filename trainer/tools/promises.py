"""The check of `validate model` that loads the weights: what a run asks of the model before its first step."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

from trainer.commands import command
from trainer.config import TrainConfig
from trainer.data.records import dataset_of
from trainer.node.machine import read_machine
from trainer.outcome import ConfigError, SickNode
from trainer.text import GIB

PACKED_BYTES = 0.5625  # a weight in 4 bits with its constants
ROOM = 1.25  # loading and one record's pass, times the weights


def contract(config: TrainConfig) -> str:
    """Load the model, and ask it on the first record with a picture all that training relies on. Where the weights
    have no room, or there are no records, the reason in words."""
    elsewhere = f"{command('trainer', 'validate', 'pipeline')} in a job, and every start, ask it"
    try:
        dataset = dataset_of(config)
    except ConfigError as error:
        return f"not asked without records ({error.words})"
    if config.device == "cuda" and not _sees_gpu():
        return f"not asked here, where torch sees no GPU: {elsewhere}"
    needed, free = weights_gib(config) * ROOM, read_machine(os.environ, with_gpus=False).free_gib
    if config.device != "cuda" and needed > free:
        return f"not asked here: it takes {needed:.1f} GiB, and {free:.1f} are free: {elsewhere}"
    from trainer.model.base import load_processor
    from trainer.model.refusal import first_words, is_of_machine
    from trainer.node.start import init_distributed, prepare_libraries, set_precision

    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="trainyard-contract-") as folder:
        alone = replace(config, output_dir=f"{folder}/run", feature_store=None, world_size=1)
        prepare_libraries(alone)
        set_precision(config.device)
        from trainer.training.ready import CHECKED, make_ready

        try:
            ready = make_ready(alone, dataset, load_processor(config.model), init_distributed(alone), said.append)
        except Exception as error:
            if not is_of_machine(error):
                raise
            raise SickNode(f"this machine cannot ask it ({first_words(error)}): {elsewhere}") from None
        if ready.pictures:
            ready.pictures.close()
    steps_back = [line for line in said if line != CHECKED and not line.startswith(" ")]
    return "; ".join([f"{len(ready.promises)} promises kept on the first record", *steps_back])


def weights_gib(config: TrainConfig) -> float:
    """GiB of the weights as this configuration loads them."""
    from trainer.measure.keep import known_or_measured

    shape, width = known_or_measured(config.model), 2 if config.device == "cuda" else 4
    packed = shape.linear_params if config.quantization == "nf4" else 0
    return (packed * PACKED_BYTES + (shape.total_params - packed) * width) / GIB


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
