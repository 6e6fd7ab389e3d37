"""The parts of the sbatch script: the runtime of a job, and the shell around it."""
