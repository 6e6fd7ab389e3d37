"""Records: read, checked, split by session, and encoded in the same way for training and for inference."""
