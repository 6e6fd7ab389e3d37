"""The lines of a drafted site file about the GPUs of a cluster."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

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


SLICE = "nvidia.com/mig-1g.10gb"


def sliced(card: str, mib: int | None, **offered: str) -> dict[str, Any]:
    labels = {f"{SLICE}.product": f"{card}-MIG-1g.10gb", f"{SLICE}.memory": str(mib)} if mib else {}
    return {"metadata": {"labels": labels}, "status": {"allocatable": {"cpu": "64", SLICE: "7", **offered}}}


A100, H100 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3"
SHARED = sliced(A100, 9728)
SHARED["metadata"]["labels"][f"{SLICE}.product"] += "-SHARED"  # several pods have one slice
UNLABELLED = {"metadata": {}, "status": {"allocatable": {GPU: "8"}}}


def keys_of(nodes: list[dict[str, Any]]) -> Any:
    return yaml.safe_load("\n".join(_gpus(nodes)))


def test_slices_of_different_cards_are_told_apart_by_their_product() -> None:
    nodes = [sliced(A100, 9728), sliced(H100, 9984), sliced("NVIDIA-A100-PCIE-80GB", 9728)]
    names = {"a100-1g.10gb": "NVIDIA-A100-PCIE-80GB", "nvidia-a100-sxm4-80gb-1g.10gb": A100, "h100-1g.10gb": H100}
    assert keys_of(nodes) == {
        "gpu_feature_discovery": True,
        "gpu_types": dict.fromkeys(names, 10),
        "gpu_resources": dict.fromkeys(names, SLICE),
        "gpu_selectors": {name: {f"{SLICE}.product": f"{card}-MIG-1g.10gb"} for name, card in names.items()},
    }


@pytest.mark.parametrize("sizes", [(9728, 11000), (11000, 9728)])
def test_of_two_sizes_of_one_product_the_smaller_is_drafted(sizes: tuple[int, int]) -> None:
    assert keys_of([sliced(A100, mib) for mib in sizes])["gpu_types"] == {"a100-1g.10gb": 10}
    assert keys_of([node(A100, mib * 8) for mib in sizes])["gpu_types"] == {"a100": 80}


def test_whole_cards_without_labels_beside_slices_are_not_asked_for_by_label() -> None:
    assert "gpu_feature_discovery" not in keys_of([sliced(A100, 9728), UNLABELLED])
    assert "# No whole GPU with labels of GPU Feature Discovery: say gpu_types and gpu_selectors by hand." in _gpus(
        [sliced(A100, 9728), UNLABELLED]
    )
    assert keys_of([sliced(A100, 9728), LARGE])["gpu_feature_discovery"] is True


@pytest.mark.parametrize(
    ("nodes", "resources"),
    [
        ([sliced(A100, None)], [SLICE]),
        ([sliced(A100, None), UNLABELLED], [SLICE]),
        ([SHARED], [SLICE]),
        ([sliced(A100, 9728, **{"amd.com/gpu": "8", f"{GPU}.shared": "4"})], ["amd.com/gpu", f"{GPU}.shared"]),
    ],
)
def test_what_no_label_sizes_is_left_to_a_person(nodes: list[dict[str, Any]], resources: list[str]) -> None:
    said = "is offered without a label that says how much memory a run gets: say gpu_types and gpu_resources by hand."
    assert [line for line in _gpus(nodes) if said in line] == [f"# {resource} {said}" for resource in resources]


def test_only_a_cluster_without_gpus_is_asked_for_its_device_plugin() -> None:
    assert _gpus([{"metadata": {}, "status": {"allocatable": {GPU: "0", "cpu": "4"}}}]) == [
        "# No node offers nvidia.com/gpu here: is NVIDIA's device plugin or operator installed?"
    ]
