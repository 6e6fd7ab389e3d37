"""Everything that schedulers share: verbs, run records, sweeps, mounts, the words of their commands."""
