"""Amounts of resources, as Kubernetes writes them."""

from __future__ import annotations

import re

UNITS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
} | {
    f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTPE")
}  # fmt: skip


def amount(quantity: str) -> float:
    """The number of a Kubernetes quantity: 500m, 64Gi, 1e3, 1e+3. Infinite for a text that is no quantity."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][-+]?[0-9]+)?)([A-Za-z]*)", quantity.strip())
    return float(found[1]) * UNITS.get(found[2], float("inf")) if found else float("inf")
