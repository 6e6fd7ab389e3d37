"""Measurements on this machine: its cards and memory, the memory of each stage, the largest micro-batch that fits."""
