"""The optimizer steps: TRL's trainer with exact resume, checkpoints of its own, and what the ranks agree on."""
