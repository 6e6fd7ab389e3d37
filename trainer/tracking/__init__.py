"""What people watch: the progress, TensorBoard, W&B, speed and memory."""
