"""A node and a job's processes on it: checks before the start, which processes end together, how they agree on a
stop."""
