"""Looks at the files of a model's folder before a library reads them. Libraries read pipes, which block, and devices
and files of any length, which take all memory; and they follow the paths in an index of weights out of the folder."""

from __future__ import annotations

import stat
from functools import lru_cache
from pathlib import Path, PurePosixPath

from trainer.files import MIB, file_state, read_json

MOST_TEXT_MIB = 256
"""The largest tokenizers have 40."""
# Every token that the first forbids is looked at for each token that is written, and transformers copies every value of
# the second several times; the longest in use have 5 and some hundred.
MOST_KIB = {"generation_config.json": 64, "config.json": 4096}
TEXTS = (".json", ".jinja", ".model", ".txt", ".tiktoken")
# The names under which transformers, PEFT and Mistral's tokenizer open a text.
OPENED = (
    "*config.json", "*.index.json", "tokenizer*", "processor*", "preprocessor*", "chat_template*", "*vocab*", "merges*",
    "added_tokens*", "special_tokens_map*", "additional_chat_templates/*.jinja", "*.model", "*.tiktoken", "tekken.json",
    "dict.txt", "normalizer.json", "emoji.json", "byte_maps.json", "word_*.json",
)  # fmt: skip
INDEXES = "*.safetensors.index.json"


def wrong_file(folder: Path) -> str:
    """What is wrong with a file in the folder of a model or an adapter, in words; "" when nothing is. A pipe or a
    device is wrong under any name; a folder or a long file is wrong only where a library opens it as a text."""
    for path in sorted((*folder.glob("*"), *folder.glob("additional_chat_templates/*.jinja"))):
        try:
            found = path.stat()
        except OSError:
            continue  # a library says that a file is missing, if it needs it
        text = path.suffix in TEXTS and any(map(path.match, OPENED))
        if not stat.S_ISREG(found.st_mode) and (text or not stat.S_ISDIR(found.st_mode)):
            return f"{path.name} is no file"
        if text and found.st_size > MOST_TEXT_MIB * MIB:
            return f"{path.name} is longer than {MOST_TEXT_MIB} MiB"
        if (most_kib := MOST_KIB.get(path.name)) and found.st_size > most_kib * 1024:
            return f"{path.name} is longer than {most_kib} KiB"
    naming = (path for path in (folder / "config.json", *folder.glob(INDEXES)) if path.is_file())
    outside = next((path.name for path in naming if _leads_out(path, file_state(path))), "")
    return f"{outside} names files outside of the folder" if outside else ""


@lru_cache(maxsize=8)
def _leads_out(names_weights: Path, _: tuple[int, ...]) -> bool:
    """Whether an index of weights, or a config.json, names files outside of its folder."""
    try:
        found = read_json(names_weights)
        names = set(found["weight_map"].values()) if "weight_map" in found else {found.get("transformers_weights")}
    except (OSError, ValueError, TypeError, AttributeError):
        return False  # a library says what it cannot read
    paths = [PurePosixPath(name) for name in names if isinstance(name, str)]
    return any(path.is_absolute() or ".." in path.parts for path in paths)
