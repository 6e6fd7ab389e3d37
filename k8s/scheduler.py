"""Kubernetes as a scheduler: the variables it takes, and its two parts, each imported when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.scheduler import Scheduler, Words

if TYPE_CHECKING:
    from k8s.runs import Runs
    from k8s.target import Kubernetes


class KubernetesScheduler:
    """A launcher.scheduler.Scheduler."""

    name = "k8s"
    takes = ("RUN", "NAMESPACE", "SITE")

    def place(self, given: Words, environ: Words, project_dir: Path) -> Runs:
        from k8s.runs import place

        return place(given, environ, project_dir)

    def target(self, given: Words, environ: Words, project_dir: Path) -> Kubernetes:
        from k8s.target import target

        return target(given, environ, project_dir)


SCHEDULER: Scheduler[Runs, Kubernetes] = KubernetesScheduler()
