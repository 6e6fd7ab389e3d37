"""Trainyard on Slurm: a plan as an sbatch script, and the verbs of `python -m slurm`."""
