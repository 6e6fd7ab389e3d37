"""What is read of this machine. Its GPUs are pretended (tests/nvidia_smi); cores, memory and control groups are real
files, or files of the same form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pretend_gpus import put_nvidia_smi

from trainer.node import cgroups, gpus
from trainer.node.gpus import Gpu, read_gpus
from trainer.node.machine import Machine, read_machine
from trainer.text import GIB


def machine(tmp_path: Path, name: str, **environ: str) -> Machine:
    put_nvidia_smi(tmp_path / "bin", name)
    return read_machine(environ)


@pytest.fixture(autouse=True)
def smi_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("name", "device", "cards", "gib", "why"),
    [
        ("rtx3070", "cuda", [0], 8.0, ""),
        ("two-rtx4090", "cuda", [0, 1], 24.0, ""),
        ("held", "cuda", [0], 24.0, "20.1 GiB of NVIDIA GeForce RTX 4090 are held by others"),
        ("two-kinds", "cuda", [1], 24.0, "3 kinds are here, and one run uses one"),
        ("mig", "cuda", [0], 20.0, "one run uses one slice"),
        ("one-broken", "cuda", [0], 24.0, "NVIDIA GeForce RTX 4090 does not answer"),
        ("too-old", "cpu", [], None, "Tesla T4 has no bf16, in which training computes"),
    ],
)
def test_a_run_gets_the_cards_of_one_kind_that_offer_most_together(
    name: str, device: str, cards: list[int], gib: float | None, why: str, tmp_path: Path
) -> None:
    found = machine(tmp_path, name)
    choice = found.choice()
    assert [found.cards.index(card) for card in choice.cards] == cards
    assert (choice.device, choice.vram_gib, choice.why) == (device, gib, why)


def test_a_divided_card_is_its_slices(tmp_path: Path) -> None:
    cards = machine(tmp_path, "mig").cards
    assert [(card.name, card.total_gib, card.uuid[:5]) for card in cards] == [
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20.0, "MIG-1"),
        ("NVIDIA A100-SXM4-40GB MIG 2g.10gb", 10.0, "MIG-2"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5.0, "MIG-3"),
    ]


@pytest.mark.parametrize(
    ("listed", "uuids"),
    [("1", ["GPU-1"]), ("1,0", ["GPU-1", "GPU-0"]), ("GPU-1", ["GPU-1"]), ("0,-1,1", ["GPU-0"]), ("", [])],
)
def test_what_cuda_is_not_shown_is_not_offered(listed: str, uuids: list[str], tmp_path: Path) -> None:
    found = machine(tmp_path, "two-rtx4090", CUDA_VISIBLE_DEVICES=listed)
    assert [card.uuid[:5] for card in found.cards] == uuids
    if not uuids:
        assert found.choice().why == "CUDA_VISIBLE_DEVICES hides every card"


@pytest.mark.parametrize(
    ("said", "code", "silent", "device", "why"),
    [
        ("Unable to determine the device handle: GPU is lost", 15,
         "nvidia-smi failed (15): Unable to determine the device handle: GPU is lost", "cuda",
         "nvidia-smi failed (15): Unable to determine the device handle: GPU is lost"),
        ("No devices were found", 6, "", "cpu", "nvidia-smi finds no GPU"),
        ("", 0, "", "cpu", "nvidia-smi finds no GPU"),
    ],
)  # fmt: skip
def test_gpus_that_do_not_answer_are_no_reason_to_train_on_the_cpu_and_none_is(
    said: str, code: int, silent: str, device: str, why: str, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf %s '{said}'\nexit {code}\n")
    program.chmod(0o755)
    found = read_machine({})
    assert (found.silent, found.choice().device, found.choice().why) == (silent, device, why)


def test_a_card_that_does_not_answer_is_left_out_and_named(tmp_path: Path) -> None:
    found = machine(tmp_path, "one-broken")
    assert [card.unfit for card in found.cards] == ["", "does not answer: [Unknown Error]"]
    assert (found.choice().cards, found.choice().why) == (found.cards[:1], f"{found.cards[1].name} does not answer")
    alone = machine(tmp_path, "one-broken", CUDA_VISIBLE_DEVICES="1")
    fault = "NVIDIA GeForce RTX 4090 does not answer: [Unknown Error]"
    assert (alone.fault, alone.choice().device, alone.choice().cards) == (fault, "cuda", ())


def test_a_gpu_that_shares_the_hosts_memory_has_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "host_memory", lambda: (120 * GIB, 112 * GIB))
    (card,) = machine(tmp_path, "gb10").cards
    assert (card.name, card.total_gib, card.held_gib, card.offered_gib) == ("NVIDIA GB10", 120.0, 8.0, 112.0)


def test_a_control_group_limits_memory_and_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    whole = read_machine({}, with_gpus=False)
    assert (whole.limited, whole.cores) == (False, len(os.sched_getaffinity(0)))
    texts = {"memory.max": 2 * GIB, "memory.current": GIB, "memory.stat": "inactive_file 0", "cpu.max": "50000 100000"}
    for name, text in texts.items():
        (tmp_path / name).write_text(f"{text}\n")
    found = read_machine({}, with_gpus=False)
    assert (found.memory_gib, found.free_gib, found.limited, found.cores) == (2, 1.0, True, 1)
    assert whole.memory_gib > found.memory_gib


@pytest.mark.parametrize(
    ("line", "path", "text"),
    [
        ("4:memory:/slurm/job_7/step_0", "memory/slurm/job_7/step_0/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("4:cpuset,memory:/kubepods/x", "memory/memory.oom_control", "under_oom 0\noom_kill 3\n"),  # inside a container
        ("0::/slurm/job_7", "slurm/job_7/memory.events", "oom 5\noom_kill 3\noom_group_kill 0\n"),
        ("0::/", "memory.events", "oom 5\noom_kill 3\n"),
    ],
)
def test_processes_killed_for_memory_are_counted_in_both_versions(
    line: str, path: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    assert cgroups.killed_for_memory() == 0
    (tmp_path / "own").write_text(f"9:pids:/x\n{line}\n")
    assert cgroups.killed_for_memory() == 0
    (tmp_path / "groups" / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "groups" / path).write_text(text)
    assert cgroups.killed_for_memory() == 3


@pytest.mark.parametrize(
    ("line", "environ", "own"),
    [
        ("4:memory:/slurm/uid_0/job_7/step_0", {"SLURM_JOB_ID": "7"}, True),
        ("0::/slurm/job_7", {"SLURM_JOB_ID": "7"}, True),
        ("0::/slurm/job_71", {"SLURM_JOB_ID": "7"}, False),
        ("0::/system.slice/slurmd.service", {"SLURM_JOB_ID": "7"}, False),
        ("0::/", {"JOB_COMPLETION_INDEX": "0"}, True), ("0::/user.slice/session-7.scope", {}, False),
    ],
)  # fmt: skip
def test_a_control_group_that_other_programs_share_tells_nothing_of_a_job(
    line: str, environ: dict[str, str], own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    assert cgroups.of_a_job(environ) is ("JOB_COMPLETION_INDEX" in environ)
    (tmp_path / "own").write_text(f"9:pids:/x\n{line}\n")
    assert cgroups.of_a_job(environ) is own


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("GPU-1, NVIDIA L4, 23034, 22500, 8.9", Gpu("GPU-1", "NVIDIA L4", 23034 / 1024, 22500 / 1024, 8.9)),
        (
            "GPU-2, NVIDIA L4, [Unknown Error], [Unknown Error], 8.9",
            Gpu("GPU-2", "NVIDIA L4", 0.0, 0.0, 0.0, "GPU-2, NVIDIA L4, [Unknown Error], [Unknown Error], 8.9"),
        ),
        ("GPU-3, , ERR!, ERR!, ERR!", Gpu("GPU-3", "a GPU", 0.0, 0.0, 0.0, "GPU-3, , ERR!, ERR!, ERR!")),
        ("GPU-4, NVIDIA L4, 23034", Gpu("GPU-4", "NVIDIA L4", 0.0, 0.0, 0.0, "GPU-4, NVIDIA L4, 23034")),
    ],
)
def test_a_card_without_all_its_values_has_none_and_a_fault(line: str, found: Gpu) -> None:
    assert read_gpus(f"{line}\n\n") == [found]


def test_fewer_cards_than_there_are_are_those_with_most_room(tmp_path: Path) -> None:
    found = machine(tmp_path, "held")
    assert [found.cards.index(card) for card in found.choice(1).cards] == [0]
    assert (len(found.choice(2).cards), found.choice(2).vram_gib) == (2, 3.9)
    assert len(machine(tmp_path, "two-kinds").choice(2).cards) == 2
