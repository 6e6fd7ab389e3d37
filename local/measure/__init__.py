"""Measured memory on this machine: that of each stage, and the largest micro-batch that fits."""
