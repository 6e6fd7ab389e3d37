"""What the verbs of every scheduler share: run.json, what a run says of itself, tables and progress."""
