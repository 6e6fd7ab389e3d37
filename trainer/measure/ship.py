"""usage: python -m trainer.measure.ship [WORD ...]

Measures the configurations of published.yaml and writes trainer/architecture/shipped/, one file a configuration and an
index. With words only those whose id has one of them in it; the others stay as they are. Needs no network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.architecture.shape_file import digest, text_of
from trainer.architecture.shapes import SHIPPED
from trainer.files import write_whole
from trainer.measure.shape import measure

# Keys of an entry that its shape's file repeats.
ABOUT = ("same", "parameters", "unloaded", "sure", "refused", "source")
PUBLISHED = Path(__file__).with_name("published.yaml")


def published() -> list[dict[str, Any]]:
    """The entries of published.yaml."""
    import yaml

    found: list[dict[str, Any]] = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return found


def published_config(model: str) -> Any | None:
    """transformers' configuration of a published model; None for any other."""
    from transformers import AutoConfig

    entry = next((entry for entry in published() if model in ids(entry)), None)
    return AutoConfig.for_model(**entry["config"]) if entry else None


def ids(entry: Mapping[str, Any]) -> list[str]:
    return [*entry["ids"], *entry.get("same", ())]


def slug(entry: Mapping[str, Any]) -> str:
    """Name of the entry's file."""
    return str(entry["ids"][0]).rpartition("/")[2].lower()


def write_one(entry: Mapping[str, Any]) -> None:
    picture = entry.get("picture", {})
    shape = measure(
        entry["ids"][0],
        published_config(entry["ids"][0]),
        tokens_per_image=picture.get("tokens", 0),
        patches=picture.get("patches", 0),
        fixed=picture.get("fixed", False),
    )
    about = {name: entry[name] for name in ABOUT if name in entry}
    text = text_of(shape, entry["config"], models=entry["ids"], **about)
    write_whole(SHIPPED / f"{slug(entry)}.json", text)


def write_index(entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the index of the shipped shapes, by id and by configuration."""
    there = [entry for entry in entries if (SHIPPED / f"{slug(entry)}.json").is_file()]
    index = {
        "models": {model: slug(entry) for entry in there for model in ids(entry)},
        "configurations": {digest(entry["config"]): slug(entry) for entry in there},
    }
    write_whole(SHIPPED / "index.json", json.dumps(index, indent=1) + "\n")


def main(words: Sequence[str]) -> int:
    entries = published()
    asked = [entry for entry in entries if not words or any(word in name for word in words for name in ids(entry))]
    failed = 0
    for entry in asked:
        print(entry["ids"][0], file=sys.stderr, flush=True)
        try:
            write_one(entry)
        except Exception as error:  # the other models are still measured
            failed += 1
            print(f"  {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        write_index(entries)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
