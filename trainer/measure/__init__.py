"""A model's shape, measured on its own skeleton: nothing is downloaded and no weights are made."""
