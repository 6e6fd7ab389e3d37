"""Training records: JSON in, checked, split by session. Torch-free, so `submit` can refuse bad data at once.

trainer/data/forms.py knows the forms of a record, json_text.py those of a file, sources.py which files are read.
Paths are relative to the file that names them. A path that exists only on the machine that wrote the file is searched
by its last folders, beside the file or under an image root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from trainer.config import Learn, TrainConfig
from trainer.data.bounds import BOUNDS
from trainer.data.columns import AUTO, parse_columns
from trainer.data.faults import FORMAT_HINT, LEAST_KEPT, check_kept
from trainer.data.file_names import SIDE_NAMES
from trainer.data.lengths import data_digest
from trainer.data.reading import Reader
from trainer.data.sessions import choose_held_out
from trainer.data.sources import Sources, find_sources
from trainer.data.turns import Record
from trainer.outcome import ConfigError
from trainer.text import shown as shown_text

SIDES = ("train", "eval")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    train: tuple[Record, ...]
    eval: tuple[Record, ...]
    split: str
    """How training and held-out records were separated, in words."""
    notes: tuple[str, ...] = ()
    """Facts that a reader of the data should know, one line each."""
    left_out: tuple[str, ...] = ()
    """The records that the reader has left out, one line for each kind of fault."""
    unusable: int = 0
    """How many records the reader has left out."""
    files: tuple[Path, ...] = ()
    """The files that were read."""
    sha256: str = ""
    """`data_digest` of these files, when the data is that of a run."""


def each_answer(records: Iterable[Record]) -> tuple[Record, ...]:
    """One record for each answer that `records` learn, behind the true turns before it, as the model is asked
    for it."""
    return tuple(one for record in records for one in _answers_of(record))


def _answers_of(record: Record) -> Iterator[Record]:
    shown = tuple(replace(turn, learned=False) if turn.learned else turn for turn in record.turns)
    for place, turn in enumerate(record.turns):
        if turn.learned:
            yield Record(turns=shown[:place], answer=turn.text, session=record.session, place=record.place)
    yield Record(turns=shown, answer=record.answer, session=record.session, place=record.place)


def without(dataset: Dataset, places: Mapping[str, Collection[int]]) -> Dataset:
    """The data set without the records at `places`, by side."""
    sides: dict[str, Any] = {
        side: tuple(r for i, r in enumerate(getattr(dataset, side)) if i not in places[side]) for side in SIDES
    }
    return replace(dataset, **sides)


def keep_fit(
    dataset: Dataset, unfit: Mapping[str, Collection[int]], left_out: Sequence[str], *, strict: bool
) -> Dataset:
    """The data set without the records at the places `unfit`, by side. Raises ConfigError, which says the lines
    `left_out`, when too few are left, and with `strict` when any is left out."""
    lines = "; ".join(left_out)
    if strict and (dataset.left_out or any(unfit.values())):
        raise ConfigError(f"strict: {lines}")
    for side, least in (("train", LEAST_KEPT), ("eval", 0.0)):
        read = len(getattr(dataset, side))
        before, after = read + (dataset.unusable if side == "train" else 0), read - len(unfit[side])
        if before and after <= least * before:
            # A run on the few records that fit would look like success.
            raise ConfigError(f"{after} of {before} {side} records would be left: {lines}")
    return without(dataset, unfit)


def take_apart(dataset: Dataset, places: Mapping[str, Collection[int]]) -> Dataset:
    """The data set with each record at `places`, by side, replaced by one record for each of its answers."""
    sides: dict[str, Any] = {
        side: tuple(
            one
            for i, record in enumerate(getattr(dataset, side))
            for one in (each_answer([record]) if i in places[side] else (record,))
        )
        for side in SIDES
    }
    return replace(dataset, **sides)


@dataclass(kw_only=True, slots=True)
class _Read:
    """The records that were read, without the test ones: each list is filled as the files are read, since there may be
    hundreds of thousands."""

    train: list[Record] = field(default_factory=list)
    eval: list[Record] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    """How many records of the files for training name each side in their `split` column; "" for no known one."""

    def __iter__(self) -> Iterator[Record]:
        return chain(self.train, self.eval)


def load_dataset(
    data: str,
    *,
    eval_fraction: float = 0.1,
    seed: int = 0,
    image_root: str | None = None,
    learn: Learn = "all",
    text_only: bool = False,
    columns: str = AUTO,
    session_key: str = AUTO,
    strict: bool = False,
    write: bool = True,
) -> Dataset:
    """Read and check every record at `data`: files of JSON, or folders with files for training and maybe held-out
    ones.

    Unusable records are left out and counted. Without held-out files and without a `split` column in the records,
    whole sessions are held out, about `eval_fraction` of the records, chosen by `seed`. With `write`, pictures that
    the records themselves contain become files.

    Raises:
        ConfigError: the data is missing, empty or mostly unusable (with `strict`: any record is unusable), it has keys
            or markers that are not read but would be missed, or it has no picture although it is not `text_only`.
    """
    if image_root is not None and not Path(image_root).is_dir():
        raise ConfigError("not a folder", name="image_root", given=image_root)
    sources = find_sources(data)
    reader = Reader(
        learn=learn, columns=parse_columns(columns), session_key=session_key, image_root=image_root,
        text_only=text_only, write=write,
    )  # fmt: skip
    try:
        read = _Read()
        for path in sources.train:
            for record, side in reader.read(path):
                read.said[side] += 1
                if side != "test":
                    (read.eval if side == "eval" else read.train).append(record)
        held_out = [row.record for path in sources.eval for row in reader.read(path)]
    except OSError as error:
        said = f"cannot be read ({error.strerror}): make it readable for whoever runs the job"
        raise ConfigError(said, name="DATA", given=data) from None
    reader.check_columns()
    if empty := next((path for path in sources.files if not reader.counts[path]), None):
        raise ConfigError(f"{empty} holds no records: {FORMAT_HINT}")
    if lost := reader.unread.refusal():
        raise ConfigError(f"{data}: {lost}")
    counts = (read.said.total(), len(held_out))
    total = reader.faults.count + sum(counts)
    cures = reader.faults.cures(data, str(sources.train[0].parent), image_root)
    check_kept(data, reader.faults, sum(counts), strict=strict, cures=cures)
    for files, count in zip((sources.train, sources.eval), counts, strict=True):
        if files and not count:
            lines = "; ".join(reader.faults.lines(total))
            raise ConfigError(f"{data}: no record of {files[0].name} can be used: {lines}", advice=cures)
    reader.sessions.check()
    read.eval[:0] = held_out
    if read.train:  # without any, _divide says so
        _check_pictures(data, read, text_only=text_only)
    moved = [note for pictures in reader.pictures.values() if (note := pictures.note(data))]
    unknown = [name for name in reader.splits if name not in SIDE_NAMES]
    divided = bool(sources.eval or reader.splits["eval"] or reader.splits["test"])
    notes = (*sources.notes, *reader.notes, *_notes(read, reader, learn, divided=divided), *moved)
    found = _divide(data, sources, read, eval_fraction=eval_fraction, seed=seed, unknown=unknown)
    return replace(
        found,
        notes=(*notes, *found.notes),
        left_out=reader.faults.lines(total),
        unusable=reader.faults.count,
        files=sources.files,
    )


def dataset_of(config: TrainConfig) -> Dataset:
    """The records of a run with these settings. Raises ConfigError, as `load_dataset`."""
    BOUNDS.megapixels = config.max_image_megapixels
    found = load_dataset(
        config.data, eval_fraction=config.eval_fraction, seed=config.seed, image_root=config.image_root,
        learn=config.learn, text_only=config.text_only, columns=config.columns, session_key=config.session_key,
        strict=config.strict,
    )  # fmt: skip
    return replace(found, sha256=data_digest(config.data))


def _divide(
    data: str, sources: Sources, read: _Read, *, eval_fraction: float, seed: int, unknown: Sequence[str]
) -> Dataset:
    """The data set split by files and by what the records say, else by sessions; `unknown` are values of `split` that
    name no side. Raises ConfigError for a session on both sides, and where nothing is left to learn."""
    train, held_out, said = read.train, read.eval, read.said
    notes: tuple[str, ...] = ()
    if said["eval"] or said["test"]:
        names = f" ({', '.join(map(shown_text, [*unknown][:3]))})" if unknown else ""
        nothing = f", {said['']} of them without a split that is known{names}" if said[""] else ""
        counts = f"{len(train)} are trained on{nothing}, {said['eval']} held out, {said['test']} not used (test)"
        notes = (f"as the split of the records says, {counts}",)
        if not train:
            raise ConfigError(
                f"{notes[0]}: take split out of the records that are to be learned", name="DATA", given=data
            )
    if sources.eval:
        split = ", ".join([*(path.name for path in sources.eval), *(["the split column"] if said["eval"] else [])])
    elif said["eval"]:
        split = "as the split column says"
    else:
        places, split = choose_held_out([r.session for r in train], eval_fraction=eval_fraction, seed=seed)
        held_out = [record for place, record in enumerate(train) if place in places]
        train = [record for place, record in enumerate(train) if place not in places]
    if shared := {r.session for r in train} & {r.session for r in held_out} - {""}:
        where = f"{sources.train[0].name} and {sources.eval[0].name}" if sources.eval else "both sides of the split"
        raise ConfigError(
            f"has {len(shared)} session(s) in {where} alike, for example "
            f"{min(shared)!r}: move each session to one side",
            name="DATA",
            given=data,
        )
    return Dataset(train=tuple(train), eval=tuple(held_out), split=split, notes=notes)


def _check_pictures(data: str, read: _Read, *, text_only: bool) -> None:
    """Raises ConfigError for a set with pictures when `text_only`, and for one without pictures otherwise."""
    pictured = any(record.pictures for record in read)
    if text_only and pictured:
        count = sum(bool(record.pictures) for record in read)
        raise ConfigError(
            f"text_only: {count} records of {data} have pictures: leave text_only out, to learn from them"
        )
    if not text_only and not pictured:
        raise ConfigError(
            f"{data}: none of {len(read.train) + len(read.eval)} records has a picture: image, images or frames hold "
            "the paths; text_only: true trains on text alone"
        )


def _notes(read: _Read, reader: Reader, learn: Learn, *, divided: bool) -> tuple[str, ...]:
    unread = reader.unread
    notes = [*filter(None, (unread.note(), unread.idle_note(), unread.bare_note(), unread.like_note()))]
    notes += filter(None, (None if divided else unread.side_note(), unread.choice_note()))
    records, answers, shown = len(read.train) + len(read.eval), 0, 0
    for record in read:
        answers += record.count
        for turn in record.turns:
            shown += turn.role == "assistant" and not turn.learned
    if answers > records:
        notes.append(f"{answers} answers of {records} records are learned (learn: last takes the last ones alone)")
    if shown:
        why = "are not the last of their record" if learn == "last" else "say weight 0, loss false or mask true"
        notes.append(f"{shown} answers {why}: shown to the model, and not trained on")
    if reader.as_json:
        first = shown_text(next(iter(reader.as_json)))
        notes.append(f"{reader.as_json.total()} answers are JSON values, learned as their text, for example {first}")
    if reader.splits and not reader.splits.keys() & SIDE_NAMES.keys():
        names = ", ".join(shown_text(name) for name in list(reader.splits)[:3])
        notes.append(
            f"{reader.splits.total()} records have a split that is none of train, validation and test ({names}): it "
            "divides nothing"
        )
    if reader.unanswered:
        notes.append(f"{reader.unanswered} records end with a user's turn: the answers before it are learned")
    sessions = Counter(bool(record.session) for record in read)
    if all(sessions[has] for has in (True, False)):
        notes.append(f"{sessions[False]} of {sessions.total()} records have no session id: each counts as a session")
    elif not sessions[True] and (like := reader.sessions.note()):
        notes.append(like)
    return tuple(notes)
