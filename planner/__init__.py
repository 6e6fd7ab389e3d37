"""From a request to a plan: the given variables, the memory that they need, the configuration that fits. Pure but for
the files it reads."""
