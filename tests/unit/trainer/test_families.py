"""Other families through the same code: what was made for Gemma 3 alone would fail here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import reload_adapter, run_forked, train_forked

from trainer.config import TrainConfig
from trainer.data.examples import Encoder, load_pictures, prompt_and_answer
from trainer.data.records import Dataset, load_dataset
from trainer.data.tensors import processed
from trainer.data.turns import Turn
from trainer.measure.keep import measure_and_keep
from trainer.model import base as models
from trainer.model.contract import check_contract
from trainer.model.head import supervised_loss
from trainer.outcome import ConfigError
from trainer.training.first_checks import check_text_only

TEXT = 2 * 7  # layers x linears
TOWER = 2 * 5 + 2  # blocks x (qkv, proj, gate, up, down), and the merger's two


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "vision", "layers"),
    [
        ("tiny_qwen", "frozen", TEXT),
        ("tiny_qwen", "lora", TEXT + TOWER),
        ("tiny_idefics", "frozen", TEXT),
        ("tiny_smolvlm", "frozen", TEXT),
    ],
)
def test_it_trains_in_4_bits_and_its_adapter_loads_with_plain_peft(
    request: pytest.FixtureRequest, walks: Path, tmp_path: Path, family: str, vision: str, layers: int
) -> None:
    model = request.getfixturevalue(family)
    tuned = vision == "lora"
    ended = train_forked(tmp_path, model=model, data=walks, vision=vision, activation_checkpointing=tuned)
    assert ended.codes == (0,), ended.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    losses = [entry["loss"] for entry in metrics["history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    held_out = len(load_dataset(str(walks)).eval)
    assert metrics["before"]["samples"] == metrics["after"]["samples"] == held_out
    assert metrics["generated_after"]["samples"] == 8
    assert f"  {'4-bit linears in the language model':<38} {TEXT}\n" in ended.output
    assert f"  {'vision features':<38} {'with' if vision == 'lora' else 'without'} gradient\n" in ended.output
    assert (
        type(models.load_processor(f"{tmp_path}/run/adapter")).__name__
        == type(models.load_processor(str(model))).__name__
    )
    done = run_forked(tmp_path, reload_adapter, str(model), str(tmp_path / "run"), str(tmp_path / "out.json"), False)
    assert done.codes == (0,), done.output
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "same": True, "tensors": 2 * layers, "moved": layers, "dtypes": ["torch.float32"],
    }  # fmt: skip


@pytest.mark.slow
def test_smolvlm_learns_what_plain_transformers_would_have_it_learn(
    tiny_smolvlm: Path, walks: Path, tmp_path: Path
) -> None:
    """Its processor must have a part for videos, which is not there; the loss, the picture and the adapter are."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    config = TrainConfig(model=str(tiny_smolvlm), data="-", output_dir="-", run_id="-", quantization="none")
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    model = models.add_lora(models.load_base(config, anatomy, dtype=torch.float32, device_map=None), config, anatomy)
    encoder = Encoder(models.load_processor(config.model), load_dataset(str(walks)).train)
    batch = encoder.collate([{"index": 0}, {"index": 1}])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    plain = AutoModelForImageTextToText.from_pretrained(config.model)
    tuned = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    asked = {name: tensor for name, tensor in batch.items() if not name.startswith("loss_")}
    dark = {**asked, "pixel_values": -asked["pixel_values"]}
    with torch.no_grad():
        theirs, unseen, logits = tuned(**asked), tuned(**dark), model.eval()(**asked).logits
        ours = supervised_loss(model.get_base_model(), **{k: v for k, v in batch.items() if k != "labels"})
    assert torch.allclose(logits, theirs.logits, atol=1e-5)
    assert (ours["loss_sum"] / len(batch["loss_targets"])).item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    assert abs(theirs.loss - unseen.loss) > 1e-3
    promised = dict(check_contract(model, config, anatomy, encoder.collate([{"index": 0}])))
    assert promised["vision features"] == "without gradient" and promised["token types"] == "present"


def test_a_batch_without_its_token_types_is_refused(tiny_qwen: Path, walks: Path) -> None:
    """Qwen2.5-VL would give its image tokens the positions of text, and say nothing."""
    config = TrainConfig(model=str(tiny_qwen), data="-", output_dir="-", run_id="-", quantization="none")
    anatomy = models.find_anatomy(models.load_model_config(config.model))
    base = models.load_base(config, anatomy, dtype=torch.float32, device_map=None)
    model = models.add_lora(base, config, anatomy)
    batch = Encoder(models.load_processor(config.model), load_dataset(str(walks)).train).collate([{"index": 0}])
    assert dict(check_contract(model, config, anatomy, batch))["vision features"] == "without gradient"
    del batch["mm_token_type_ids"]
    with pytest.raises(ConfigError, match=r"token types: no mm_token_type_ids, not present$"):
        check_contract(model, config, anatomy, batch)


@pytest.mark.slow
def test_pictures_beside_the_text_are_learned_and_scored_as_the_model_would(
    tiny_mllama: Path, walks: Path, tmp_path: Path
) -> None:
    """Llama 3.2 Vision masks its pictures for each token: ours for an answer are those that its own processor makes of
    prompt and answer as one text."""
    from transformers import AutoModelForImageTextToText

    processor = models.load_processor(str(tiny_mllama))
    records = load_dataset(str(walks)).train[:2]
    encoder = Encoder(processor, records)
    model = AutoModelForImageTextToText.from_pretrained(tiny_mllama).eval()
    batch = encoder.collate([{"index": n} for n in range(2)])
    given = {name: tensor for name, tensor in batch.items() if name != "labels"}
    plain, tokens = 0.0, 0
    for index, record in enumerate(encoder.records):
        text = "".join(prompt_and_answer(processor, record))
        whole = processed(processor, text, load_pictures(record))
        labels = encoder(index)["labels"]
        assert torch.equal(whole["input_ids"], encoder(index)["input_ids"])
        with torch.no_grad():
            plain += model(**whole, labels=labels).loss.item() * int((labels != -100).sum())
        tokens += int((labels != -100).sum())
    with torch.no_grad():
        ours = supervised_loss(model, **given)["loss_sum"].item()
    assert len(batch["loss_targets"]) == tokens and ours == pytest.approx(plain, rel=1e-5)
    with pytest.raises(ConfigError, match="in cross-attention, and no plan counts yet what they take there"):
        measure_and_keep(str(tiny_mllama))
    bare = replace(records[0], turns=(Turn(role="user", parts=("up or down?",)),))
    config = TrainConfig(model="m", data="-", output_dir="-", run_id="-")
    with pytest.raises(ConfigError, match=r"^1 records have no picture and the others do, which MODEL=m cannot learn"):
        check_text_only(config, Dataset(train=(*records, bare), eval=(), split=""), beside=True)
    ended = train_forked(tmp_path, model=tiny_mllama, data=walks, max_steps=2)
    assert ended.codes == (0,), ended.output
    assert f"  {'another picture':<38} another loss\n" in ended.output
