"""What a model is built of, read off its config.json: sizes, without torch and without weights."""
