"""Kubernetes: Plan -> manifest, and the verbs around it. `python -m k8s --help`."""
