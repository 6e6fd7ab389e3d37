"""The cluster as it is here: kubectl, the objects of runs, how Jobs stand, and a first site file."""
