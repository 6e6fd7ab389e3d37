"""The displays of a run that people watch: progress, TensorBoard, W&B, speed and memory."""
