"""Measures a model on held-out records: scores of actions, written answers, and metrics of both."""
