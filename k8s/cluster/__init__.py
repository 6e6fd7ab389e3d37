"""The present state of the cluster: kubectl, the objects of runs, the state of Jobs, and a first site file."""
