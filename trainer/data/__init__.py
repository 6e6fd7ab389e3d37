"""Records: read, checked, split by session, encoded for training and for asking alike."""
