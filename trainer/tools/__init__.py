"""What is asked beside training: is all in place, which layers there are, what a trained model answers, merging it."""
