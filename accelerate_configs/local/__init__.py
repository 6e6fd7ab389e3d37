"""A plan carried out on this machine, in the checkout's environment or in the image."""
