"""The optimizer steps: TRL's trainer with exact resume, its own checkpoints, and agreements between the ranks."""
