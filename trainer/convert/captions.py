"""The records of a folder in which each picture has a text file of its own beside it, as kohya's trainers read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.file_names import SIDE_OF, caption_of, is_picture_name
from trainer.data.turns import FormError
from trainer.files import MOST_CHARACTERS, read_typed


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """The rows of some pictures; each iteration starts at the first one."""

    folder: Path
    pictures: tuple[Path, ...]

    def __iter__(self) -> Iterator[dict[str, Any] | FormError]:
        for picture in self.pictures:
            text = caption_of(picture)
            try:
                if text is None:
                    raise ValueError("has no text file beside it")
                if not (answer := _read(text)):
                    raise ValueError(f"has an empty text in {text.name}")
            except (OSError, ValueError) as error:
                yield FormError(f"{picture} {error}")
                continue
            yield {"image": {"path": str(picture.relative_to(self.folder))}, "answer": answer}


def captioned(folder: Path, files: Sequence[Path]) -> Mapping[str, Captions]:
    """By side, the pictures among the `files` of a folder, where most have a text file beside them; none otherwise, or
    where a metadata file says what is in them."""
    found = [path for path in files if is_picture_name(path.name)]
    if any(path.stem == "metadata" for path in files) or 2 * sum(
        caption_of(picture) is not None for picture in found
    ) <= len(found):
        return {}
    sides: dict[str, list[Path]] = {}
    for picture in sorted(found):
        folders = picture.relative_to(folder).parent.parts
        side = next((SIDE_OF[part.lower()] for part in folders if part.lower() in SIDE_OF), "train")
        sides.setdefault(side, []).append(picture)
    return {side: Captions(folder=folder, pictures=tuple(pictures)) for side, pictures in sides.items()}


def _read(path: Path) -> str:
    content = read_typed(path)
    if len(content) > MOST_CHARACTERS:
        raise ValueError(f"has more than {MOST_CHARACTERS} characters in {path.name}")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(f"has a text in {path.name} that is not UTF-8: save it as UTF-8") from None
