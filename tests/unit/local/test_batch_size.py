"""find-batch-size: real steps in jobs of their own, halved, and what a plan makes of the result."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from off_default import off_default
from pretend_gpus import put_nvidia_smi
from refusal import refusal
from specs import make_spec, request
from training import run_forked

from local.__main__ import main
from local.measure import batch_size
from local.measure.batch_size import Probe, largest, own_words
from local.measure.memory_profile import LIMIT_ENV, OUT_OF_MEMORY
from planner.choose import choose
from planner.fitting import Batch, batch_path, read_batch, write_batch
from planner.job import FIELDS
from planner.plan import Plan
from planner.table import plan_table
from trainer.config import SETTINGS
from trainer.data.lengths import data_digest
from trainer.launch import Launch
from trainer.log import last_words
from trainer.outcome import ConfigError
from trainer.text import GIB

SIZES = [1, 2, 4, 8, 16, 32]
MEASURED = {"measured_with": "single_gpu", "measured_batch": 8, "measured_peak_gib": 21.5}


@pytest.mark.parametrize("limit", [0, 1, 5, 16, 99])
def test_the_largest_that_fits_is_found_in_three_tries(limit: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest(SIZES, fits) == max((size for size in SIZES if size <= limit), default=None)
    assert len(tried) == len(set(tried)) <= 3


def test_a_plan_takes_the_measured_micro_batch_over_its_own_prediction() -> None:
    predicted = choose(make_spec(vram_gib=24.0))
    plan = choose(make_spec(vram_gib=24.0, **MEASURED))
    assert (predicted.chosen.micro_batch_size, plan.chosen.micro_batch_size) == (2, 8)
    assert plan.chosen.fits and plan.effective_batch_size == predicted.effective_batch_size == 8
    assert "batch  micro-batch 8 (measured) x accumulation 1 x 1 GPU = 8 samples" in plan_table(plan)
    assert plan.notes[0] == (
        "Micro-batch 8 was measured to fit, with 21.50 GiB at its peak (find-batch-size, beside the data); what "
        "stands below is predicted."
    )
    assert dict(plan.env)["TRAINYARD_PEAK_GIB"] == "21.50"
    assert "measured" not in plan_table(predicted)


def test_a_smaller_step_takes_what_divides_it_and_another_way_its_own_prediction() -> None:
    assert choose(make_spec(effective_batch_size=4, **MEASURED)).chosen.micro_batch_size == 4
    assert choose(make_spec(effective_batch_size=32, **MEASURED)).chosen.micro_batch_size == 8
    forced = choose(make_spec(accelerate_config="single_gpu_low_mem", **MEASURED))
    assert forced.chosen == choose(make_spec(accelerate_config="single_gpu_low_mem")).chosen
    assert dict(forced.env)["TRAINYARD_PEAK_GIB"] == f"{forced.chosen.estimate.peak_bytes / GIB:.2f}" != "21.50"
    small = {**MEASURED, "measured_batch": 1}
    assert choose(make_spec(vram_gib=80.0, **small)).chosen.micro_batch_size == 1


def keep(records: Path, **given: str) -> Batch:
    spec = request(DATA=str(records), **given)
    batch = Batch(
        request=Batch.depends_on(spec, "single_gpu"), data_sha256=data_digest(str(records)), micro_batch_size=4,
        peak_bytes=20 * GIB,
    )  # fmt: skip
    assert write_batch(str(records), batch) == batch_path(str(records))
    return batch


def test_the_result_is_taken_for_the_very_request_and_the_very_data(records: Path) -> None:
    keep(records, VRAM="24")
    spec = request(DATA=str(records), VRAM="24")
    assert (spec.records.measured_with, spec.records.measured_batch, spec.records.measured_peak_gib) == (
        "single_gpu",
        4,
        20.0,
    )
    assert request(DATA=str(records), VRAM="24", SEED="3", EFFECTIVE_BATCH="16").records.measured_batch == 4
    for other in ({"VRAM": "40"}, {"LORA": "high"}, {"MAX_LENGTH": "512"}, {"QUANTIZATION": "none"}):
        assert request(DATA=str(records), **{"VRAM": "24", **other}).records.measured_with is None
    with (records / "train.jsonl" if records.is_dir() else records).open("a") as file:
        file.write("\n")
    assert request(DATA=str(records), VRAM="24").records.measured_with is None


@pytest.mark.parametrize(
    "change", [{"micro_batch_size": 0}, {"micro_batch_size": "4"}, {"peak_bytes": -1}, {"request": {}}, {"more": 1}]
)
def test_a_result_that_was_changed_by_hand_is_no_result(records: Path, change: dict[str, Any]) -> None:
    batch = keep(records)
    batch_path(str(records)).write_text(json.dumps({**asdict(batch), **change}))
    assert read_batch(request(DATA=str(records)), str(records)) is None


def test_a_micro_batch_of_one_is_a_result(records: Path) -> None:
    batch = replace(keep(records), micro_batch_size=1)
    write_batch(str(records), batch)
    assert read_batch(request(DATA=str(records)), str(records)) == batch


def test_every_setting_of_the_request_counts_unless_no_memory_depends_on_it() -> None:
    spec = make_spec()
    asked = [name for name in FIELDS if name in SETTINGS and name not in ("model", "data")]
    changed = {name: spec.but(**{name: "x" if name == "run_id" else off_default(name)}) for name in asked}
    measured = Batch.depends_on(spec, "single_gpu")
    free = {name for name, other in changed.items() if Batch.depends_on(other, "single_gpu") == measured}
    assert free == {"run_id", "max_steps", "learning_rate", "seed", "lora_alpha"}
    assert measured != Batch.depends_on(spec.but(model="x"), "single_gpu")


def test_shards_count_processes_and_replicas_do_not() -> None:
    one, two = make_spec(gpus=2), make_spec(gpus=2, nodes=2)
    assert Batch.depends_on(one, "multi_gpu") == Batch.depends_on(two, "multi_gpu")
    assert Batch.depends_on(one, "deepspeed_zero3") != Batch.depends_on(two, "deepspeed_zero3")


def test_the_commands_own_options_are_told_from_those_of_run() -> None:
    assert own_words(["--gpus", "2", "--limit-gib", "0.5", "--json", "--seed=1"]) == (
        ["--gpus", "2", "--seed=1"], 0.5, True
    )  # fmt: skip
    assert own_words(["--limit_gib=12"]) == ([], 12.0, False)
    with pytest.raises(ConfigError, match=r"^--limit-gib=much: takes a number of GiB$"):
        own_words(["--limit-gib", "much"])


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("trainyard: lr=1 is learning_rate=1 here\ntrainyard: DATA=x does not exist\n", "DATA=x does not exist"),
        ("[rank0]: Traceback (most recent):\n[rank0]: a.b.SomeError: too bad\n[rank1]: a.b.SomeError: too bad\n"
         "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\nprofile FAILED\n",
         "a.b.SomeError: too bad"),
        ("trainyard: data ...\nValueError: no\ntrainyard: the training failed (exit code 1)\n", "ValueError: no"),
        ("Killed\n\n", "Killed"),
        ("", "it said nothing"),
    ],
)  # fmt: skip
def test_the_reason_is_what_the_rank_said_and_not_the_launcher(log: str, reason: str) -> None:
    assert last_words(log) == reason


def profile_with(more_gib: float, ranks: str, words: list[str]) -> int:
    """profile-memory in a process that may have `more_gib` beyond what it has now, if its rank is among `ranks`."""
    import trainer.training.sft  # noqa: F401 - what is loaded now is had now

    if os.environ.get("RANK", "0") in ranks:
        has = int(re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
        os.environ[LIMIT_ENV] = str(has / GIB + more_gib)
    return main(["profile-memory", *words])


def words_for(model: Path, data: Path, micro: int) -> list[str]:
    return ["--model", str(model), "--data", str(data), "--device", "cpu", "--lora_r", "8", "--json",
            "--micro_batch_size", str(micro)]  # fmt: skip


@pytest.mark.slow
def test_too_little_memory_is_one_line_and_not_a_traceback(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    ended = run_forked(tmp_path / "much", profile_with, 0.5, "0", words_for(tiny_model, walks, 512))
    assert ended.codes == (1,)
    (line,) = [line for line in ended.output.splitlines() if line.startswith("trainyard: ")]
    assert line.startswith(OUT_OF_MEMORY) and "Traceback" not in ended.output
    ended = run_forked(tmp_path / "little", profile_with, 0.5, "0", words_for(tiny_model, walks, 2))
    assert ended.codes == (0,), ended.output


@pytest.mark.slow
def test_a_rank_with_too_little_ends_the_try_for_all_and_the_neediest_rank_counts(
    tmp_path: Path, tiny_model: Path, walks: Path
) -> None:
    words = words_for(tiny_model, walks, 64)
    ended = run_forked(tmp_path / "one", profile_with, 0.2, "1", words, world_size=2)
    assert ended.codes[1] == 1 and OUT_OF_MEMORY in (tmp_path / "one" / "rank1.log").read_text()
    assert ended.codes[0] != 0  # its peer is gone
    words[-1] = "2"
    ended = run_forked(tmp_path / "both", profile_with, 2.0, "01", words, world_size=2)
    assert ended.codes == (0, 0), ended.output
    report = json.loads(ended.output[ended.output.index("{\n") :])
    assert report["process_bytes"] == max(stage["peak_bytes"] for stage in report["stages"])
    assert "{\n" not in (tmp_path / "both" / "rank1.log").read_text()


@pytest.mark.parametrize(("limit", "kept"), [([], True), (["--limit-gib", "8"], False)])
def test_what_was_found_with_pretended_memory_is_not_kept(
    limit: list[str], kept: bool, records: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def tried(plan: Plan, micro: int, share: int, environment: dict[str, str]) -> Probe:
        return Probe(micro_batch_size=micro, fits=True, peak_bytes=GIB, seconds=1.0)

    monkeypatch.setattr(batch_size, "probe", tried)
    words = ["--device", "cpu", "--model", str(tiny_model), "--data", str(records), "--effective-batch", "4", *limit]
    assert batch_size.main(words) == 0
    assert batch_path(str(records)).exists() is kept
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"kept     {batch_path(str(records))}: the next plan for this request takes it"
        if kept
        else "kept     no: 8 GiB were pretended, and a run has what there is"
    )


ANSWER = """import json, sys; print("loading"); print(json.dumps({"process_bytes": 5}, indent=1))"""


@pytest.mark.parametrize(
    ("program", "found"),
    [
        (ANSWER, (True, 5)),
        ("import sys; sys.exit('trainyard: out of memory: CUDA out of memory')", (False, None)),
        ("import sys; sys.exit('Signal 9 (SIGKILL) received by PID 7')", (False, None)),
        ("import sys; sys.exit('Signal 6 (SIGABRT) received by PID 7')", (False, None)),
        ("import sys; sys.exit('terminate called after throwing std::bad_alloc')", (False, None)),
        ("import sys; sys.exit('ValueError: no')", "micro-batch 4 cannot be tried: ValueError: no"),
    ],
)
def test_a_try_fits_fits_not_or_cannot_be_made(
    program: str, found: tuple[bool, int | None] | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Launch] = []

    def in_its_place(launch: Launch, environment: object) -> tuple[list[str], dict[str, str]]:
        asked.append(launch)
        return [sys.executable, "-c", program], {}

    monkeypatch.setattr(batch_size, "complete_command", in_its_place)
    plan = choose(make_spec(vram_gib=24.0))
    if isinstance(found, str):
        assert refusal(batch_size.probe, plan, 4, 8, dict(os.environ)) == found
    else:
        tried = batch_size.probe(plan, 4, 8, dict(os.environ))
        assert replace(tried, seconds=0) == Probe(micro_batch_size=4, fits=found[0], peak_bytes=found[1], seconds=0)
    (launch,) = asked
    assert launch.module == "local.measure.memory_profile"
    words = ("micro_batch_size", "gradient_accumulation_steps", "json")
    assert [launch.settings[word] for word in words] == ["4", "2", "true"]


@pytest.mark.slow
def test_found_in_real_jobs_and_taken_by_the_next_plan(tmp_path: Path, tiny_model: Path, walks: Path) -> None:
    records = tmp_path / "data"
    records.mkdir()
    (records / "frames").symlink_to(walks / "frames")
    (records / "train.jsonl").write_bytes((walks / "train.jsonl").read_bytes())
    argv = ["find-batch-size", "--device", "cpu", "--model", str(tiny_model), "--data", str(records), "--json",
            "--effective-batch", "4"]  # fmt: skip
    ended = run_forked(tmp_path, main, argv)
    assert ended.codes == (0,), ended.output
    report = json.loads(ended.output[ended.output.index("{\n") :])
    assert (report["micro_batch_size"], report["gradient_accumulation_steps"], report["config"]) == (4, 1, "cpu_mps")
    assert [(p["micro_batch_size"], p["fits"]) for p in report["tried"]] == [(2, True), (4, True)]
    assert all(0 < p["seconds"] < 600 for p in report["tried"])
    spec = request(DEVICE="cpu", MODEL=str(tiny_model), DATA=str(records))
    assert (spec.records.measured_with, spec.records.measured_batch) == ("cpu_mps", 4)
    assert choose(spec.but(effective_batch_size=4)).chosen.micro_batch_size == 4


def test_a_try_sees_the_card_that_the_run_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{put_nvidia_smi(tmp_path / 'bin', 'two-kinds')}:{os.environ['PATH']}")
    seen: list[str | None] = []

    def probe(plan: Plan, micro: int, share: int, environment: dict[str, str]) -> Probe:
        seen.append(environment.get("CUDA_VISIBLE_DEVICES"))
        return Probe(micro_batch_size=micro, fits=True, peak_bytes=GIB, seconds=0.1)

    monkeypatch.setattr(batch_size, "probe", probe)
    assert main(["find-batch-size", "--model", "google/gemma-3-1b-it", "--limit-gib", "20"]) == 0
    assert set(seen) == {"GPU-11111111-0000-4000-8000-000000000001"}
