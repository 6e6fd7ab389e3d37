"""Measures a model's shape on its own skeleton: no weights are downloaded or allocated."""
