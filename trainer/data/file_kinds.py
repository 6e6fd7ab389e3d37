"""Names files that hold no records by their content or their suffix, and says what helps."""

from __future__ import annotations

import re
import shlex
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE
from pathlib import Path

from trainer.text import printable

# Archives by suffix, and how each is unpacked.
UNPACKED_BY = {
    ".zip": "unzip", ".7z": "7z x", ".rar": "unrar x", ".zst": "zstd -d", ".tgz": "tar -xf", ".gz": "tar -xf",
    ".bz2": "tar -xf", ".xz": "tar -xf",
}  # fmt: skip
HEAD_BYTES = 512
"""The beginning of a file, by which its kind is told."""
TARS = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")  # `convert` reads the first of them
ARCHIVES = (".zip", ".7z", ".rar", ".tgz")
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
AS_CSV = "save the table as csv, and name that"
RECORD = 'a record is a line such as {"image": "a.png", "question": "...", "output": "..."}'
TO_JSON = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout, default=str)"
TEXT, BINARY = "text", "binary"
KINDS = {
    "a pickle, which can run any program when it is opened": "whoever made it writes its records as JSON (pandas: "
    "to_json(FILE, orient='records'))",
    "an SQLite database": "sqlite3 -json {name} 'SELECT * FROM TABLE' > {json} writes a table of it as JSON",
    "YAML": f"python3 -c {shlex.quote(TO_JSON)} < {{name}} > {{json}} writes it as JSON",
    TEXT: RECORD,
    "a video": "ffmpeg -i {name} -vf fps=1 %05d.png makes pictures of it, which records can name",
    "a picture in HEIC": "save it as JPEG or PNG",
    "a PDF": "pdftoppm -png {name} page makes a picture of each page, which records can name",
    "a spreadsheet": AS_CSV,
    "a file of arrays": f"write its pictures as files and its texts as JSON: {RECORD}",
    BINARY: RECORD,
}
BY_SUFFIX = {
    suffix: kind
    for kind, suffixes in {
        "a pickle, which can run any program when it is opened": ".pkl .pickle .joblib .pt .pth",
        "YAML": ".yaml .yml",
        TEXT: ".txt .md .rst .log .xml .toml .ini .py .tex",
        "a file of arrays": ".npy .npz .h5 .hdf5 .safetensors .tfrecord .tfrecords .lmdb .mdb .mat",
        "a spreadsheet": ".xls",
    }.items()
    for suffix in suffixes.split()
}
BY_CONTENT = (
    (rb"\x80[\x02-\x05]", "a pickle, which can run any program when it is opened"),
    (rb"SQLite format 3\0", "an SQLite database"),
    (rb"....ftyp(?:hei|hev|mif1|msf1)", "a picture in HEIC"),
    (rb"....ftyp(?!avif|avis)|\x1aE\xdf\xa3|RIFF....AVI ", "a video"),
    (rb"%PDF", "a PDF"),
    (rb"\xd0\xcf\x11\xe0", "a spreadsheet"),
    (rb"\x89HDF|\x93NUMPY", "a file of arrays"),
)


def kind_of(head: bytes, path: Path) -> str | None:
    """What the file at `path`, whose content begins with `head`, is instead of JSON, and what helps; None for a file
    that may hold JSON, and for any other kind."""
    kind = next((kind for magic, kind in BY_CONTENT if re.match(magic, head, re.DOTALL)), None)
    if kind is None and head and not _begins_as_json(head):
        kind = BY_SUFFIX.get(path.suffix.lower())
    return described(kind, path) if kind else None


def described(kind: str, path: Path) -> str:
    # Names are hostile text, and the advice is copied to a shell.
    name, json_name = (shlex.quote(printable(str(each))) for each in (path, path.with_suffix(".json")))
    return f"{kind}, and no JSON: {KINDS[kind].replace('{json}', json_name).replace('{name}', name)}"


def is_binary(head: bytes) -> bool:
    """Whether a file that begins with `head` is no text in any encoding."""
    wide = head.startswith((BOM_UTF16_LE, BOM_UTF16_BE, BOM_UTF32_BE)) or _begins_as_json(head)
    return b"\0" in head and not wide


def _begins_as_json(head: bytes) -> bool:
    """Also in UTF-16 and UTF-32, whose signs have further bytes of zeros."""
    narrow = head.removeprefix(BOM_UTF8).replace(b"\0", b"").removeprefix(BOM_UTF16_LE).removeprefix(BOM_UTF16_BE)
    return narrow.lstrip().startswith((b"{", b"["))


def unpack_advice(path: Path) -> str:
    """How to make an archive readable."""
    if path.suffix.lower() in SPREADSHEETS:
        return AS_CSV
    return f"unpack it ({UNPACKED_BY.get(path.suffix.lower(), 'unzip')} {path.name}), and name what was in it"
