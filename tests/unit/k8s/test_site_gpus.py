"""What the site file's GPUs say about a request."""

from __future__ import annotations

import pytest
from specs import make_spec

from k8s.manifest.site import Cluster, refuse_unknown_gpus
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
