"""A W&B sweep's member in its job."""
