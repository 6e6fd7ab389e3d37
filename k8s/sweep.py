"""`make sweep TO=k8s`: a grid as one file of manifests, in which every member is a run with a Job of its own.

Not one Indexed Job, so that each member has its own retries, and is looked at, cancelled and resumed by the verbs of
every run. How many run at once is the cluster's to say: its room, or the quota behind QUEUE.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from k8s.kubectl import Kubectl
from k8s.request import Decided, complete
from k8s.site import find_site, read_cluster, refuse_unknown_gpus
from k8s.submit import start, words
from launcher import cli
from launcher.grid import EXAMPLE, Sweep, plan_table
from launcher.trials import plan_sweep
from trainer.outcome import FINISHED, ConfigError

Given = Mapping[str, str]


def plan(given: Given, environ: Given, project_dir: Path) -> int:
    planned, _ = _planned(given, environ, project_dir)
    if given.get("FORMAT") == "json":
        print(json.dumps([member.to_dict() for member in planned.plans], indent=2))
    else:
        print(plan_table(planned))
    return FINISHED


def render(given: Given, environ: Given, project_dir: Path) -> int:
    _, members = _planned(given, environ, project_dir)
    text = _text(members)
    for note in members[0].notes:
        cli.say(note)
    print(text, end="")
    return FINISHED


def ready(given: Given, environ: Given, project_dir: Path) -> int:
    _text(_planned(given, environ, project_dir)[1])
    print("launch")
    return FINISHED


def sweep(given: Given, environ: Given, project_dir: Path) -> int:
    planned, members = _planned(given, environ, project_dir, run_suffix=cli.fresh_suffix())
    first = members[0].plan.spec
    kubectl = Kubectl(environ=environ, namespace=first.namespace)
    start(kubectl, members, _text(members))
    one, all_of_them = (words(given, run_id) for run_id in (first.run_id, planned.sweep_id))
    lines = [
        f"runs    {first.run_id} and so on",
        "",
        f"status  make status {all_of_them}    (or one: make status {one})",
        f"follow  make logs {one}    (and so on)",
        f"cancel  make cancel {all_of_them}",
        f"resume  make resume {all_of_them}    (those that have ended unfinished)",
    ]
    print("\n".join([plan_table(planned), "", *lines]))
    return FINISHED


def _planned(
    given: Given, environ: Given, project_dir: Path, *, run_suffix: str | None = None
) -> tuple[Sweep, list[Decided]]:
    """The sweep, and its members as they can be rendered. Raises ConfigError for a member that no pod could run."""
    if "GRID" not in given:
        raise ConfigError(f"what shall the members differ in? say {EXAMPLE}")
    site = find_site(given, project_dir, environ)
    cluster = read_cluster(site, given)
    if run_suffix is None:
        # As for one run, the same request gives the same names, and another site file others.
        request = json.dumps([dict(given), asdict(site), asdict(cluster)], sort_keys=True)
        run_suffix = hashlib.sha256(request.encode()).hexdigest()[:8]
    planned = plan_sweep(given, project_dir=project_dir, environ=environ, run_suffix=run_suffix, site=site)
    for member in planned.plans:
        refuse_unknown_gpus(member.spec, site, cluster)
    members = [complete(member.spec, cluster, project_dir) for member in planned.plans]
    return replace(planned, parallel=len(members)), members


def _text(members: list[Decided]) -> str:
    return "---\n".join(member.render() for member in members)
