"""The member of a W&B sweep inside its job."""
