"""What lists of a site file may hold; none of them is read by a cluster here."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.manifest.site_values import Volume, Wrong, _resources, _tolerations, _volumes

WHOLE = {"key": "gpu", "operator": "Equal", "value": "a100", "effect": "NoExecute", "tolerationSeconds": "60"}


def test_a_toleration_is_taken_whole_and_its_seconds_are_a_number() -> None:
    every = {"operator": "Exists"}
    assert _tolerations([WHOLE, every]) == ({**WHOLE, "tolerationSeconds": 60}, every)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"key": "", "operator": "Exists"}, {"operator": "Exists"}),
        ({"key": "gpu", "operator": "Equal", "effect": ""}, {"key": "gpu", "operator": "Equal"}),
        ({"key": "gpu", "operator": "Equal", "value": ""}, {"key": "gpu", "operator": "Equal"}),
        ({"key": "gpu"}, {"key": "gpu"}),
    ],
)
def test_an_empty_value_of_a_toleration_is_none(given: dict[str, str], taken: dict[str, str]) -> None:
    assert _tolerations([given]) == (taken,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"operator": "exists"}, "takes one of Exists, Equal, got 'exists'"),
        ({"effect": "Never"}, "takes one of NoSchedule, PreferNoSchedule, NoExecute, got 'Never'"),
        ({"key": "a b"}, "each has the key of a taint; without a key, operator: Exists tolerates all taints"),
        ({"key": ""}, "each has the key of a taint; without a key, operator: Exists tolerates all taints"),
        ({"operator": "Exists"}, "a value goes with operator Equal, and none with Exists"),
        ({"value": "a b"}, "a value takes at most 63 letters, digits and -_."),
        ({"effect": "NoSchedule"}, "tolerationSeconds goes with effect NoExecute"),
        ({"tolerationSeconds": "1.5"}, "tolerationSeconds takes a whole number"),
    ],
)
def test_a_toleration_that_no_cluster_takes_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Wrong) as caught:
        _tolerations([{**WHOLE, **change}])
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "amd.com/gpu", "gpu.intel.com/xe"])
def test_a_gpu_by_another_name_is_no_further_resource(name: str) -> None:
    with pytest.raises(Wrong, match=f"^{name} would come beside nvidia.com/gpu"):
        _resources({name: "1"})


def test_what_is_only_called_as_a_gpu_is_a_further_resource() -> None:
    others = {"gpu.intel.com/i915_monitoring": "1", "amd.com/gpu_foo": "2"}
    assert _resources(others) == others


def test_volumes_have_a_place_each() -> None:
    one, other = ({"claim": name, "mount": f"/{name}"} for name in ("data", "models"))
    assert _volumes([one, {**other, "read_only": "false"}]) == (
        Volume(claim="data", mount="/data", read_only=True),
        Volume(claim="models", mount="/models", read_only=False),
    )
    with pytest.raises(Wrong, match=r"^two of them have the same mount$"):
        _volumes([one, {**other, "mount": "/data"}])
