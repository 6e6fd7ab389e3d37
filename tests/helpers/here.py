"""Plans for this machine from the words of a command line, and a sweep planned for any machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial

from paths import ROOT

from launcher import cli, starting
from launcher.grid import Sweep
from launcher.scheduler import Batch
from launcher.trials import plan_sweep
from local.scheduler import SCHEDULER
from planner.choose import choose
from planner.plan import Plan
from planner.request.resolve import resolve
from planner.request.variables import read_given


def given_here(words: Sequence[str]) -> Mapping[str, str]:
    return SCHEDULER.target(read_given(words, {}), os.environ, ROOT).given


def prepare_batch(words: Sequence[str]) -> Batch:
    """The planned batch, after every refusal that is possible before a file is written."""
    given = read_given(words, {})
    target, batch = starting.planned(SCHEDULER, given, os.environ, ROOT, run_suffix=cli.fresh_suffix())
    return target.ready(batch)


def prepare(words: Sequence[str]) -> Plan:
    return prepare_batch(words).plans[0]


def sweep_of(given: Mapping[str, str]) -> Sweep:
    spec_of = partial(resolve, project_dir=ROOT, environ={})
    return plan_sweep(given, project_dir=ROOT, environ={}, spec_of=spec_of, plan_of=choose)
