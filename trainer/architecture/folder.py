"""Says of a model's folder what is wrong with it, from its small files: without torch, before a job waits for a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.files import once, read_json, regular
from trainer.outcome import ConfigError
from trainer.text import shown

NO_TEMPLATE = (
    "has no chat template, which says how questions and answers are written: take a model that was tuned to answer "
    "(often named -it, -instruct or -chat)"
)
COPIED = "if the folder is a copy of such a model that lacks its chat_template.jinja, copy that, too"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The file of all weights, and the list of the files that have a part of them: transformers takes the first of the
two that is there, whatever other weights lie beside it."""
TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
TEMPLATED = ("processor_config.json", "tokenizer_config.json")
"""Files that may hold the chat template under the key chat_template."""
LFS_POINTER = b"version https://git-lfs"
"""The beginning of the file that git leaves in place of a large one."""


class NoTemplate(ConfigError):
    """The model's tokenizer has no chat template."""

    def __init__(self, model: str, *, advice: str = "") -> None:
        super().__init__(NO_TEMPLATE, name="MODEL", given=model, advice=advice)


def check_is_model(model: str, folder: Path) -> None:
    """Raises ConfigError for a folder without config.json, saying what it is instead."""
    if os.path.lexists(folder / "config.json"):  # whoever reads it says what is wrong with it
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
    """Raises NoTemplate for a folder whose tokenizer has no chat template, and ConfigError where a file that may hold
    it cannot be read. A folder without a tokenizer, which a plan does not need, passes; so does Mistral's own
    tokenizer, which needs no template."""
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZERS)
    if not has_tokenizer or (folder / "tekken.json").is_file():
        return
    if any((folder / name).exists() for name in TEMPLATES):
        return
    if any(once(_read, folder / name).get("chat_template") for name in TEMPLATED):
        return
    for name in TEMPLATED:
        if fault := _fault(folder / name):
            raise ConfigError(f"{name} cannot be read ({fault})", name="MODEL", given=model, advice="download it again")
    raise NoTemplate(model, advice=COPIED)


def check_weights(model: str, folder: Path) -> None:
    """Raises ConfigError for a folder without weights that can be loaded. Reads an index and a few bytes of each
    file that is loaded. A folder whose config.json names the file of its weights passes."""
    if _read(folder / "config.json").get("transformers_weights") is not None:
        return
    needed = _needed(folder)
    problem, advice = "", "download it again"
    if needed is None and any(folder.glob("pytorch_model*.bin")):
        problem = "its weights are pickles (*.bin), which are programs and are not loaded"
        advice = "give a copy with *.safetensors: save_pretrained of transformers writes one"
    elif needed is None:
        problem, advice = f"the folder has neither {WHOLE} nor {INDEX}", "pass one with the weights"
    elif not needed:
        problem = f"{INDEX} cannot be read as a list of files"
    elif lacking := [name for name in needed if not os.path.isfile(folder / name)]:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        problem = f"lacks {shown(lacking[0])}{more}, which {INDEX} lists"
    elif pointer := next((name for name in needed if _is_pointer(folder / name)), None):
        problem = f"{shown(pointer)} is what git leaves in place of a large file"
        advice = "type git lfs pull in the folder"
    if problem:
        raise ConfigError(problem, name="MODEL", given=model, advice=advice)


def _needed(folder: Path) -> list[str] | None:
    """The files of weights that would be loaded; None where nothing says which."""
    if os.path.isfile(folder / WHOLE):
        return [WHOLE]
    if not os.path.isfile(folder / INDEX):
        return None
    weights = _read(folder / INDEX).get("weight_map")
    return sorted({str(name) for name in weights.values()}) if isinstance(weights, Mapping) else []


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


def _fault(path: Path) -> str:
    """Why a file cannot be read as a JSON object, in words; "" where it can, and for a file that is not there."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "" if isinstance(found, dict) else f"it holds {type(found).__name__}, not a JSON object"
