"""usage: python -m trainer convert DATA OUT [--subset NAME] [--question TEXT] [--private-addresses]

DATA is the id of a data set of the hub (owner/name), a folder (a hub snapshot, parquet, arrow or csv files, pictures
with metadata.jsonl or with a text file beside each, webdataset), one such file, or JSON whose pictures are addresses or
base64. OUT becomes a folder with train.jsonl, eval.jsonl and pictures/, each picture stored once by its content:
DATA=OUT trains on it.

Stopped or failed, the same command goes on where it was. Addresses of pictures are fetched, each once.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from trainer.commands import command_as_typed, option_with_value
from trainer.convert.captions import Captions
from trainer.convert.folders import stored_bytes
from trainer.convert.pictures import PictureStore
from trainer.convert.rows import MEMORY, Split, find_splits
from trainer.data.columns import CONVERSATIONS, QUESTIONS
from trainer.data.forms import read_form
from trainer.data.growth import Growth
from trainer.data.json_text import read_line
from trainer.data.memory_limit import growing_by
from trainer.data.turns import FormError
from trainer.env_file import take_env_file
from trainer.files import read_json, regular, without_link, write_whole
from trainer.flags import EXAMPLES, Text, parse
from trainer.node.cgroups import memory_limits
from trainer.outcome import FINISHED, ConfigError
from trainer.settings import say
from trainer.text import GIB, plain_or_shown

MOST_MEMORY_BYTES = 16 * GIB
"""A row group of pictures takes a tenth of it; a few kilobytes of parquet may stand for any number of gigabytes."""
MADE_OF = "convert.json"
PART = ".part"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    subset: str | None = None
    """Which configuration of a data set that has several."""
    question: Text | None = None
    """What is asked in records that hold no question, such as pictures with labels."""
    private_addresses: bool = False
    """Fetch pictures also from this machine and from private networks."""


def main(argv: list[str]) -> int:
    """Raises ConfigError."""
    words: list[str] = []
    options = parse(argv, Options, str(__doc__), words=words)
    if len(words) != 2 or not all(words):
        way = command_as_typed("make convert DATA=owner/name OUT=my-data", "convert", "owner/name", "my-data")
        got = f", got {' '.join(map(plain_or_shown, filter(None, words)))}" if any(words) else ""
        raise ConfigError(f"convert takes DATA, what to read, and OUT, the folder to make{got}: {way}")
    data, out = words[0], Path(words[1])
    take_env_file()
    asked = {"data": data, "subset": options.subset, "question": options.question}
    _check_folder(out, asked)
    try:
        with growing_by(_allowed_bytes()):
            return _convert(data, out, options, asked)
    except MemoryError:
        raise ConfigError(f"{data} cannot be read: {MEMORY}") from None
    except KeyboardInterrupt:
        say(["stopped: the same command goes on where it is"])
        raise


def _allowed_bytes() -> int:
    """What a conversion may take: never all that is left, or the kernel would end another program, too."""
    import psutil

    left = min([psutil.virtual_memory().available, *(left for _, left in memory_limits())])
    return min(MOST_MEMORY_BYTES, left * 9 // 10)


def _convert(data: str, out: Path, options: Options, asked: dict[str, Any]) -> int:
    lost, first_lost, wrong = 0, "", list[FormError]()
    splits = find_splits(data, options.subset)
    if options.question is None and any(isinstance(split.rows, Captions) for split in splits):
        raise ConfigError(
            f"{data} holds pictures with texts and no question: say what is asked of each, for example "
            f"{option_with_value('question', 'What is this?')}"
        )
    write_whole(out / MADE_OF, json.dumps(asked) + "\n")  # only now: what is refused leaves nothing behind
    growth = Growth(name=data, stored_bytes=size) if (size := stored_bytes(Path(data))) else None
    for split in splits:
        store = PictureStore(out, split.folder, root=split.root, bounds=split.bounds, private=options.private_addresses)
        count = _write(split, out, store, options.question, wrong, growth)
        print(f"{out / f'{split.name}.jsonl'}: {count} records, {store.count} new pictures", flush=True)
        lost += store.lost.total()
        first_lost = first_lost or store.first_lost
    if lost:
        left_out = "records without their picture are left out of training"
        say([f"{lost} pictures could not be stored, the first: {first_lost}; {left_out}"])
    if lacking := next(filter(None, (_lacking(out / f"{split.name}.jsonl") for split in splits)), None):
        say([lacking])
    if wrong:
        say([f"{len(wrong)} rows are left out, the first: {wrong[0]}"])
    model = EXAMPLES["model"]
    made = f"make validate MODEL={model} DATA={shlex.quote(str(out))}"
    print(f"next: {command_as_typed(made, 'validate', 'data', '--model', model, '--data', out)}")
    return FINISHED


def _check_folder(out: Path, asked: dict[str, Any]) -> None:
    """Raises ConfigError where OUT holds something else than this conversion."""
    note = out / MADE_OF
    if out.is_file():
        raise ConfigError(f"{out} is a file: give a folder")
    if note.is_file():
        try:
            before = read_json(note)
        except (OSError, ValueError):
            before = None
        if before != asked and any(out.glob("*.jsonl*")):
            raise ConfigError(f"{out} holds a conversion of something else ({before}): give another folder")
    elif out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: give a new folder")


def _write(
    split: Split, out: Path, store: PictureStore, question: str | None, wrong: list[FormError], growth: Growth | None
) -> int:
    """The number of records of a split in OUT after writing it. An earlier attempt is continued behind its last whole
    line. A row that is no record leaves a blank line, and its fault is added to `wrong`. Raises ConfigError for more
    than `growth` takes."""
    path, part = out / f"{split.name}.jsonl", out / f"{split.name}.jsonl{PART}"
    if path.is_file():
        return _count(path)
    without_link(part)
    if part.exists():
        regular(part)  # writing into a pipe would block
    done = _cut(part)
    with part.open("ab") as file:
        bar = tqdm(split.begin_at(done), split.name, split.total, initial=done, unit=" records", disable=None)
        for row in bar:
            line = b"\n"
            if isinstance(row, FormError):
                wrong.append(row)
            else:
                record = store.take(row)
                if question is not None and not any(record.get(name) for name in (*QUESTIONS, *CONVERSATIONS)):
                    record["question"] = question
                line = json.dumps(record, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"
            if growth:
                growth.add(len(line), rows=1)
            file.write(line)
    if not (count := _count(part)):
        part.unlink()
        raise ConfigError(f"{split.name} has no rows" + (f" that can be used: {wrong[-1]}" if wrong else ""))
    part.replace(path)
    return count


def _lacking(path: Path) -> str | None:
    """What the first record of a file lacks to be learned from, where the settings do not say more."""
    with path.open("rb") as lines:
        number, line = next(((n, line) for n, line in enumerate(lines, start=1) if line != b"\n"), (0, b""))
    if not line:
        return None
    try:
        read_form(read_line(line))
    except FormError as error:
        way = option_with_value("question", "What is this?")
        asks = f"; {way}, with another folder, asks one question of all" if error.cure == "question" else ""
        return f"{path} line {number}{error}{asks}"
    return None


def _count(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(line != b"\n" for line in lines)


def _cut(part: Path) -> int:
    """The number of whole lines in `part`; a last line that was not written to its end is removed."""
    if not part.is_file():
        return 0
    with part.open("rb+") as file:
        count, end = 0, 0
        for line in file:
            if line.endswith(b"\n"):
                count, end = count + 1, end + len(line)
        file.truncate(end)
    return count
