"""A run may start from an earlier adapter, of the same shape on the same base, or is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from training import train_forked

from trainer.config import TrainConfig
from trainer.model.warm_start import check_start
from trainer.outcome import ConfigError

WEIGHTS = Path("run", "adapter", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, walks: Path) -> Path:
    folder = tmp_path_factory.mktemp("first")
    ended = train_forked(folder, program=telling, model=tiny_model, data=walks, max_steps=4, learning_rate=5e-3)
    assert ended.codes == (0,), ended.output
    (folder / "said.txt").write_text(ended.output)
    return folder


def telling(argv: list[str]) -> int:
    """trainer.train, which prints at each score whether the adapter is on."""
    from trainer.evaluation.heldout import HeldOut
    from trainer.train import main

    measure = HeldOut.measure

    def measured(self: HeldOut, model: Any, *args: Any, **kwargs: Any) -> Any:
        print(f"adapter: {model.get_model_status().enabled}")
        return measure(self, model, *args, **kwargs)

    HeldOut.measure = measured  # type: ignore[method-assign]
    return main(argv)


@pytest.mark.slow
def test_a_new_adapter_runs_in_the_score_after_training_but_not_in_the_one_before(first: Path) -> None:
    said = (first / "said.txt").read_text().splitlines()
    assert [line for line in said if line.startswith("adapter: ") and "/" not in line] == [
        "adapter: False", "adapter: True"
    ]  # fmt: skip


@pytest.mark.slow
def test_it_goes_on_from_the_weights_and_still_scores_the_bare_base_first(
    tmp_path: Path, first: Path, tiny_model: Path, walks: Path
) -> None:
    """A learning rate that changes nothing: what comes out is what went in."""
    ended = train_forked(
        tmp_path, model=tiny_model, data=walks, init_adapter=first / "run", max_steps=1, learning_rate=1e-30
    )
    assert ended.codes == (0,), ended.output
    assert f"adapter: starts from {first}/run/adapter\n" in ended.output
    assert (tmp_path / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
    then, now = (json.loads((f / "run" / "metrics.json").read_text()) for f in (first, tmp_path))
    assert now["before"] == then["before"] != then["after"]
    assert now["after"] == then["after"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_r": 4}, "has lora_r 8, not 4: train with what it has"),
        ({"lora_alpha": 8, "model": "other/base"}, "has lora_alpha 16, not 8, model model, not base: train"),
        ({"init_adapter": "nowhere"}, "init_adapter=nowhere: no LoRA adapter: give a run's folder, or the"),
    ],
)
def test_another_shape_or_base_is_refused_before_anything_is_loaded(
    first: Path, tiny_model: Path, changes: dict[str, object], message: str
) -> None:
    values = {"model": str(tiny_model), "lora_r": 8, "lora_alpha": 16, "init_adapter": str(first / "run"), **changes}
    with pytest.raises(ConfigError) as error:
        check_start(TrainConfig(data="-", output_dir="-", run_id="-", **values))
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "reason"), [("narrow", "size mismatch for "), ("cut", "Error while deserializing header")]
)
def test_other_shapes_and_a_damaged_file_are_refused_with_78(
    broken: str, reason: str, tmp_path: Path, first: Path, tiny_model: Path, walks: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(first / "run" / "adapter", tmp_path / "adapter")
    weights = tmp_path / "adapter" / WEIGHTS.name
    if broken == "narrow":
        save_file({name: t[:, : t.shape[1] // 2].clone() for name, t in load_file(weights).items()}, weights)
    else:
        weights.write_bytes(weights.read_bytes()[:100])
    ended = train_forked(tmp_path, model=tiny_model, data=walks, init_adapter=tmp_path / "adapter", max_steps=1)
    assert ended.codes == (78,), ended.output
    (said,) = [line for line in ended.output.splitlines() if line.startswith("trainyard: ")]
    assert said.startswith(f"trainyard: init_adapter={tmp_path}/adapter: cannot be loaded ({reason}")
    assert said.endswith("): is it whole, and made for this base?")


@pytest.mark.slow
def test_other_layers_are_refused_with_78(tmp_path: Path, first: Path, tiny_model: Path, walks: Path) -> None:
    shutil.copytree(first / "run" / "adapter", tmp_path / "adapter")
    ended = train_forked(
        tmp_path, model=tiny_model, data=walks, init_adapter=tmp_path / "adapter", vision="lora", max_steps=1
    )
    assert ended.codes == (78,), ended.output
    (said,) = [line for line in ended.output.splitlines() if line.startswith("trainyard: ")]
    assert (
        "adapts other layers: 12 of 40 tensors are not in it, 0 are too many; were lora_targets and vision the same?"
        in said
    )
