"""How good a model is on held-out records: actions scored, answers written out, metrics of both."""
