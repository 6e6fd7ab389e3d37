"""What every scheduler shares: run records, sweeps, mounts, the words of their commands."""
