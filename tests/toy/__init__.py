"""A scheduler in small: it starts processes on this machine. docs/add-a-scheduler.md walks through it."""
