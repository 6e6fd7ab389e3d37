"""A rehearsal of `make soak`: one run, one fault of each of three kinds, in half a minute."""

from __future__ import annotations

import os
import sys

import pytest
from cluster import missing
from paths import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_run_comes_to_its_last_step_whatever_happens_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    import soak

    result = soak.soaked(0.5, 1, ("supervisor_killed", "newest_damaged", "disk_full"), last_step=400)
    assert (result["last_step"], result["wandb_runs"]) == (400, 1)
    assert result["faults"]
    del sys.modules["soak"]
