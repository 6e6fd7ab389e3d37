"""A run on this machine: a process that holds its lock, or a container."""
