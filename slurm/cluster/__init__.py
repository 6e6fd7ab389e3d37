"""Slurm as it is here: its programs asked, its nodes read, and the site file about it."""
