"""Several runs from one request: grids, and the trials that a W&B sweep gives out."""
