"""The files that a run leaves, and reading them again: adapter, model card, metrics, the way to ask the model."""
