"""What a job runs in, and the shell around it: the parts of the sbatch script."""
