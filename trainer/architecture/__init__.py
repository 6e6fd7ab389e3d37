"""The sizes of a model, read from its config.json and from measured shapes, without torch and without weights."""
