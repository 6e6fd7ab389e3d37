"""A picture's features, kept on disk and read back: are they the same, and what is saved?"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from benchmarks.gpu_proof.stage import Stage


def carry_out(stage: Stage, *, tokens: int) -> dict[str, Any]:
    import torch

    from trainer.data.examples import Encoder
    from trainer.data.records import dataset_of
    from trainer.model.base import load_here, load_processor
    from trainer.model.features import keep_features
    from trainer.node.start import init_distributed

    with tempfile.TemporaryDirectory(dir=stage.folder) as run_dir:
        config = stage.config(tokens, output_dir=f"{run_dir}/run", max_length=stage.tokens(tokens), max_steps=1000)
        base, _ = load_here(config, init_distributed(config))
        records = dataset_of(config).train[:8]
        batch = Encoder(load_processor(config.model), records).collate([{"index": i} for i in range(len(records))])
        pixels = batch["pixel_values"].to(base.device, base.dtype)
        cache = keep_features(base, config)
        if isinstance(cache, str):
            raise ValueError(f"this model's features are not kept: {cache}")
        base.train()
        seconds, found = [], []
        for _ in range(2):
            began = time.perf_counter()
            with torch.no_grad():
                found.append(base.base_model.get_image_features(pixels).pooler_output)
            if not stage.rehearsal:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
            cache.settle()
        cache.close()
        return {
            "pictures": len(records), "tower_seconds": seconds[0], "reading_seconds": seconds[1],
            "computed": cache.take_computed(), "equal": bool(torch.equal(*found)),
        }  # fmt: skip
