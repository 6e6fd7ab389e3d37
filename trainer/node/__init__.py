"""A node and the processes of a job on it: what is looked at first, who dies with whom, how a stop is agreed on."""
