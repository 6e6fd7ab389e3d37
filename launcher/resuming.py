"""resume, for every scheduler: an ended run continues with the same id, in its folder or claim, as a new job.

The request is the one that was recorded when the run began; it is planned again, so that a repaired checkout counts.
For a sweep, all unfinished members continue.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from launcher import verbs
from launcher.changes import changed, changes_of
from launcher.cli import say_open, words_of
from launcher.scheduler import Batch, Scheduler, Target, Words
from planner.request.variables import resumable


def resume(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    place, found = verbs.find(scheduler, given, environ, project_dir, only=True, takes=resumable(scheduler.name))
    say_open(project_dir)
    changes = changes_of(scheduler.name, given, environ)
    target: Target[Any] = scheduler.target(given, environ, project_dir)
    words = partial(words_of, scheduler, given)
    with place.held(found, words) as runs:
        specs = [changed(place.spec_of(run), changes) for run in runs]
        plans = [target.plan(target.complete(spec, is_new=False, is_named=True)) for spec in specs]
        batch = target.ready(Batch(plans=tuple(plans)), again=True)
        return target.resubmit(found, runs, batch, changes, words)
