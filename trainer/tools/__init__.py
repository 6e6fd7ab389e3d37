"""Tools beside training: check that everything is in place, list layers, ask a trained model, merge it."""
