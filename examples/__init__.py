"""Examples for trying Trainyard."""
