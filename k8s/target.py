"""The target on Kubernetes: the cluster as the site file describes it, and the folders that its pods see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from k8s import render
from k8s.manifest.pod import claim_name
from k8s.manifest.site import Cluster, find_site, read_cluster, refuse_unknown_gpus
from launcher import cli, starting
from launcher.scheduler import Batch, Found, Scheduler, Words, WordsOf
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.site import Site
from planner.request.variables import parse_given
from trainer.outcome import FINISHED, ConfigError
from trainer.text import printable

if TYPE_CHECKING:
    from k8s.cluster.seen import Run


UNBOUNDED = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubernetes:
    """A launcher.scheduler.Target. PARALLEL members of a sweep run at once, or as many as QUEUE has room for."""

    given: Words
    site: Site
    environ: Words
    project_dir: Path
    paths_elsewhere: ClassVar[bool] = True

    @property
    def parallel(self) -> int | None:
        """The limit of members that run at once, or None. Raises ConfigError for both PARALLEL and QUEUE, because a
        queue has its own limit."""
        texts = {**self.site.texts, **self.given}
        queue = parse_given({"QUEUE": texts["QUEUE"]}).queue if "QUEUE" in texts else None
        if queue and "PARALLEL" in self.given:
            said = f"QUEUE={queue} bounds how many run at once: leave PARALLEL out, or say QUEUE=none"
            raise ConfigError(said, name="PARALLEL", given=self.given["PARALLEL"])
        return UNBOUNDED if queue else None

    def complete(self, spec: JobSpec, *, is_new: bool, is_named: bool) -> JobSpec:
        cluster = self.cluster(spec)
        if is_new:
            refuse_unknown_gpus(spec, self.site, cluster)
        return render.complete(spec, cluster, self.project_dir, hashed=not is_named)

    def plan(self, spec: JobSpec) -> Plan:
        return render.plan(spec, self.cluster(spec), self.project_dir)

    def cluster(self, spec: JobSpec) -> Cluster:
        """The site file's options for the pods of a run and for its claim."""
        claim = {"PVC": claim_name(spec)} if spec.kubernetes.pvc or "PVC" in self.site.texts else {}
        return read_cluster(self.site, claim)

    def manifests(self, batch: Batch) -> str:
        most = batch.sweep.parallel if batch.sweep else UNBOUNDED
        slots = (str(index % most) if most < len(batch.plans) else "" for index in range(len(batch.plans)))
        return "---\n".join(
            render.render(plan, self.cluster(plan.spec), self.project_dir, slot=slot)
            for plan, slot in zip(batch.plans, slots, strict=True)
        )

    def notes(self, batch: Batch) -> list[str]:
        return render.notes(batch.spec, self.cluster(batch.spec))

    def render(self, batch: Batch) -> str:
        text = self.manifests(batch)
        for note in self.notes(batch):
            cli.say(note)
        return text

    def ready(self, batch: Batch, *, again: bool = False) -> Batch:
        """The batch, unchanged: all checks of this machine are done, and submit asks the cluster before it makes
        anything."""
        return batch

    def submit(self, batch: Batch, words: WordsOf) -> int:
        from k8s.cluster.kubectl import Kubectl
        from k8s.submit import submit

        kubectl = Kubectl(environ=self.environ, namespace=batch.spec.kubernetes.namespace)
        return submit(kubectl, batch, self.manifests(batch), self.notes(batch), words)

    def resubmit(
        self, found: Found[Run], runs: Sequence[Run], batch: Batch, changes: Mapping[str, Any], words: WordsOf
    ) -> int:
        from k8s.runs import place
        from k8s.submit import resubmit

        texts = [
            render.render(
                plan, self.cluster(plan.spec), self.project_dir, run.job_ids, slot=_slot_again(plan.spec, run)
            )
            for plan, run in zip(batch.plans, runs, strict=True)
        ]
        kubectl = place(self.given, self.environ, self.project_dir).kubectl
        return resubmit(kubectl, found, runs, batch, texts, self.notes(batch), words)


def _slot_again(spec: JobSpec, run: Run) -> str:
    """The slot in its sweep of a run that goes on as `spec`: QUEUE bounds how many run at once without slots."""
    from launcher.grid import PARALLEL

    if spec.kubernetes.queue:
        return ""
    if run.slot or not spec.sweep or not run.spec.kubernetes.queue:
        return run.slot
    index = run.run_id.rpartition("-")[2]
    return str(int(index) % PARALLEL if index.isdecimal() else 0)  # it leaves the queue, which bounded its sweep


def check(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    """Runs the verb `check`: prints the cluster's answer to the request; creates nothing."""
    from k8s.cluster.kubectl import Kubectl
    from k8s.cluster.rehearsal import rehearse

    asked, batch = starting.planned(scheduler, given, environ, project_dir, run_suffix=cli.fresh_suffix())
    assert isinstance(asked, Kubernetes)
    said = rehearse(Kubectl(environ=environ), batch, asked.manifests(batch), asked.notes(batch))
    print("\n".join(printable(f"kubectl  {line}") for line in said.splitlines()))
    return FINISHED


def target(given: Words, environ: Words, project_dir: Path) -> Kubernetes:
    """The target of a request. Raises ConfigError for a wrong site file."""
    if "SIZE" in given:
        raise ConfigError("is for make claim, leave it out", name="SIZE", given=given["SIZE"])
    return Kubernetes(
        given=given, site=find_site(given, project_dir, environ), environ=environ, project_dir=project_dir
    )
