"""What a run leaves, and finding it again: adapter, model card, metrics, how the model is asked."""
