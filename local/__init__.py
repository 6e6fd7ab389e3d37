"""This machine as a scheduler: a process, or a container by docker or podman."""
