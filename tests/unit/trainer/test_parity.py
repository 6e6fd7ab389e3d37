"""The same training as stock TRL, step by step: same records, seed and settings, TRL's own collator and loss."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from training import run_forked, train_forked

STEPS = 8
SETTINGS: dict[str, Any] = {"micro_batch_size": 4, "max_steps": STEPS, "lora_r": 8, "lora_alpha": 16, "seed": 3}


def stock_trl(model: str, data: str, out: str, put_back_fp32: bool) -> None:
    """Train with SFTTrainer as it comes; write its losses and the labels of its first batch to `out`."""
    import torch
    from datasets import Dataset
    from transformers import AutoConfig
    from trl import SFTConfig, SFTTrainer

    from trainer.config import TrainConfig
    from trainer.data.grid import load_picture
    from trainer.data.records import load_dataset
    from trainer.model import base as models

    config = TrainConfig(
        model=model,
        data=data,
        output_dir=out,
        run_id="-",
        device="cpu",
        lora_dropout=0.0,
        learning_rate=2e-3,
        **SETTINGS,
    )
    processor = models.load_processor(model)
    anatomy = models.find_anatomy(AutoConfig.from_pretrained(model))
    torch.manual_seed(config.seed)
    base = models.load_base(config, anatomy, dtype=torch.float32, device_map={"": "cpu"})
    peft_model = models.add_lora(base, config, anatomy)
    rows = [
        {
            "prompt": [{"role": "user", "content": r.prompt}],
            "completion": [{"role": "assistant", "content": r.answer}],
            "images": [load_picture(r.pictures[0].paths)],
        }
        for r in load_dataset(data).train
    ]
    arguments = SFTConfig(
        output_dir=out, per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=STEPS,
        learning_rate=2e-3, weight_decay=0.01, max_grad_norm=1.0, optim="adamw_torch_fused", bf16=False, use_cpu=True,
        seed=3, data_seed=3, logging_steps=1,
        save_strategy="no", report_to="none", gradient_checkpointing=False, max_length=None,
    )  # fmt: skip
    adapters = {name: p.data for name, p in peft_model.named_parameters() if p.requires_grad}
    trainer = SFTTrainer(
        model=peft_model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=processor
    )
    if put_back_fp32:
        for name, parameter in peft_model.named_parameters():
            if name in adapters:
                parameter.data = adapters[name]
    # One step of warm-up, which begins at half the peak; transformers' own begins with a step that changes nothing.
    rates = [0.5, *(0.5 + 0.5 * math.cos(math.pi * n / (STEPS - 1)) for n in range(STEPS))]
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.create_optimizer(), rates.__getitem__)
    batch = trainer.data_collator([dict(trainer.train_dataset[i]) for i in range(4)])
    trainer.train()
    Path(out).mkdir(exist_ok=True)

    def unpadded(key: str) -> list[list[int]]:
        return [row[mask.bool()].tolist() for row, mask in zip(batch[key], batch["attention_mask"], strict=True)]

    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found = {"losses": losses, "ids": unpadded("input_ids"), "labels": unpadded("labels")}
    Path(out, "stock.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, walks: Path) -> list[float]:
    folder = tmp_path_factory.mktemp("ours")
    ended = train_forked(folder, model=tiny_model, data=walks, **SETTINGS)
    assert ended.codes == (0,), ended.output
    history = json.loads((folder / "run" / "metrics.json").read_text())["history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize(("put_back_fp32", "relative"), [(True, 1e-3), (False, 5e-3)], ids=["fp32", "as-it-ships"])
def test_losses_follow_stock_trl(
    put_back_fp32: bool, relative: float, ours: list[float], tiny_model: Path, walks: Path, tmp_path: Path
) -> None:
    ended = run_forked(tmp_path, stock_trl, str(tiny_model), str(walks), str(tmp_path / "out"), put_back_fp32)
    assert ended.codes == (0,), ended.output
    stock = json.loads((tmp_path / "out" / "stock.json").read_text())
    assert len(stock["losses"]) == STEPS
    assert ours == pytest.approx(stock["losses"], rel=relative)

    # Labels token by token.

    from trainer.data.examples import Encoder
    from trainer.data.records import load_dataset
    from trainer.model.base import load_processor

    encode = Encoder(load_processor(str(tiny_model)), load_dataset(str(walks)).train)
    examples = [encode(i) for i in range(4)]
    assert [e["input_ids"][0].tolist() for e in examples] == stock["ids"]
    assert [e["labels"][0].tolist() for e in examples] == stock["labels"]
