"""The present state of Slurm: calls of its programs, its nodes, and the site file about it."""
