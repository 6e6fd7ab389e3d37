"""What steps really take on this machine: the memory of each stage, the largest micro-batch that fits."""
