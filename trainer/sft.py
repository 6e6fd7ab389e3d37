"""TRL's SFTTrainer with three things changed: fp32 adapters, the supervised head, and no sync a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.head import install_supervised_head
from trainer.resumable import ResumableTrainer


class VisionSFTTrainer(ResumableTrainer):
    """Takes a ready PeftModel and a collator that adds `loss_positions` and `loss_targets`."""

    def __init__(self, *, model: Any, **kwargs: Any) -> None:
        adapters = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
        super().__init__(model=model, **kwargs)
        # TRL casts QLoRA adapters to bf16, too coarse for small updates at the end of a schedule.
        for name, parameter in model.named_parameters():
            if name in adapters:
                parameter.data = adapters[name]
        install_supervised_head(model.get_base_model())
        # compute_loss divides by the tokens of the whole step itself.
        self.model_accepts_loss_kwargs = True
        self._correct: list[Tensor] = []
        self._scored = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean cross-entropy over the answer tokens of the whole optimizer step, every rank and micro-batch."""
        inputs = {key: value for key, value in inputs.items() if key != "labels"}
        scored = inputs["loss_targets"].numel()
        outputs = model(**inputs)
        loss = outputs["loss_sum"] / (max(1, scored) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = (
                loss * self.accelerator.num_processes
            )  # DDP averages gradients; the divisor counts all ranks
        if self.model.training:
            self._correct.append(outputs["correct"].detach())
            self._scored += scored
        return (loss, outputs) if return_outputs else loss

    def window(self) -> dict[str, Any]:
        correct = int(torch.stack(self._correct).sum().item()) if self._correct else 0
        return {**super().window(), "correct": correct, "scored": self._scored}

    def restore_window(self, window: dict[str, Any]) -> None:
        super().restore_window(window)
        self._correct, self._scored = (
            [torch.tensor(window["correct"], device=self.args.device)],
            window["scored"],
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the token accuracy of the window since the last training log; read from the device only here."""
        if "loss" in logs and self._scored:
            logs["mean_token_accuracy"] = torch.stack(self._correct).sum().item() / self._scored
            self._correct, self._scored = [], 0
        super().log(logs, start_time)
