"""Training records: JSONL in, checked, split by session. Torch-free, so `submit` can refuse bad data at once.

What a record may look like is in trainer/data/forms.py. Paths are relative to the JSONL file; a path that only the
machine that wrote the file knows is looked for by its last folders, beside the file or under an image root.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.config import Learn, TrainConfig
from trainer.data.answers import json_object
from trainer.data.forms import FORMAT_HINT, read_form, read_line
from trainer.data.images import find_image, is_absolute, is_picture
from trainer.data.turns import Form, FormError, Picture, Turn
from trainer.data.unread import Unread
from trainer.files import bounded_lines, regular
from trainer.outcome import ConfigError

# Where a record says what it must not be separated from, in its metadata or beside it.
SESSION_KEYS = ("session_id", "episode_id", "session", "episode")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    turns: tuple[Turn, ...]
    """What the model is shown before the last answer that it learns, in the order it is shown it; earlier answers that
    it learns too say so. The paths in it exist."""
    answer: str
    """What it learns to say next: these parts alone have a loss."""
    session: str
    """Records of one session never fall on both sides of a split."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All that it learns to say."""
        return (*(turn.text for turn in self.turns if turn.learned), self.answer)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Picture))

    @property
    def images(self) -> tuple[Path, ...]:
        """Every file of every picture."""
        return tuple(Path(path) for picture in self.pictures for path in picture.paths)

    @property
    def prompt(self) -> str:
        """The text that the model is shown."""
        return "\n\n".join(part for turn in self.turns for part in turn.parts if isinstance(part, str))


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    train: tuple[Record, ...]
    eval: tuple[Record, ...]
    split: str
    """How the two were told apart, in words."""
    notes: tuple[str, ...] = ()
    """What a reader of the data should know, one line each."""
    left_out: tuple[str, ...] = ()
    """What the reader left out already, likewise."""


def each_answer(records: Iterable[Record]) -> tuple[Record, ...]:
    """One record for each answer that `records` learn, behind the true turns before it, as one asks for it."""
    return tuple(one for record in records for one in _answers_of(record))


def _answers_of(record: Record) -> Iterator[Record]:
    shown = tuple(replace(turn, learned=False) if turn.learned else turn for turn in record.turns)
    for place, turn in enumerate(record.turns):
        if turn.learned:
            yield Record(turns=shown[:place], answer=turn.text, session=record.session)
    yield Record(turns=shown, answer=record.answer, session=record.session)


def load_dataset(
    data: str,
    *,
    eval_fraction: float = 0.1,
    seed: int = 0,
    image_root: str | None = None,
    learn: Learn = "all",
    text_only: bool = False,
) -> Dataset:
    """Read and check every record at `data`: a JSONL file, or a folder with train.jsonl and maybe eval.jsonl.

    Without an eval.jsonl, whole sessions (`metadata.session_id` or `episode_id`) are held out, about
    `eval_fraction` of the records, chosen by `seed`; without them each record counts as a session of its own.

    Raises:
        ConfigError: the data is missing, empty, malformed (naming the line), its images are not there, it holds what
            is not read and would be missed, or no picture at all though it is not `text_only`.
    """
    paths = data_files(data)
    if image_root is not None and not Path(image_root).is_dir():
        raise ConfigError(f"image_root={image_root} is not a folder")
    folder = paths[0].parent
    found: dict[str, Path | None] = {}

    def place(name: str) -> str:
        if name not in found:
            found[name] = find_image(name, folder, image_root)
        return str(found[name])

    unread = Unread(lambda name: is_picture(find_image(name, folder, image_root)), text_only=text_only)
    try:
        read = [_read(path, place, unread, learn) for path in paths]
    except OSError as error:
        raise _closed(data, error) from None
    sides = [tuple(record for record in records if record) for records in read]
    if empty := next((path for path, records in zip(paths, read, strict=True) if not records), None):
        raise ConfigError(f"{empty} holds no records: it takes {FORMAT_HINT}")
    if idle := next((path for path, records in zip(paths, sides, strict=True) if not records), None):
        raise ConfigError(f"{idle}: every record says weight 0 or loss false: there is no answer to learn")
    if lost := unread.refusal():
        raise ConfigError(f"{data}: {lost}")
    _check_pictures(data, sides, text_only=text_only)
    if missing := sorted(str(folder / name) for name, where in found.items() if where is None):
        raise ConfigError(
            f"{data}: {len(missing)} of {len(found)} images are missing, for example {', '.join(missing[:3])}: "
            f"paths are relative to {folder}/"
            + (f" or {image_root}/" if image_root else "; image_root= names another folder to look in")
        )
    notes = _notes(sides, unread, learn)
    if moved := sorted(name for name, where in found.items() if is_absolute(name) and where != Path(name)):
        names = Counter(found.values())
        if shared_file := next((found[name] for name in moved if names[found[name]] > 1), None):
            one, other, *_ = (name for name, where in found.items() if where == shared_file)
            raise ConfigError(
                f"{data}: {one} and {other} would both be {shared_file}: bring the images with the folders "
                f"that tell them apart, or make their paths relative to {folder}/"
            )
        notes += (
            f"{len(moved)} image paths of another machine were found by their last folders, for example {moved[0]}",
        )
    idle_records = sum(record is None for records in read for record in records)
    out = (
        (f"{idle_records} records left out: weight 0 or loss false leaves no answer to learn",) if idle_records else ()
    )
    if len(sides) == 1:
        return replace(_split(sides[0], eval_fraction=eval_fraction, seed=seed), notes=notes, left_out=out)
    train, held_out = sides
    if shared := {r.session for r in train} & {r.session for r in held_out} - {""}:
        raise ConfigError(
            f"DATA={data} has {len(shared)} session(s) in train.jsonl and eval.jsonl alike, for example "
            f"{min(shared)!r}: move each session to one side"
        )
    return Dataset(train=train, eval=held_out, split="eval.jsonl", notes=notes, left_out=out)


def dataset_of(config: TrainConfig) -> Dataset:
    """The records of a run with these settings. Raises ConfigError, as `load_dataset`."""
    return load_dataset(
        config.data, eval_fraction=config.eval_fraction, seed=config.seed, image_root=config.image_root,
        learn=config.learn, text_only=config.text_only,
    )  # fmt: skip


def _check_pictures(data: str, sides: Sequence[Sequence[Record]], *, text_only: bool) -> None:
    """Raises ConfigError for a set that says other than `text_only` whether there are pictures in it."""
    count, pictured = sum(map(len, sides)), sum(bool(record.pictures) for side in sides for record in side)
    if text_only and pictured:
        raise ConfigError(
            f"text_only: {pictured} records of {data} have pictures: leave text_only out, to learn from them"
        )
    if not text_only and not pictured:
        raise ConfigError(
            f"{data}: none of {count} records has a picture: image, images or frames hold the paths; "
            "text_only: true trains on text alone"
        )


def _notes(sides: Sequence[Sequence[Record]], unread: Unread, learn: Learn) -> tuple[str, ...]:
    records = [record for side in sides for record in side]
    notes = [note for note in (unread.note(), unread.idle_note()) if note]
    answers, shown = sum(len(record.answers) for record in records), 0
    for record in records:
        shown += sum(turn.role == "assistant" and not turn.learned for turn in record.turns)
    if answers > len(records):
        notes.append(f"{answers} answers of {len(records)} records are learned (learn: last takes the last ones alone)")
    if shown:
        why = "are not the last of their record" if learn == "last" else "say weight 0 or loss false"
        notes.append(f"{shown} answers {why}: shown to the model, and not trained on")
    sessions = Counter(bool(record.session) for record in records)
    if all(sessions[has] for has in (True, False)):
        notes.append(f"{sessions[False]} of {sessions.total()} records have no session id: each counts as a session")
    return tuple(notes)


def data_files(data: str) -> tuple[Path, ...]:
    """The JSONL file(s) of `data`: training, and held-out records if there is a file of them. Raises ConfigError."""
    path = Path(data)
    try:
        files = [path / name for name in ("train.jsonl", "eval.jsonl")] if path.is_dir() else [path]
        if path.is_dir() and not files[0].is_file():
            raise ConfigError(f"DATA={data} is a folder without train.jsonl: give a JSONL file or add it")
        found = tuple(file for file in files if file == path or file.is_file())
        for file in found:
            regular(file)
    except FileNotFoundError:
        raise ConfigError(f"DATA={data} does not exist: give a JSONL file or a folder with train.jsonl") from None
    except OSError as error:
        raise _closed(data, error) from None
    return found


def _closed(data: str, error: OSError) -> ConfigError:
    said = f"DATA={data} cannot be read ({error.strerror}): make it readable for whoever runs the job"
    return ConfigError(said, name="DATA")


def _read(path: Path, place: Callable[[str], str], unread: Unread, learn: Learn) -> list[Record | None]:
    """Its records; None for one without an answer to learn. Raises ConfigError with the first that cannot be read, and
    how many more."""
    found: list[Record | None] = []
    faults: list[tuple[int, FormError]] = []
    with path.open("rb") as lines:
        for number, line in enumerate(bounded_lines(lines), start=1):
            if not line.strip():
                continue
            try:
                entry = read_line(line)
                form = read_form(entry, place)
            except FormError as error:
                faults.append((number, error))
                continue
            unread.add(form, f"{path.name} line {number}")
            found.append(_record(form, _session(entry), learn))
    if faults:
        (number, fault), *more = faults
        others = ", ".join(str(line) for line, _ in more[:3]) + (", ..." if len(more) > 3 else "")
        also = f" ({len(more)} more cannot be read: line {others})" if more else ""
        raise ConfigError(f"{path} line {number}{fault}{also}")
    return found


def _record(form: Form, session: str, learn: Learn) -> Record | None:
    """Up to the last answer that is learned; None where none is. What stands behind it changes nothing."""
    last = len(form.turns) - 1
    while learn == "all" and last > 0 and not form.turns[last].learned:
        last -= 1
    if not form.turns[last].learned:
        return None
    turns = form.turns[:last]
    if learn == "last":
        turns = tuple(replace(turn, learned=False) if turn.learned else turn for turn in turns)
    return Record(turns=turns, answer=form.turns[last].text, session=session)


def _session(entry: dict[str, Any]) -> str:
    metadata = json_object(said) if isinstance(said := entry.get("metadata"), str) else said  # text, as tables hold it
    for where in (metadata if isinstance(metadata, dict) else {}, entry):
        for key in SESSION_KEYS:
            if isinstance(where.get(key), (str, int, float)):
                return str(where[key])
    return ""


def _split(records: Sequence[Record], *, eval_fraction: float, seed: int) -> Dataset:
    """Hold out whole sessions until about `eval_fraction` of the records are."""
    keys = [record.session or f"record {index}" for index, record in enumerate(records)]
    counts = Counter(keys)
    # Ordered by a hash of the name: neither their order in the file nor their names decide.
    order = sorted(counts, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    wanted, taken, held_out = eval_fraction * len(records), 0, set[str]()
    for key in order[:-1]:  # at least one session stays for training
        if taken + counts[key] / 2 <= wanted:
            held_out.add(key)
            taken += counts[key]
    if not held_out and wanted and len(order) > 1:
        # Few or uneven sessions: the smallest one is the least to give for a score at all.
        held_out.add(min(order, key=lambda key: counts[key]))
    how = f"nothing can be held out {'of one session' if wanted else 'with eval_fraction 0'}: there will be no score"
    if held_out:
        sessions = any(record.session for record in records)
        how = f"{len(held_out)} of {len(order)} sessions held out" if sessions else "single records: no session ids"
    return Dataset(
        train=tuple(r for r, key in zip(records, keys, strict=True) if key not in held_out),
        eval=tuple(r for r, key in zip(records, keys, strict=True) if key in held_out),
        split=how,
    )
