"""Values of the source tutorial, as they stand there."""

TRAINING_CONFIG = """\
learning_rate: 2e-4
max_steps: 1500
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
gradient_checkpointing: true
dataloader_num_workers: 0
bf16: true
weight_decay: 0.01
max_grad_norm: 1.0
warmup_ratio: 0.1
lr_scheduler_type: cosine
optim: adamw_torch
logging_steps: 10
save_steps: 250
eval_steps: 250
save_total_limit: 3
"""
