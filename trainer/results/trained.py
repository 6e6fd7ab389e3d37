"""A trained model on disk, and the way to ask it. Export writes this beside the weights; infer and merge read it.

runs/x           a run: its adapter is used
runs/x/adapter   LoRA weights, on the base that adapter_config.json names
runs/x/merged    whole weights, by `python -m trainer merge`
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, get_args

from trainer.commands import CHECKOUT
from trainer.config import Device, Quantization, TrainConfig
from trainer.data.bounds import BOUNDS, OPTION
from trainer.env_file import take_env_file
from trainer.files import USAGE_FILE, read_json, write_whole
from trainer.model.warm_start import damaged
from trainer.node.start import init_distributed, prepare_libraries, set_precision
from trainer.outcome import ConfigError, SickNode
from trainer.results.adapter_file import ADAPTER_FILE, check_adapter
from trainer.typed import wrong_field

if TYPE_CHECKING:
    from trainer.data.endings import AnswerEnd
    from trainer.data.records import Dataset
    from trainer.evaluation.heldout import HeldOut
    from trainer.evaluation.scoring import Choices


MOST_TOKENS = 1 << 20
"""No answer is as long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The way to ask a model the questions it was trained to answer."""

    device: Device
    """The device of the training."""
    quantization: Quantization
    """Precision of the base model on which it was trained and measured."""
    answer_field: str | None
    choices: Choices | None
    """The allowed actions; None when they cannot be scored."""
    answer_tokens: int
    """The most tokens of an answer."""
    frames: int
    """Image files of one picture: 4 for a grid of frames, 1 for ready pictures."""
    context: str | None
    question: str | None
    """`context` and `question` are the texts that every training record has; None when they differ."""
    system: str | None = ""
    """The system turn of every training record; "" when there is none, None when they differ."""
    end: AnswerEnd | None = None
    """The end that answers were trained to have; None in a file by an older Trainyard."""
    text_only: bool = False
    """As the setting: questions have no picture, and markers in them are text."""
    columns: str = "auto"
    """As the setting: the column names of the records that are asked."""
    max_image_megapixels: int = OPTION.default
    """As the setting: how large the pictures may be that are asked about."""
    language_model: bool = False
    """Whether the base takes no pictures: its processor is only a tokenizer."""
    videos: bool = False
    """Whether the processor has a part for videos, which plain transformers does not load without torchvision."""
    own_head: bool = False
    """Whether the model's own forward computes the logits, because ours gave another loss."""
    pictures: tuple[int, ...] = ()
    """The numbers of pictures that training questions had, ascending; empty in a file by an older Trainyard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    base: str
    """The model, as it was given or as the adapter names it."""
    model: Any
    processor: Any
    usage: Usage
    accelerator: Any


def usage_of(config: TrainConfig, dataset: Dataset, measured: HeldOut, *, own_head: bool = False) -> Usage:
    """The Usage from a run's settings, its records, its measurements, and the head that it was trained with."""
    from trainer.data.endings import answer_end
    from trainer.data.records import each_answer
    from trainer.evaluation.generation import answer_budget
    from trainer.model.processor import VIDEO, TextProcessor

    answers = each_answer(dataset.train)
    return Usage(
        device=config.device, quantization=config.quantization, answer_field=measured.field, choices=measured.choices,
        answer_tokens=answer_budget(measured.processor, answers), frames=frames_of(dataset), text_only=config.text_only,
        system=shared_system(dataset), end=answer_end(measured.processor), columns=config.columns,
        max_image_megapixels=config.max_image_megapixels,
        language_model=isinstance(measured.processor, TextProcessor), own_head=own_head,
        videos=hasattr(measured.processor, VIDEO), pictures=tuple(sorted({len(one.pictures) for one in answers})),
        **shared_texts(config.data, config.columns),
    )  # fmt: skip


def frames_of(dataset: Dataset) -> int:
    return max((len(picture.paths) for record in dataset.train for picture in record.pictures), default=1)


def shared_system(dataset: Dataset) -> str | None:
    """The text of the system turns if all are equal, "" when there are none; None when they differ."""
    said = {tuple(t.parts for t in r.turns if t.role == "system") for r in (*dataset.train, *dataset.eval)}
    return "".join(str(part) for parts in said.pop() for part in parts) if len(said) == 1 else None


def shared_texts(data: str, columns: str = "auto") -> dict[str, str | None]:
    """`context` and `question` if they are equal in every record, else None."""
    from trainer.data.columns import as_known, parse_columns, rename
    from trainer.data.json_text import read_objects
    from trainer.data.sources import data_files
    from trainer.data.turns import FormError

    said: dict[str, set[str | None]] = {"context": set(), "question": set()}
    for path in data_files(data):
        for _, found in read_objects(path):
            try:
                entry = {} if isinstance(found, FormError) else as_known(rename(found, parse_columns(columns)))
            except FormError:
                continue  # left out
            for key, texts in said.items() if entry else ():
                texts.add(entry[key] if isinstance(entry.get(key), str) else None)
    if said["context"] == {None}:
        said["context"] = {""}  # messages and conversations have none: then nothing stands before the question
    return {key: texts.pop() if len(texts) == 1 else None for key, texts in said.items()}


def write_usage(folder: Path, usage: Usage) -> None:
    write_whole(folder / USAGE_FILE, json.dumps(asdict(usage), indent=1) + "\n")


def find_trained(path: Path) -> tuple[Path, Usage]:
    """The folder with the weights, `path` or its adapter/, and how they are asked: pictures from then on up to the size
    that the run was told. Raises ConfigError."""
    folder = next((folder for folder in (path, path / "adapter") if (folder / USAGE_FILE).is_file()), None)
    if folder is None:
        raise ConfigError(
            f"{path} holds no trained model ({USAGE_FILE} is not there): give a finished run, its adapter, "
            "or a merged folder"
        )
    from trainer.data.endings import AnswerEnd
    from trainer.evaluation.scoring import Choices

    try:
        entry = read_json(folder / USAGE_FILE)
        choices = entry["choices"] and Choices(**entry["choices"])
        if strange := {entry["device"], entry["quantization"]} - {*get_args(Device), *get_args(Quantization)}:
            raise ValueError(f"{min(strange)!r} is no device or quantization")
        if choices and len(choices.rest) != len(choices.actions):
            raise ValueError(f"{len(choices.actions)} actions, tokens of {len(choices.rest)}")
        end = entry.get("end") and AnswerEnd(**{**entry["end"], "stop": tuple(entry["end"]["stop"])})
        usage = Usage(**{**entry, "choices": choices, "end": end, "pictures": tuple(entry.get("pictures", ()))})
        if wrong := wrong_field(usage, {"Choices": Choices, "AnswerEnd": AnswerEnd}):
            raise ValueError(f"{wrong} is of another kind")
        if not 1 <= usage.answer_tokens <= MOST_TOKENS or (choices and not all(choices.rest)):
            raise ValueError(f"{usage.answer_tokens} answer_tokens, or an action without tokens")
        BOUNDS.take(usage.max_image_megapixels)
        return folder, usage
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / USAGE_FILE} is not what training wrote ({error})") from None


def put_adapter(base: Any, folder: Path) -> Any:
    """`base` with the adapter in `folder`. Raises ConfigError when the adapter is damaged, or made for another
    base."""
    from peft import PeftModel
    from safetensors import SafetensorError

    check_adapter(folder)
    try:
        with warnings.catch_warnings():
            # transformers renames weights of some mixtures as they load, and PEFT only warns of what it then misses.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(base, str(folder))
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError, UserWarning) as error:
        raise damaged(f"the adapter in {folder} cannot be put on its base", error) from None


def load_trained(path: Path, *, device: Device | None = None, base: str | None = None) -> Trained:
    """The model at `path`, ready to be asked; an adapter on its own base, or on `base`.

    Raises:
        ConfigError: there is no trained model, its base cannot be loaded, or this machine has no such device.
    """
    take_env_file()
    folder, usage = find_trained(path)
    if base is None and (named := folder / ADAPTER_FILE).is_file():
        try:
            said = Path(read_json(named)["base_model_name_or_path"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(f"{named} names no base", error) from None
        # Training's relative paths lead from the checkout: so they do from elsewhere too, whatever lies there.
        base = str(CHECKOUT / said if (CHECKOUT / said).is_dir() else said)
    device = device or usage.device
    config = TrainConfig(
        model=base or str(folder), data="", output_dir="", run_id="", quantization=usage.quantization, device=device
    )
    prepare_libraries(config)
    from accelerate import Accelerator

    from trainer.model import base as models
    from trainer.model.head import use_own_head

    state = init_distributed(config)
    set_precision(device)
    try:
        model, _ = models.load_here(config, state)
    except (ConfigError, SickNode) as error:
        raise type(error)(f"{error.words}; --base says where the adapter's base is") from None
    processor = models.load_processor(str(folder), base)
    if usage.own_head:
        use_own_head(model)
    if base:
        model = put_adapter(model, folder)
    return Trained(
        base=config.model,
        model=model.eval(),
        processor=processor,
        usage=usage,
        accelerator=Accelerator(cpu=device == "cpu"),
    )
