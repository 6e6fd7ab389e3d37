"""A JobSpec survives run.json, and a run.json changed by hand is refused before anything is rendered from it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from here import given_here, prepare
from specs import CHECKOUT, make_spec, request, trained_models

from launcher.records import run_record, write_record
from launcher.restore_spec import read_spec
from local.submit import carry_out
from planner.choose import choose
from planner.fitting import Batch, write_batch
from planner.table import plan_table
from trainer import __version__
from trainer.data.lengths import Lengths, data_digest, lengths_path, processor_digest, write_lengths
from trainer.outcome import ConfigError
from trainer.text import GIB

REQUESTS: list[dict[str, str]] = [
    {},
    {"DEVICE": "cpu"},
    {"GPUS": "2", "NODES": "2", "VRAM": "40", "TIME": "2d", "LEARNING_RATE": "1e-3", "EFFECTIVE_BATCH": "16"},
    {"GPU_TYPE": "A100", "PARTITION": "gpu,big", "DATA": "it's $(here)", "CPUS": "3", "LORA": "high"},
]


def recorded(given: dict[str, str]) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(json.dumps(request(**given).to_dict()))
    return spec


@pytest.mark.parametrize("given", REQUESTS, ids=lambda given: " ".join(given) or "nothing")
def test_a_spec_read_back_is_the_spec_that_was_written(given: dict[str, str]) -> None:
    assert read_spec(recorded(given), project_dir=CHECKOUT) == request(**given)


def test_a_preset_of_an_older_record_is_its_rank_and_alpha() -> None:
    older = recorded({"LORA": "high"})
    del older["lora_r"], older["lora_alpha"]
    assert read_spec({**older, "lora": "high"}, project_dir=CHECKOUT) == request(LORA="128")
    with pytest.raises(ConfigError, match=r"^run.json: spec: unknown 'lora'"):
        read_spec({**older, "lora": "huge"}, project_dir=CHECKOUT)


def test_a_run_goes_on_from_the_checkout_that_resumes_it() -> None:
    assert read_spec(recorded({}), project_dir=Path("/new")).project_dir == "/new"


def test_a_field_of_a_later_version_has_its_default_in_an_older_record() -> None:
    older = recorded({"SEED": "7"})
    del older["images_per_sample"]
    assert read_spec(older, project_dir=CHECKOUT) == request(SEED="7")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu": 2}, "unknown 'gpu', did you mean gpus?"),
        ({"gpus": "2"}, "gpus is '2', of another kind than GPUS takes"),
        ({"gpus": 99}, "GPUS=99: takes a whole number from 1 to 64"),
        ({"gpus": True}, "GPUS=True: takes a whole number"),
        ({"data": "a\nb"}, r"DATA='a\nb': takes a path"),
        ({"partition": "x\n#SBATCH --uid=0"}, r"PARTITION='x\n#SBATCH --uid=0': takes letters"),
        ({"partition": ["x"]}, "partition is "),
        ({"run_id": "../x"}, "RUN=../x: takes at most 63"),
        ({"lora_dropout": "0"}, "lora_dropout is '0', of another kind than LORA_DROPOUT takes"),
        ({"shape": {}}, "shape takes family, hidden,"),
        ({"time_limit_min": None}, "TIME=None: takes a time"),
        ({"mem_gib": None}, "mem_gib is 'None', of another kind than MEM takes"),
        ({"gpus": False}, "GPUS=False: takes a whole number from 1 to 64"),
        ({"site": "\x1b[2J"}, r"site='\x1b[2J': takes at most 4096 printable characters"),
        ({"vram_source": "a\nb"}, r"vram_source='a\nb': takes at most"),
        ({"length_source": "x" * 5000}, "length_source='xxx"),
        ({"sweep": "../../etc\x1b"}, "sweep='"),
        ({"sweep": "../../etc"}, "sweep=../../etc: takes at most 63 of a-z"),
        ({"wandb_sweep": "a/b/c\nd"}, "wandb_sweep='"),
        ({"wandb_sweep": "a/b"}, "wandb_sweep=a/b: takes entity/project/id"),
        ({"supervised_tokens": -5}, "supervised_tokens=-5: takes a whole number from 0 to"),
        ({"supervised_tokens": 10**400}, "supervised_tokens='1000"),
        ({"images_per_sample": -1000000}, "images_per_sample=-1000000: takes a whole number from 0 to"),
        ({"lora_dropout": float("nan")}, "LORA_DROPOUT=nan: takes a number from 0 to"),
        ({"measured_peak_gib": float("inf")}, "measured_peak_gib=inf: takes a number from 0 to"),
        ({"evaluates": "yes"}, "evaluates is 'yes', of another kind than True"),
    ],
)
def test_a_changed_record_is_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_spec({**recorded({}), **change}, project_dir=CHECKOUT)
    assert str(caught.value).startswith(f"run.json: spec: {said}") and str(caught.value).isprintable()


def test_a_missing_field_and_a_shape_of_words_are_refused() -> None:
    lacking = recorded({})
    del lacking["data"]
    with pytest.raises(ConfigError, match=r"^runs/r/run.json: spec: data is missing$"):
        read_spec(lacking, project_dir=CHECKOUT, source="runs/r/run.json")
    wordy = recorded({})
    wordy["shape"]["hidden"] = "many"
    with pytest.raises(ConfigError, match=r"^run.json: spec: hidden of shape is 'many', no int$"):
        read_spec(wordy, project_dir=CHECKOUT)


@pytest.mark.parametrize("part", ["shape", "layer"])
def test_a_shape_of_another_version_is_what_is_known_of_the_model_now(part: str) -> None:
    older = recorded({})
    changed = older["shape"] if part == "shape" else older["shape"]["layers"][0]
    changed["of_old"] = changed.popitem()[1]
    assert read_spec(older, project_dir=CHECKOUT) == request()
    with pytest.raises(ConfigError, match=r"^run.json: spec: another version measured its model, and here MODEL=/gone"):
        read_spec({**older, "model": "/gone"}, project_dir=CHECKOUT)
    for odd in ("x" * 5000, "~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(ConfigError, match=r"^run.json: spec: (another version .* )?MODEL="):
            read_spec({**older, "model": odd}, project_dir=CHECKOUT)


ODD_VALUES = [0, -5, 10**12, 10**400, 1.5, float("nan"), True, None, "x\x1b[2J", "x" * 9999, [[]]]


@pytest.mark.parametrize("vision", ["frozen", pytest.param("lora", marks=pytest.mark.slow)])
def test_whatever_a_record_says_is_a_plan_or_one_line(vision: str) -> None:
    good = recorded({"VISION": vision, "VRAM": "80"})
    (layer,) = good["shape"]["layers"]
    places = [
        (part, name) for part, kind in (("spec", good), ("shape", good["shape"]), ("layer", layer)) for name in kind
    ]
    outcomes = set()
    for (part, name), value in itertools.product(places, ODD_VALUES):
        shape = {"shape": {name: value}, "layer": {"layers": [{**layer, name: value}]}}.get(part, {})
        changed = {**good, name: value} if part == "spec" else {**good, "shape": {**good["shape"], **shape}}
        try:
            text = plan_table(choose(read_spec(changed, project_dir=CHECKOUT)))
            outcomes.add("a plan")
        except ConfigError as error:
            text = str(error)
            outcomes.add("one line")
            assert "\n" not in text
        assert text.replace("\n", "").isprintable(), (name, value)
    assert outcomes == {"a plan", "one line"}


@pytest.mark.parametrize("model", trained_models())
def test_every_known_model_is_read_back(model: str) -> None:
    spec = make_spec(model)
    assert read_spec(json.loads(json.dumps(spec.to_dict())), project_dir=Path(spec.project_dir)) == spec


@pytest.mark.slow
def test_a_run_here_goes_on_though_its_lengths_were_measured_since(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "records.jsonl"
    (tmp_path / "a.png").touch()
    data.write_text('{"image": "a.png", "context": "", "question": "?", "output": "up"}\n')
    words = [f"--model={tiny_model}", f"--data={data}", f"--output={tmp_path}/runs", "--device=cpu", "--run=r"]
    measured = Lengths(
        model=str(tiny_model), data_sha256=data_digest(str(data)), records=1, tokens={"p100": 200},
        supervised={"p100": 8}, learn="all", pictures=1, trainyard=__version__, picture_bytes={},
        processor_sha256=processor_digest(tiny_model),
    )  # fmt: skip

    def begin(*more: str) -> None:
        plan = prepare([*words, *more])
        write_record(tmp_path / "runs" / "r", run_record(plan))

    begin()
    write_lengths(str(data), measured)
    assert prepare(words).spec.training.max_length == 1024
    with pytest.raises(ConfigError, match=r"^RUN=r: was begun with MAX_LENGTH=1024, not 128: ask for the same, or"):
        prepare([*words, "--max-length=128"])  # fewer records than before
    (tmp_path / "runs" / "r" / "run.json").unlink()
    (tmp_path / "runs" / "r").rmdir()
    begin()
    lengths_path(str(data)).unlink()
    assert prepare(words).spec.training.max_length < 1024
    with pytest.raises(ConfigError, match=r"^RUN=r: was begun with MAX_LENGTH=\d+, not 128: ask for the same, or"):
        prepare([*words, "--max-length=128"])


def test_a_run_here_goes_on_though_its_micro_batch_was_measured_since(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "records.jsonl"
    (tmp_path / "a.png").touch()
    data.write_text('{"image": "a.png", "context": "", "question": "?", "output": "up"}\n')
    words = [f"--model={tiny_model}", f"--data={data}", f"--output={tmp_path}/runs", "--device=cpu"]
    begun = prepare([*words, "--run=r"])
    write_record(tmp_path / "runs" / "r", run_record(begun))
    smaller = Batch(
        request=Batch.depends_on(begun.spec, begun.chosen.label), data_sha256=data_digest(str(data)),
        micro_batch_size=1, peak_bytes=GIB,
    )  # fmt: skip
    write_batch(str(data), smaller)
    assert prepare([*words, "--run=another"]).chosen.micro_batch_size == 1 < begun.chosen.micro_batch_size
    assert prepare([*words, "--run=r"]) == begun
    with pytest.raises(ConfigError, match=r"^RUN=r: was begun with SEED=0, not 3: ask for the same, or "):
        prepare([*words, "--run=r", "--seed=3"])


def test_a_run_here_is_finished_by_its_metrics_and_goes_on_with_an_adapter_alone(
    tmp_path: Path, tiny_model: Path
) -> None:
    data = tmp_path / "records.jsonl"
    (tmp_path / "a.png").touch()
    data.write_text('{"image": "a.png", "context": "", "question": "?", "output": "up"}\n')
    words = [f"--model={tiny_model}", f"--data={data}", f"--output={tmp_path}/runs", "--device=cpu", "--run=r"]
    plan = prepare(words)
    write_record(tmp_path / "runs" / "r", run_record(plan))
    (tmp_path / "runs" / "r" / "adapter").mkdir()
    assert prepare(words) == plan
    (tmp_path / "runs" / "r" / "metrics.json").touch()
    with pytest.raises(ConfigError, match=r"metrics.json is not what training wrote: remove it, then the same command"):
        prepare(words)
    (tmp_path / "runs" / "r" / "metrics.json").write_text('{"history": []}')
    with pytest.raises(ConfigError, match=r"^RUN=r: is finished: give another RUN, or none for a new one, or remove"):
        prepare(words)


def test_a_run_is_not_started_beside_itself(tmp_path: Path, tiny_model: Path) -> None:
    data = tmp_path / "records.jsonl"
    (tmp_path / "a.png").touch()
    data.write_text('{"image": "a.png", "context": "", "question": "?", "output": "up"}\n')
    plan = prepare([f"--model={tiny_model}", f"--data={data}", f"--output={tmp_path}/runs", "--device=cpu", "--run=r"])

    def first(_: object) -> int:
        with pytest.raises(ConfigError, match=r"^RUN=r: is running on this machine: wait for it, stop it with Ctrl-C"):
            carry_out(plan, lambda _: pytest.fail("a second attempt has begun"))
        return 75

    assert carry_out(plan, first) == 75
    assert carry_out(plan, lambda _: 0) == 0


def test_on_this_machine_memory_is_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"^MEM=60000: this machine has \d+ GiB: leave it out$"):
        given_here(["--mem", "60000"])
    assert given_here(["--mem", "1"])["MEM"] == "1"
    with pytest.raises(ConfigError, match=r"usable are .* of 2 GiB of host memory: take a smaller model$"):
        prepare(["--device", "cpu", "--mem", "2"])
