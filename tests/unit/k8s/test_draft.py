"""The lines of a drafted site file about the GPUs of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.cluster.draft import GPU, MEMORY, PRODUCT, _gpus


def node(product: str, mib: int, gpus: str = "8") -> dict[str, Any]:
    labels = {PRODUCT: product, MEMORY: str(mib)}
    return {"metadata": {"labels": labels}, "status": {"allocatable": {GPU: gpus}}}


SMALL, LARGE, OLD = (
    node("NVIDIA-A100-PCIE-40GB", 40_960),
    node("NVIDIA-A100-SXM4-80GB", 81_920),
    node("Tesla-T4", 15_360),
)


@pytest.mark.parametrize(
    ("nodes", "sizes"),
    [
        ([LARGE], {"a100": ("80", "NVIDIA-A100-SXM4-80GB")}),
        ([LARGE, LARGE, node("NVIDIA-A100-SXM4-80GB", 81_920, "4")], {"a100": ("80", "NVIDIA-A100-SXM4-80GB")}),
        # The second of one name has its whole name.
        (
            [LARGE, SMALL, OLD],
            {"a100": ("40", "NVIDIA-A100-PCIE-40GB"), "nvidia-a100-sxm4-80gb": ("80", "NVIDIA-A100-SXM4-80GB")},
        ),
    ],
)
def test_each_kind_of_card_has_a_name_a_size_and_a_selector(
    nodes: list[dict[str, Any]], sizes: dict[str, tuple[str, str]]
) -> None:
    lines = _gpus(nodes)
    begin = lines.index("gpu_feature_discovery: true")
    assert lines[begin + 1 :] == [
        "gpu_types:",
        *(f"  {name}: {size}" for name, (size, _) in sizes.items()),
        "gpu_selectors:",
        *(line for name, (_, product) in sizes.items() for line in (f"  {name}:", f"    {PRODUCT}: {product}")),
    ]
    assert ("# t4: no bfloat16, which training needs" in lines) == (OLD in nodes)
