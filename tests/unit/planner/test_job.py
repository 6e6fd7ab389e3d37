"""A JobSpec lies in parts, and each field is reached by its own name."""

from __future__ import annotations

from dataclasses import fields

import pytest
from specs import GEMMA_4B, make_spec

from planner.job import FIELDS, PART_OF, PARTS, Resources, Slurm, Training


def test_no_two_parts_have_a_field_of_the_same_name() -> None:
    own = [name for name in FIELDS if name not in PART_OF]
    named = [*own, *PARTS, *(field.name for kind in PARTS.values() for field in fields(kind))]
    assert sorted(named) == sorted({*FIELDS, *PARTS}) and len(named) == len(set(named))


def test_fields_are_given_changed_and_read_by_their_names_alone() -> None:
    spec = make_spec(gpus=2, account="a", max_length=99)
    assert (spec.resources, spec.slurm, spec.training) == (
        Resources(gpus=2), Slurm(account="a"), Training(max_length=99)
    )  # fmt: skip
    changed = spec.but(gpus=4, output="out", queue="q")
    assert changed == make_spec(gpus=4, account="a", max_length=99, output="out", queue="q")
    assert [changed.value(name) for name in ("gpus", "output", "queue")] == [4, "out", "q"]
    assert list(changed.values()) == list(FIELDS) and changed.values()["queue"] == "q"
    for name in ("gpu", "resources.gpus"):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            spec.but(**{name: 1})
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            make_spec(GEMMA_4B, **{name: 1})
