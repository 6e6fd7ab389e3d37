"""What sinfo's lines say of a cluster's nodes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from programs import make_program

from slurm.cluster.nodes import NodeGroup, read_nodes
from slurm.cluster.queue import SlurmError

LINES = """\
low*|1-02:30:00|12|64|256000|gpu:a100:8(S:0-1),gpu:2,mps:100|ib,nvme|NO
debug|30:00|1|8+|1+|(null)|(null)|EXCLUSIVE
long|infinite|0|128|512000|gpu:h100:4|(null)|FORCE:4
a line of something else
short|2:15:00|3|4|16000|gres/fpga:2,gpu:l4:1|x|OVERSUBSCRIBE
"""


def sinfo(folder: Path, said: str) -> dict[str, str]:
    (folder / "said").write_text(said)
    make_program(str(folder), "sinfo", f"cat '{folder}/said'")
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_a_line_is_a_group_of_equal_nodes(tmp_path: Path) -> None:
    assert read_nodes(sinfo(tmp_path, LINES)) == (
        NodeGroup(
            partition="low", default=True, limit_min=26 * 60 + 30, nodes=12, cpus=64, mem_mib=256000,
            gpus=(("a100", 8), ("", 2)), features="ib,nvme",
        ),
        NodeGroup(
            partition="debug", default=False, limit_min=30, nodes=1, cpus=8, mem_mib=1, gpus=(), features="",
            whole=True,
        ),
        NodeGroup(
            partition="long", default=False, limit_min=None, nodes=0, cpus=128, mem_mib=512000,
            gpus=(("h100", 4),), features="",
        ),
        NodeGroup(
            partition="short", default=False, limit_min=135, nodes=3, cpus=4, mem_mib=16000, gpus=(("l4", 1),),
            features="x",
        ),
    )  # fmt: skip


def test_gpus_are_counted_of_one_type_or_of_all(tmp_path: Path) -> None:
    low, debug, *_ = read_nodes(sinfo(tmp_path, LINES))
    assert [low.gpu_count(kind) for kind in (None, "a100", "", "l4")] == [10, 8, 2, 0]
    assert debug.gpu_count(None) == 0
    assert (low.tracks_memory, debug.tracks_memory) == (True, False)


def test_what_is_no_list_of_nodes_is_an_error_of_slurm(tmp_path: Path) -> None:
    with pytest.raises(SlurmError, match=r"^sinfo said what is no list of nodes: invalid literal for int\(\)"):
        read_nodes(sinfo(tmp_path, "low|30:00|many|8|1|(null)|(null)|NO\n"))
