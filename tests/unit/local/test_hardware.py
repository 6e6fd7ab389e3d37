"""What a run gets of this machine that says nothing of it. GPUs are pretended (tests/nvidia_smi); no run is begun."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from here import prepare
from paths import ROOT
from pretend_gpus import put_nvidia_smi

import local.__main__
from launcher import starting
from launcher.records import run_record, write_record
from local.measure import hardware
from local.scheduler import SCHEDULER
from local.target import Machine
from planner.plan import Plan
from planner.request.variables import read_given
from trainer.node import machine
from trainer.outcome import ConfigError
from trainer.text import GIB

SMALL = ("--model", "google/gemma-3-1b-it")


@pytest.fixture(autouse=True)
def no_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def plan_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str, **environ: str) -> Plan:
    monkeypatch.setenv("PATH", f"{put_nvidia_smi(tmp_path / 'bin', name)}:{os.environ['PATH']}")
    given = read_given([*SMALL, *words], {})
    _, batch = starting.planned(SCHEDULER, given, {**os.environ, **environ}, tmp_path)
    return batch.plans[0]


@pytest.mark.parametrize(
    ("name", "words", "found", "source"),
    [
        ("rtx3070", (), ("cuda", 1, 8.0), "NVIDIA GeForce RTX 3070 of this machine"),
        ("two-rtx4090", (), ("cuda", 2, 24.0), "NVIDIA GeForce RTX 4090 of this machine"),
        ("two-rtx4090", ("--gpus", "1"), ("cuda", 1, 24.0), "NVIDIA GeForce RTX 4090 of this machine"),
        ("two-rtx4090", ("--vram", "16"), ("cuda", 2, 16.0), "given"),
        ("two-rtx4090", ("--device", "cpu"), ("cpu", 0, 24.0), "this machine"),
        ("held", (), ("cuda", 1, 24.0), "NVIDIA GeForce RTX 4090 of this machine"),
        ("mig", (), ("cuda", 1, 20.0), "NVIDIA A100-SXM4-40GB MIG 3g.20gb of this machine"),
        ("too-old", (), ("cpu", 0, 24.0), "this machine"),
    ],
)
def test_what_is_not_said_is_what_is_here(
    name: str,
    words: tuple[str, ...],
    found: tuple[str, int, float],
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = plan_of(name, tmp_path, monkeypatch, *words).spec
    assert (spec.resources.device, spec.resources.gpus, spec.resources.vram_gib) == found
    assert spec.sources.vram_source == source


def test_a_settings_file_that_says_cpu_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.yaml").write_text("device: cpu\n")
    plan = plan_of("two-rtx4090", tmp_path, monkeypatch, "--config-file", "s.yaml")
    assert (plan.spec.resources.device, plan.spec.resources.gpus) == ("cpu", 0)


def test_a_run_sees_the_chosen_cards_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("two-kinds", tmp_path, monkeypatch)
    given = read_given([*SMALL], {})
    target = SCHEDULER.target(given, os.environ, tmp_path)
    assert target.shown(plan.spec.but(gpus=0, device="cpu")) == {}
    shown = "CUDA_VISIBLE_DEVICES=GPU-11111111-0000-4000-8000-000000000001 "
    _, batch = starting.planned(SCHEDULER, given, os.environ, tmp_path)
    assert shown in target.render(batch)
    assert plan.notes == ("3 kinds are here, and one run uses one: see make hardware.",)
    put_nvidia_smi(tmp_path / "bin", "two-rtx4090")
    target = SCHEDULER.target(given, os.environ, tmp_path)
    assert target.shown(plan.spec.but(gpus=2)) == {}
    assert target.shown(plan.spec) == {"CUDA_VISIBLE_DEVICES": "GPU-00000000-0000-4000-8000-000000000000"}


def test_more_cards_than_there_are_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^GPUS=3: this machine shows 2: GPUS=2, or submit$"):
        plan_of("two-rtx4090", tmp_path, monkeypatch, "--gpus", "3")
    with pytest.raises(ConfigError, match=r"^GPUS=2: one run uses one slice of a card .*: GPUS=1, or submit$"):
        plan_of("mig", tmp_path, monkeypatch, "--gpus", "2")


@pytest.mark.skipif(bool(machine.shutil.which("nvidia-smi")), reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_is_taken_and_the_plan_says_so() -> None:
    plan = prepare_nothing("--model", "google/gemma-3-1b-it", "--max-length", "128")
    assert plan.spec.resources.device == "cpu"
    said = "This machine has no NVIDIA driver, so this is for its CPU; make submit trains on a cluster."
    assert said in plan.notes
    with pytest.raises(ConfigError, match=r"^this machine has no NVIDIA driver, and on its CPU .* needs .* a cluster$"):
        prepare_nothing("--model", "google/gemma-3-27b-it")


def prepare_nothing(*words: str) -> Plan:
    _, batch = starting.planned(SCHEDULER, read_given(words, {}), os.environ, ROOT)
    return batch.plans[0]


def test_a_mac_trains_without_4_bits_and_says_that_nobody_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^DEVICE=mps: that is Apple's GPU: only make run on a Mac takes it"):
        prepare(["--device", "mps"])
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    small = ["--model", "google/gemma-3-1b-it", "--max-length", "64", "--effective-batch", "1"]
    for words in ([], ["--device", "mps"]):
        plan = prepare_nothing(*small, *words)
        settings, env = plan.launch.settings, dict(plan.env)
        assert (settings["device"], settings["quantization"], plan.chosen.config) == ("mps", "none", "cpu_mps")
        assert "--cpu" not in plan.launch.words() and "ACCELERATE_USE_CPU" not in env
        assert plan.notes[0].startswith("DEVICE=mps: nobody has run this on Apple's GPU yet.")
    for words, said in (
        (["--quantization", "nf4"], "QUANTIZATION=nf4: there are no 4-bit kernels for Apple's GPU"),
        (["--gpus", "1"], "GPUS=1: a Mac has one GPU, which DEVICE=mps takes: leave GPUS out"),
    ):
        with pytest.raises(ConfigError, match=f"^{said}"):
            prepare_nothing(*small, "--device", "mps", *words)


def test_hardware_shows_each_card_and_what_a_run_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{put_nvidia_smi(tmp_path / 'bin', 'two-kinds')}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "_cores", lambda: 2)
    monkeypatch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)
    assert local.__main__.main(["hardware"], os.environ) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[:6] if "---" not in line] == [
        "here GiB free plan for one run",
        "0 NVIDIA GeForce RTX 3060 12.0 11.8 single_gpu_low_mem, 8 x 1, 9.1 GiB",
        "1 NVIDIA GeForce RTX 4090 24.0 23.6 single_gpu, 2 x 4, 20.6 GiB, tight",
        "2 NVIDIA GeForce RTX 3060 12.0 11.8 single_gpu_low_mem, 8 x 1, 9.1 GiB",
        "3 NVIDIA GeForce GTX 1080 Ti 11.0 10.9 no bf16",
    ]
    assert "takes GPUS=1 VRAM=24 (card 1) where nothing is said; 3 kinds are here, and one run uses one" in lines[-3]
    assert local.__main__.main(["hardware", "--gpus", "2"], os.environ) == 78
    assert "GPUS=2: hardware says what is here: leave it out; make plan takes it" in capsys.readouterr().err


def shown_hardware(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setenv("PATH", f"{put_nvidia_smi(tmp_path / 'bin', name)}:{os.environ['PATH']}")
    monkeypatch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)
    return local.__main__.main(["hardware", *words], os.environ)


def test_a_card_that_others_hold_is_a_row_and_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown_hardware("full", tmp_path, monkeypatch) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == "0 NVIDIA GeForce RTX 4090 24.0 0.4 held by others: 23.5 GiB"
    assert lines[3] == "1 NVIDIA GeForce RTX 4090 24.0 23.6 single_gpu, 2 x 4, 20.6 GiB, tight"


def test_gpus_that_do_not_answer_are_rows_and_a_run_on_them_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown_hardware("one-broken", tmp_path, monkeypatch) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[3] == "1 NVIDIA GeForce RTX 4090 ? ? does not answer: [Unknown Error]"
    assert plan_of("one-broken", tmp_path, monkeypatch).spec.resources.gpus == 1
    with pytest.raises(ConfigError, match=r"^GPUS=2: this machine shows 2, and NVIDIA GeForce RTX 4090 does not ans"):
        plan_of("one-broken", tmp_path, monkeypatch, "--gpus", "2")
    program = put_nvidia_smi(tmp_path / "bin", "one-broken") / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    monkeypatch.setattr(machine, "host_memory", lambda: (64 * GIB, 60 * GIB))
    monkeypatch.setattr(machine.cgroups, "memory_limits", tuple)
    assert local.__main__.main(["hardware", *SMALL], os.environ) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-2] == f"next make plan TO=local MODEL={SMALL[1]} DEVICE=cpu"
    assert lines[2] == "GPUs ? ? nvidia-smi failed (9): NVIDIA-SMI has failed"
    assert "a run gets no GPU (nvidia-smi failed (9): NVIDIA-SMI has failed); DEVICE=cpu trains without" in lines
    with pytest.raises(ConfigError, match=r"^nvidia-smi failed \(9\): NVIDIA-SMI has failed: DEVICE=cpu trains with"):
        starting.planned(SCHEDULER, read_given([*SMALL], {}), os.environ, tmp_path)


def test_a_card_that_is_not_there_is_named_where_all_that_are_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(machine, "host_memory", lambda: (64 * GIB, 60 * GIB))
    monkeypatch.setattr(machine.cgroups, "memory_limits", tuple)
    assert shown_hardware("two-rtx4090", tmp_path, monkeypatch, *SMALL) == 0
    said = "CUDA_VISIBLE_DEVICES names GPU 7, nvidia-smi lists 2"
    assert f"a run gets no GPU ({said}); DEVICE=cpu trains without" in " ".join(capsys.readouterr().out.split())


def test_what_contradicts_one_row_stands_in_that_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown_hardware("two-rtx4090", tmp_path, monkeypatch, *SMALL, "--effective-batch", "7") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[2].startswith("0 NVIDIA GeForce RTX 4090 24.0 23.6 single_gpu, ")
    assert lines[4] == "2 together EFFECTIVE_BATCH=7: cannot be shared evenly by 2 GPUs: try 6 or 8"
    assert shown_hardware("two-rtx4090", tmp_path, monkeypatch, "--model", "nobody/none") == 78
    assert "nobody/none" in capsys.readouterr().err


def test_the_next_command_works_where_the_plan_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = machine.Machine(cores=2, memory_gib=23, free_gib=20.0)
    here = Machine(
        given={}, asked=frozenset(), environ={}, project_dir=tmp_path, hardware=small, choice=small.choice()
    )  # fmt: skip
    monkeypatch.setattr(hardware, "target", lambda *_: here)
    hardware.show(SCHEDULER, {}, {}, tmp_path)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "next    make hardware MODEL=HuggingFaceTB/SmolVLM-256M-Instruct    (a small one)",
        "or      make submit DATA=records.jsonl    (trains on a cluster)",
    ]


def test_the_answer_fits_the_terminal_and_has_a_command_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hardware, "size", lambda: (80, 24))
    assert shown_hardware("rtx3070", tmp_path, monkeypatch, "--max-length", "2048") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    column = lines[0].index("plan for one run")
    refused = next(index for index, line in enumerate(lines) if line[column:].startswith("does not fit: it takes "))
    assert lines[refused + 1][:column].isspace() and not lines[refused + 1][column:].startswith(" ")
    put_nvidia_smi(tmp_path / "bin", "two-rtx4090")
    assert shown_hardware("two-rtx4090", tmp_path, monkeypatch, *SMALL) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"next    make plan TO=local MODEL={SMALL[1]}",
        f"then    make run MODEL={SMALL[1]} DATA=records.jsonl",
    ]


def test_a_run_that_goes_on_gets_as_many_cards_as_it_was_planned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plan_of("full", tmp_path, monkeypatch, "--gpus", "1", "--run", "r")
    spec = one.spec
    target = SCHEDULER.target({}, os.environ, tmp_path)
    freest = {"CUDA_VISIBLE_DEVICES": "GPU-11111111-0000-4000-8000-000000000001"}
    assert target.shown(spec) == freest  # GPUS is not said again
    put_nvidia_smi(tmp_path / "bin", "two-rtx4090")
    two = plan_of("two-rtx4090", tmp_path, monkeypatch, "--run", "s")
    put_nvidia_smi(tmp_path / "bin", "full")
    for begun in (one, two):
        (tmp_path / begun.spec.run_dir).mkdir(parents=True)
        write_record(tmp_path / begun.spec.run_dir, {**run_record(begun), "job_ids": []})
    target = SCHEDULER.target({}, os.environ, tmp_path)
    assert target.plan(spec).spec.resources.gpus == 1
    said = r"^GPUS=2: the run was begun on as many and takes [0-9.]+ GiB of each, which 1 of them offer: 23.5 GiB of "
    with pytest.raises(ConfigError, match=said):
        target.plan(target.complete(two.spec, is_new=False, is_named=True))


def test_what_is_recorded_of_apples_memory_is_its_part_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    spec = prepare_nothing(*SMALL, "--max-length", "64", "--effective-batch", "1").spec
    again = SCHEDULER.target({}, os.environ, ROOT).complete(spec, is_new=False, is_named=True)
    assert again.resources.mem_gib == spec.resources.mem_gib


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("too-old", ("--device", "cuda"), "DEVICE=cuda: Tesla T4 has no bf16, in which training computes: DEVICE=cpu"),
        ("too-old", ("--gpus", "1"), "GPUS=1: Tesla T4 has no bf16, in which training computes: DEVICE=cpu"),
        ("rtx3070", ("--vram", "24"), "VRAM=24: this machine's NVIDIA GeForce RTX 3070 has 8.0 GiB: leave it out"),
        ("rtx3070", ("--gpu-type", "a100"), "GPU_TYPE=a100: this machine's NVIDIA GeForce RTX 3070 has 8.0 GiB"),
        ("two-kinds", ("--gpus", "4"), "GPUS=4: this machine shows 4, and NVIDIA GeForce GTX 1080 Ti has no bf16"),
    ],
)
def test_what_is_not_here_is_refused(
    name: str, words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        plan_of(name, tmp_path, monkeypatch, *words)


def test_a_refusal_advises_what_this_machine_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = ("--model", "google/gemma-3-27b-it")
    with pytest.raises(ConfigError, match=r"GiB a GPU: take a smaller model, or submit$"):
        plan_of("rtx3070", tmp_path, monkeypatch, *large)
    with pytest.raises(ConfigError, match=r" or submit; 20\.1 GiB of NVIDIA GeForce RTX 4090 are held by others$"):
        plan_of("held", tmp_path, monkeypatch, *large, "--quantization", "none")
