"""docs/model-types.md says of every type of the installed transformers what becomes of it; one of them is tried."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import ROOT
from try_models import known

PAGE = ROOT / "docs" / "model-types.md"
RESULTS = {"trains", "refused", "not built here", "not tried"}


def test_the_table_has_every_type_and_no_failure() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES

    table = known(PAGE.read_text(encoding="utf-8"))
    assert set(table) == set(TYPES)
    assert {result for result, _ in table.values()} <= RESULTS
    assert all(why for result, why in table.values() if result != "trains")


@pytest.mark.slow
def test_a_type_whose_head_scales_its_logits_is_taken_the_whole_way() -> None:
    """No line of the trainer knows it: it is built from its own classes, and trains with the model's own head."""
    command = [sys.executable, "tests/try_models.py", "granite_docling"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "granite_docling  trains  " in done.stdout and "the model's own head" in done.stdout
