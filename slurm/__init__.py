"""Plan -> sbatch script, and the verbs of `python -m slurm`: plan, render, submit."""
