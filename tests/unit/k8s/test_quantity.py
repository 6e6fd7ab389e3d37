"""Amounts of resources as Kubernetes writes them; its documentation lists the suffixes under Quantity."""

from __future__ import annotations

import math

import pytest

from k8s.cluster.quantity import amount

AMOUNTS = {
    "5n": 5e-9, "5u": 5e-6, "500m": 0.5, "2": 2, "1.5": 1.5, "5k": 5000, "5M": 5_000_000, "5G": 5_000_000_000,
    "5T": 5_000_000_000_000, "5P": 5 * 10**15, "5E": 5 * 10**18, "1Ki": 2**10, "1Mi": 2**20, "64Gi": 2**36,
    "1Ti": 2**40, "1Pi": 2**50, "1Ei": 2**60, "1e3": 1000, "1e+3": 1000, "12E2": 1200, " 8 ": 8,
}  # fmt: skip


@pytest.mark.parametrize(("text", "number"), AMOUNTS.items())
def test_a_quantity_is_its_number(text: str, number: float) -> None:
    assert amount(text) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize("text", ["", "much", "5K", "5 Gi", "-1", "5Gib"])
def test_what_is_no_quantity_is_more_than_any(text: str) -> None:
    assert amount(text) == math.inf
