"""A rehearsal of `make soak`: on each bed one run, and a few faults, in half a minute."""

from __future__ import annotations

import os
import sys

import pytest
from cluster import missing
from image import Image
from paths import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.cluster
def test_a_run_comes_to_its_last_step_whatever_happens_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    import soak

    result = soak.soaked(0.5, 1, ("supervisor_killed", "newest_damaged", "disk_full"), last_step=400)
    assert (result["last_step"], result["wandb_runs"]) == (400, 1)
    assert result["faults"]
    del sys.modules["soak"]


def test_a_run_in_pods_comes_to_its_last_step_whatever_happens_to_it(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    import soak_pods

    result = soak_pods.soaked(image, 0.3, 1, ("evicted", "server_away", "cancelled"), last_step=200)
    assert (result["last_step"], result["wandb_runs"]) == (200, 1)
    assert result["faults"]
    del sys.modules["soak_pods"]
