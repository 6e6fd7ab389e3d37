"""What the site file's GPUs say about a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plans import make_plan
from specs import make_spec

from k8s.manifest.pod import Names, pod_spec
from k8s.manifest.site import Cluster, refuse_unknown_gpus
from k8s.render import complete
from planner.choose import contradictions
from planner.request.site import Site
from trainer.outcome import ConfigError

SITE = Site(source="site.yaml", gpu_gib={"a100": 40.0})
CLUSTER = Cluster(gpu_gib=SITE.gpu_gib, gpu_selectors={"h100": {"gpu": "h100"}})


def test_a_gpu_type_whose_size_the_file_does_not_say_is_not_held_to_anothers() -> None:
    refuse_unknown_gpus(make_spec(gpu_type="h100", vram_gib=80), SITE, CLUSTER)


@pytest.mark.parametrize(("kind", "which"), [("a100", "a100"), (None, "the largest GPU, a100,")])
def test_a_size_that_the_file_says_is_held_to(kind: str | None, which: str) -> None:
    with pytest.raises(ConfigError, match=f"^VRAM=80: {which} has 40 GiB in site.yaml"):
        refuse_unknown_gpus(make_spec(gpu_type=kind, vram_gib=80), SITE, CLUSTER)


RESOURCES = {
    **{"a100-3g": "nvidia.com/mig-3g.40gb", "mi300x": "amd.com/gpu"},
    **{"shared": "nvidia.com/gpu.shared", "shared-3g": "nvidia.com/mig-3g.40gb.shared"},
}


def pod_of(kind: str | None, **request: Any) -> dict[str, Any]:
    cluster = Cluster(gpu_resources=RESOURCES, gpu_feature_discovery=True)
    plan = make_plan(gpu_type=kind, vram_gib=40, image="a/b:c", **request)
    return pod_spec(plan, cluster, Names(run="r", job="r"))


@pytest.mark.parametrize(
    ("kind", "asked", "tolerated", "label"),
    [
        ("a100-3g", RESOURCES["a100-3g"], ["nvidia.com/gpu", RESOURCES["a100-3g"]], f"{RESOURCES['a100-3g']}.memory"),
        ("mi300x", "amd.com/gpu", ["nvidia.com/gpu", "amd.com/gpu"], ""),
        (None, "nvidia.com/gpu", ["nvidia.com/gpu"], "nvidia.com/gpu.memory"),
        ("shared", RESOURCES["shared"], ["nvidia.com/gpu", RESOURCES["shared"]], "nvidia.com/gpu.memory"),
        (
            *("shared-3g", RESOURCES["shared-3g"], ["nvidia.com/gpu", RESOURCES["shared-3g"]]),
            f"{RESOURCES['a100-3g']}.memory",
        ),
    ],
)
def test_a_gpu_type_may_be_another_resource_than_nvidias(
    kind: str | None, asked: str, tolerated: list[str], label: str
) -> None:
    pod = pod_of(kind)
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "32Gi", asked: "1"}
    assert [part["key"] for part in pod["tolerations"]] == tolerated
    terms = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    keys = [rule["key"] for term in terms.get("nodeSelectorTerms", []) for rule in term["matchExpressions"]]
    assert keys == [label] * bool(label)


def test_a_run_has_one_slice_whatever_its_gpu_type_is_called(tmp_path: Path) -> None:
    cluster = Cluster(gpu_resources=RESOURCES)
    with pytest.raises(ConfigError, match=r"^GPUS=2: one run uses one slice of a card \(MIG\)"):
        complete(make_spec(gpu_type="a100-3g", vram_gib=40, gpus=2), cluster, tmp_path, hashed=False)


@pytest.mark.parametrize("kind", ["a100-3g", "a100_1g.5gb"])
def test_several_processes_on_cpus_share_no_slice(kind: str, tmp_path: Path) -> None:
    spec = make_spec(gpu_type=kind, vram_gib=40, gpus=2, device="cpu")
    assert complete(spec, Cluster(gpu_resources=RESOURCES), tmp_path, hashed=False).num_processes == 2
    assert not contradictions(spec)
