"""Says of a model's folder what is wrong with it, from its small files: without torch, before a job waits for a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.files import once, read_json, regular
from trainer.outcome import ConfigError
from trainer.text import shown

NO_TEMPLATE = (
    "has no chat template, which says how questions and answers are written: take a model that was tuned to answer "
    "(often named -it, -instruct or -chat)"
)
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
TEMPLATED = ("processor_config.json", "tokenizer_config.json")
"""Files that may hold the chat template under the key chat_template."""
LFS_POINTER = b"version https://git-lfs"
"""The beginning of the file that git leaves in place of a large one."""


class NoTemplate(ConfigError):
    """The model's tokenizer has no chat template."""

    def __init__(self, model: str) -> None:
        super().__init__(NO_TEMPLATE, name="MODEL", given=model)


def check_is_model(model: str, folder: Path) -> None:
    """Raises ConfigError for a folder without config.json, saying what it is instead."""
    if (folder / "config.json").is_file():
        return
    problem, advice = "the folder has no config.json", "pass a model's folder"
    if (folder / "adapter_config.json").is_file():
        base = _read(folder / "adapter_config.json").get("base_model_name_or_path")
        trained = f"MODEL={shown(base)}" if isinstance(base, str) and base else "as MODEL the base that it was made for"
        problem = "the folder holds an adapter, not a model"
        advice = f"give {trained}, and init_adapter with this folder to go on from it"
    elif any(folder.glob("*.gguf")):
        problem = "the folder holds GGUF files, which cannot be trained"
        advice = "give the 16-bit model that they were made from"
    raise ConfigError(problem, name="MODEL", given=model, advice=advice)


def check_chat_template(model: str, folder: Path) -> None:
    """Raises NoTemplate for a folder whose tokenizer has no chat template. A folder without a tokenizer, which a
    plan does not need, passes; so does Mistral's own tokenizer, which needs no template."""
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZERS)
    if not has_tokenizer or (folder / "tekken.json").is_file():
        return
    if any((folder / name).exists() for name in TEMPLATES):
        return
    if not any(once(_read, folder / name).get("chat_template") for name in TEMPLATED):
        raise NoTemplate(model)


def check_weights(model: str, folder: Path) -> None:
    """Raises ConfigError for a folder without weights that can be loaded. Reads an index and a few bytes of each
    file."""
    there = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    problem, advice = "", "download it again"
    if not there and any(folder.glob("*.bin")):
        problem = "its weights are pickles (*.bin), which are programs and are not loaded"
        advice = "give a copy with *.safetensors: save_pretrained of transformers writes one"
    elif not there:
        problem, advice = "the folder has no *.safetensors", "pass one with the weights"
    elif lacking := sorted(set(_listed(folder)) - {path.name for path in there}):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        problem = f"lacks {shown(lacking[0])}{more}, which {INDEX} lists"
    elif pointer := next((path.name for path in there if _is_pointer(path)), None):
        problem, advice = f"{pointer} is what git leaves in place of a large file", "type git lfs pull in the folder"
    if problem:
        raise ConfigError(problem, name="MODEL", given=model, advice=advice)


def _listed(folder: Path) -> Iterator[str]:
    """The files of weights that the folder's index lists; none where one file has all, which is then loaded."""
    if (folder / "model.safetensors").is_file():
        return
    weights = _read(folder / INDEX).get("weight_map")
    yield from (str(name) for name in weights.values()) if isinstance(weights, Mapping) else ()


def _is_pointer(path: Path) -> bool:
    try:
        with regular(path).open("rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:  # whoever loads it says what is wrong
        return False


def _read(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; {} for a file that is not there or holds something else, of which its reader in the
    job says more."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
