"""What a card is sold with, by what its driver says that it has."""

from __future__ import annotations

import pytest

from k8s.cluster.draft import sold_gib
from planner.values import GPU_GIB

# MiB as nvidia-smi prints them.
REPORTED = {
    "rtx3060": (12_288, 12), "l4": (23_034, 24), "rtx4090": (24_564, 24), "rtx5090": (32_607, 32), "a100": (39_538, 40),
    "l40s": (46_068, 48), "a6000": (49_140, 48), "h100": (81_559, 80), "gh200": (97_871, 96), "h200": (143_771, 141),
    "b200": (183_359, 180),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_what_a_card_reports_is_rounded_up_to_what_the_table_says_it_is_sold_with(name: str) -> None:
    reported, gib = REPORTED[name]
    assert (sold_gib(reported), GPU_GIB[name]) == (gib, gib)


def test_a_card_that_is_larger_than_all_that_are_known_has_what_it_reports() -> None:
    assert sold_gib(294_912) == 288
