"""status, logs, list and cancel, for every scheduler: `make status RUN=x TO=k8s`.

RUN names a run, or a sweep with all its members. `make status` without RUN takes the newest and prints its name;
cancel needs RUN as soon as there is more than one run. resume finds its run in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.cli import refuse_others, say, to_words, words_of
from launcher.grid import results_table
from launcher.progress import RUNNING, UNKNOWN, RunStatus, list_text, state_of, status_text, step_cell
from launcher.records import SPOILT
from launcher.scheduler import Found, P_co, Place, R, Scheduler, Words
from launcher.states import begin
from trainer.outcome import FINISHED, ConfigError, SchedulerError
from trainer.text import nearest, printable

LISTED = 30
NAMED = 5


def status(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    place, found = find(scheduler, given, environ, project_dir)
    seen = place.statuses(found.runs)
    words = words_of(scheduler, given, found.name)
    if found.is_sweep:
        _say_unknown(seen)
    if found.sweep:
        states = [(state_of(run), step_cell(run)) for run in seen]
        print(results_table(found.sweep, states, _next_of_sweep(seen, words, _again(found, words))))
    elif found.is_sweep:
        print(f"{printable(_summary(found, seen))}\n\n{list_text(seen)}")
        if after := _next_of_sweep(seen, words, _again(found, words)):
            print(f"\nnext   {after}")
    else:
        print(status_text(seen[0], words, again=_again(found, words)))
    return FINISHED


def list_runs(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    if "RUN" in given:
        raise ConfigError("list shows all; make status RUN=... shows one", name="RUN", given=given["RUN"])
    place = _place(scheduler, given, environ, project_dir)
    runs, count = place.newest(LISTED)
    if not runs:
        print(f"no run in {place.where}")
        return FINISHED
    seen = place.statuses([run for run in runs if not isinstance(run, str)])
    _say_unknown(seen)
    rows = iter(seen)
    print(list_text([run if isinstance(run, str) else next(rows) for run in runs]))
    if count > len(runs):
        print(f"and {count - len(runs)} older in {place.where}")
    return FINISHED


def logs(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    """Print the run's log until its job has ended. Ctrl-C ends the command without an error. For a sweep, the log is
    that of the first running member, else of the first unfinished one, else of the first."""
    try:
        place, found = find(scheduler, given, environ, project_dir)
        run = found.runs[0]
        if found.is_sweep:
            seen = list(zip(place.statuses(found.runs), found.runs, strict=True))
            running = [run for state, run in seen if state_of(state) == RUNNING]
            run = (running or [run for state, run in seen if not state.done] or [run])[0]
            say(f"RUN={found.name} is a sweep: this is {run.run_id}, RUN= shows another")
        place.follow(run)
    except KeyboardInterrupt:
        pass
    return FINISHED


def cancel(scheduler: Scheduler[Any, Any], given: Words, environ: Words, project_dir: Path) -> int:
    place, found = find(scheduler, given, environ, project_dir, only=True)
    done = place.cancel(found.runs)
    count, words = len(done.job_ids), words_of(scheduler, given, found.name)
    if count:
        what = f"{count} job{'s' * (count > 1)}" if found.is_sweep else f"job {', '.join(done.job_ids)}"
        again = f"{_again(found, words)} starts {'them' if found.is_sweep else 'it'} again"
        print(printable(f"cancelled {what} of {found.text}; {again}"), flush=True)
    elif not done.failure:
        print(f"{found.text} has no job that is pending or running")
    if done.failure and done.unsure:
        raise SchedulerError(f"{done.failure}: make status {words} shows what is there")
    if done.failure:
        raise done.failure
    return FINISHED


def find(
    scheduler: Scheduler[P_co, Any],
    given: Words,
    environ: Words,
    project_dir: Path,
    *,
    only: bool = False,
    takes: Sequence[str] = (),
) -> tuple[P_co, Found[Any]]:
    """The place, and the run that RUN names; without RUN the newest run, or with `only` the only run. `takes` are
    variables that the verb takes besides those that identify a run.

    Raises:
        ConfigError: there is no such run, or no single run to take.
    """
    place = _place(scheduler, given, environ, project_dir, takes)
    return place, _found(scheduler, place, given.get("RUN"), only=only)


def _found(scheduler: Scheduler[Any, Any], place: Place[R], run_id: str | None, *, only: bool) -> Found[R]:
    if run_id and (found := place.named(run_id)):
        return found
    known = place.known()
    if not known:
        raise ConfigError(f"no run in {place.where}: {begin(to_words(scheduler))} starts one, {place.elsewhere}")
    names = ", ".join(known[:NAMED]) + (", ..." if len(known) > NAMED else "")
    if run_id:
        near = nearest(run_id, known) or ":"
        raise ConfigError(f"no such run in {place.where}{near} known are {names}", name="RUN", given=run_id)
    if only and len(known) > 1:
        raise ConfigError(f"which of {len(known)} runs? say RUN= one of {names}")
    newest = place.named(known[0])
    if newest is None:
        raise ConfigError(f"run {known[0]} has just been removed: the same command again")
    say(f"RUN is left out: {known[0]}, the newest in {place.where}")
    return newest


def _place(
    scheduler: Scheduler[P_co, Any], given: Words, environ: Words, project_dir: Path, takes: Sequence[str] = ()
) -> P_co:
    refuse_others(given, (*scheduler.takes, *takes))
    return scheduler.place(given, environ, project_dir)


def _again(found: Found[Any], words: str) -> str:
    return found.again or f"make resume {words}"


def _summary(found: Found[Any], seen: Sequence[RunStatus]) -> str:
    """sweep first: 256 members: 4 RUNNING, 200 PENDING, 52 COMPLETED"""
    counts = Counter(state_of(run) for run in seen)
    return (
        f"{found.text}: {len(seen)} members: {', '.join(f'{count} {state}' for state, count in counts.most_common())}"
    )


def _next_of_sweep(seen: Sequence[RunStatus], words: str, again: str) -> str:
    if all(run.done for run in seen):
        return ""
    jobs = [job for run in seen for job in run.jobs]
    if any(not job.ended for job in jobs):
        return f"make logs {words} (follows one; make cancel {words} ends all)"
    if bad := next((run for run in seen if run.spoilt), None):
        return f"{bad.place}/{SPOILT}, then {again}"
    return f"{again} (those that are unfinished)"


def _say_unknown(seen: Sequence[RunStatus]) -> None:
    """Print once why the scheduler gives no answer about jobs, since a table has no room for it."""
    for reason in dict.fromkeys(job.reason for run in seen for job in run.jobs if job.state == UNKNOWN):
        say(reason)
