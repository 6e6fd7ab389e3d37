"""What a key of a record means by its name: pictures, videos, audio, boxes, or where a record is from."""

from __future__ import annotations

import re
from functools import cache

PICTURES, VIDEOS, AUDIO, BOXES = "pictures", "videos", "audio", "boxes"
# Meaning of the last word of a key's name, after words for a file are removed.
NAMED = {
    word: kind
    for kind, words in {
        PICTURES: "image images img imgs picture pictures pic pics photo photos screenshot screenshots frame frames "
        "jpg jpeg png webp",
        VIDEOS: "video videos mp4",
        AUDIO: "audio audios sound sounds speech wav mp3",
        BOXES: "box boxes bbox bboxes",
    }.items()
    for word in words.split()
}
FILE_WORDS = {
    "path", "paths", "file", "files", "filename", "filenames", "name", "names", "url", "urls", "uri", "uris",
    "bytes", "base64", "b64", "data", "list", "dir", "folder", "2d", "3d",
}  # fmt: skip
# A name that ends with one of these words tells who, from where or how large: nothing to learn from.
QUIET = {
    "id", "ids", "uid", "uuid", "idx", "index", "key", "metadata", "meta", "source", "sources", "dataset", "split",
    "license", "session", "episode", "size", "sizes", "width", "height", "hash", "md5", "sha256", "timestamp",
    "created", "updated",
}  # fmt: skip


SUFFIXES = {
    suffix: kind
    for kind, suffixes in {
        PICTURES: ".png .jpg .jpeg .webp .gif .bmp .tif .tiff",
        VIDEOS: ".mp4 .avi .mov .mkv .webm",
        AUDIO: ".wav .mp3 .flac .ogg .m4a",
    }.items()
    for suffix in suffixes.split()
}


def kind_of_file(text: str) -> str:
    """The kind of file that a text names by its suffix; "" for words."""
    dot = text.rfind(".")
    return SUFFIXES.get(text[dot:].lower(), "") if dot > 0 and " " not in text else ""


def is_file_name(text: str) -> bool:
    """Whether a text is the name of a picture, a video or a sound, or an address."""
    return bool(kind_of_file(text)) or "://" in text[:12]


@cache
def kind_of_name(name: str) -> str:
    """The kind of thing that a key's name means: image_path, imgFile and screenshots are pictures, image_caption and
    image_id are not."""
    words = _words(name)
    while words and words[-1] in FILE_WORDS:
        words.pop()
    return NAMED.get(words[-1], "") if words else ""


@cache
def is_quiet(name: str) -> bool:
    words = [word for word in _words(name) if word != "at"]  # created_at
    return bool(words) and words[-1] in QUIET


def _words(name: str) -> list[str]:
    """The words of a name in snake_case, kebab-case or camelCase, without the numbers of image_0 and image1."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    words = [word if word in FILE_WORDS | QUIET | NAMED.keys() else word.rstrip("0123456789") for word in words]
    return [word for word in words if word]
