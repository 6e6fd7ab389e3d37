"""This machine: its cards and memory, the memory of each stage, and the largest micro-batch that fits."""
