"""What the API server says to a rehearsal, as it is understood."""

from __future__ import annotations

import pytest

from k8s.cluster.rehearsal import is_used_up

ONE_OF_EACH = {
    "": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


def said(asked: str, limit: str) -> str:
    return f'pods "x" is forbidden: exceeded quota: team, requested: {asked}, used: cpu=1, limited: {limit}'


@pytest.mark.parametrize("unit", ONE_OF_EACH)
def test_a_quotas_unit_is_kubernetes(unit: str) -> None:
    """Against amounts without a unit, a little less and a little more."""
    less, more = (f"memory={ONE_OF_EACH[unit] * 3 * share:.6g}" for share in (0.99, 1.01))
    assert [is_used_up(said(f"memory=3{unit}", limit)) for limit in (less, more)] == [False, True]
    assert [is_used_up(said(asked, f"memory=3{unit}")) for asked in (less, more)] == [True, False]


@pytest.mark.parametrize(
    ("asked", "limit", "used_up"),
    [
        ("cpu=4", "cpu=4", True),
        ("cpu=4,memory=8Gi", "cpu=4,memory=7Gi", False),
        ("cpu=4,memory=8Gi", "cpu=4,memory=8Gi", True),
        ("cpu=1500m", "cpu=1.5", True),
        ("cpu=1501m", "cpu=1.5", False),
        ("count/jobs.batch=1", "count/jobs.batch=1e3", True),
        ("memory=2e+3", "memory=2001", True),
        ("memory=2e-3", "memory=1m", False),
        ("cpu=1", "memory=1Gi", False),
        ("cpu=much", "cpu=4", False),
        ("cpu=1Xi", "cpu=4", False),
    ],
)
def test_a_quota_is_used_up_where_it_alone_would_hold_all_that_is_asked(asked: str, limit: str, used_up: bool) -> None:
    assert is_used_up(said(asked, limit)) is used_up


def test_another_refusal_is_no_quota() -> None:
    assert not is_used_up('pods "x" is forbidden: violates PodSecurity "restricted:latest"')
