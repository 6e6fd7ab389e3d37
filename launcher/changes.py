"""The changes that `resume` may make to a run's request, from the table of variables, the same for every scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.job import JobSpec
from planner.request.variables import job_fields, parse_given, resumable
from planner.values import expand_home


def changes_of(scheduler: str, given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, Any]:
    """The JobSpec fields that are changed for a resumed run. Raises ConfigError for a value that is not allowed."""
    names = resumable(scheduler)
    fields = job_fields(parse_given({name: text for name, text in given.items() if name in names}))
    if fields.get("image"):
        fields["image"] = expand_home(fields["image"], environ, name="IMAGE")
    return fields


def changed(spec: JobSpec, changes: Mapping[str, Any]) -> JobSpec:
    """`spec` with `changes`; variables of the environment are added to the run's own."""
    added = {**dict(spec.environment), **dict(changes.get("environment", ()))}
    return spec.but(**{**changes, "environment": tuple(sorted(added.items()))})
