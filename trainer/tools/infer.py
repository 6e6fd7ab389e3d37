"""usage: python -m trainer infer --run runs/x IMAGE [IMAGE ...] [--question TEXT] [--context TEXT] [--system TEXT]
       python -m trainer infer --run runs/x --records FILE

Answers with one JSON object: the likeliest allowed action and the probability of each, by the prompt and the scoring
that training measured with. Where training used grids of four frames, four images make one. --records takes a file that
training would take, its columns called as there, the answers left out; `-` reads stdin. Every record is answered as it
comes, by one line on stdout; {"error": ...} answers one that cannot be read, and the exit code is 1 in the end.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trainer.commands import command, command_as_typed, option_as_typed, run_variables
from trainer.config import Device
from trainer.data.columns import ANSWERS, CONVERSATIONS, TURN_PAIRS, parse_columns, rename
from trainer.data.forms import FRAMES, read_form
from trainer.data.images import Pictures
from trainer.data.json_text import Found, read_objects, read_stream
from trainer.data.turns import ROLES, FormError, Record
from trainer.data.unread import Unread
from trainer.files import regular
from trainer.flags import Text, parse
from trainer.outcome import FAILED, FINISHED, ConfigError, RecordError
from trainer.settings import say

if TYPE_CHECKING:
    from trainer.results.trained import Trained, Usage

ANSWER = "?"  # stands in for the answer that the forms need
ASSISTANTS = [name for name, role in ROLES.items() if role == "assistant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    run: str
    """A finished run, its adapter folder, or a merged folder."""
    question: Text | None = None
    """The question (the one that all training records ask)."""
    context: Text | None = None
    """The text before the question (that of all training records)."""
    system: Text | None = None
    """The system turn (that of all training records)."""
    records: str | None = None
    """File of records, or - for stdin; image paths are relative to the file."""
    base: str | None = None
    """Folder or hub id of the base model (the one that the adapter names)."""
    device: Device | None = None
    """The device (that of the training)."""
    answer: bool = False
    """Also write the whole answer out; this is always done where actions cannot be scored."""
    json: bool = False
    """Print on one line."""


def main(argv: list[str]) -> int:
    """Runs `python -m trainer infer`. Raises ConfigError."""
    images: list[str] = []
    asked = parse(argv, Question, __doc__, words=images)
    if bool(images) == bool(asked.records):
        way = command_as_typed(
            f"make infer {run_variables(asked.run)} PICTURES=picture.png", "infer", "--run", asked.run, "picture.png"
        )
        got = "both" if images else "neither"
        raise ConfigError(f"infer takes pictures or a file of records ({option_as_typed('records')}), got {got}: {way}")
    from trainer.results.trained import find_trained, load_trained

    folder, usage = find_trained(Path(asked.run))
    load = partial(load_trained, folder, device=asked.device, base=asked.base)
    if asked.records:
        refused = False
        folder_of_records, records = open_records(asked.records)
        for entry in answer_records(load(), records, folder_of_records, written=asked.answer):
            print(json.dumps(entry), flush=True)
            refused |= "error" in entry
        return FAILED if refused else FINISHED
    try:
        record = as_record(entry_of(images, asked, usage), Path(), text_only=usage.text_only)
        trained = load()
        if note := unlike_training(record, usage):
            say([note])
        found = answer(trained, record, written=asked.answer)
    except FormError as error:
        raise ConfigError(f"the images cannot be used{error}") from None
    print(json.dumps(found, indent=None if asked.json else 1))
    return FINISHED


def entry_of(images: list[str], asked: Question, usage: Usage) -> dict[str, Any]:
    """The record that the command line describes, in the form of the training records. Raises ConfigError."""
    texts = {"context": asked.context, "question": asked.question, "system": asked.system}
    texts = {name: getattr(usage, name) if text is None else text for name, text in texts.items()}
    if lacking := [name for name, text in texts.items() if text is None]:
        name = lacking[0]
        raise ConfigError(f"the training records have no {name} in common: {_with(asked, images, name)}")
    if usage.frames == FRAMES and len(images) not in (1, FRAMES):
        raise ConfigError(
            f"{len(images)} images: training used a grid of four frames; give the four, oldest first, or one ready grid"
        )
    return {"frames" if usage.frames == len(images) == FRAMES else "images": images, **texts}


def _with(asked: Question, images: list[str], name: str) -> str:
    """The command with the text `name` besides, of which the person types the words. make takes no system turn."""
    text = {"question": "Which button?", "context": "Level 1", "system": "You play a game."}[name]
    words = ("infer", "--run", asked.run, *images, f"--{name}", text)
    given = f"PICTURES={shlex.quote(','.join(images))} {name.upper()}={shlex.quote(text)}"
    made = f"make infer {run_variables(asked.run)} {given}"
    return command("trainer", *words) if name == "system" else command_as_typed(made, *words)


def unlike_training(record: Record, usage: Usage) -> str:
    """How the pictures of a question differ from those that training showed, as a note; "" if they do not."""
    count = len(record.pictures)
    if usage.pictures and count not in usage.pictures:
        had = f"{usage.pictures[0]}" if len(usage.pictures) == 1 else f"{usage.pictures[0]} to {usage.pictures[-1]}"
        return f"the question has {count} picture{'s' * (count != 1)}; in training each had {had}"
    if usage.frames == FRAMES and any(len(picture.paths) == 1 for picture in record.pictures):
        return "one picture is taken as a ready grid; training drew grids of four frames: give the four, oldest first"
    if usage.frames == 1 and any(len(picture.paths) == FRAMES for picture in record.pictures):
        return "four frames are drawn as one grid; training used ready pictures"
    return ""


def open_records(name: str) -> tuple[Path, Iterator[Found]]:
    """(the folder that image paths are relative to, the records with the place of each). Raises ConfigError."""
    if name == "-":
        return Path(), read_stream(cast(io.BufferedReader, sys.stdin.buffer))
    path = Path(name)
    try:
        with regular(path).open("rb"):
            return path.parent, read_objects(path)
    except OSError as error:
        raise ConfigError(f"records {name} cannot be read ({error.strerror})") from None


def answer_records(
    trained: Trained, records: Iterable[Found], folder: Path, *, written: bool
) -> Iterator[dict[str, Any]]:
    """One answer for each record, in order; {"error": ...} for a record that cannot be answered."""
    usage = trained.usage
    columns = parse_columns(usage.columns)
    said = {""}
    for where, found in records:
        try:
            if isinstance(found, FormError):
                raise found
            record = as_record(rename(found, columns), folder, text_only=usage.text_only)
            if (note := unlike_training(record, usage)) not in said:
                said.add(note)
                say([f"{where}: {note}"])
            yield answer(trained, record, written=written)
        except FormError as error:
            yield {"error": f"{where}{error}"}


def as_record(entry: dict[str, Any], folder: Path, *, text_only: bool) -> Record:
    """A record of a data file, with or without its answer. Raises FormError."""
    pictures = Pictures(folder, None)
    form = read_form(with_answer(entry), pictures)
    unread = Unread(text_only=text_only)
    unread.add(form, "", pictures.is_picture)
    if lost := unread.refusal():
        raise FormError(f": {lost}")
    return Record(turns=tuple(replace(turn, learned=False) for turn in form.turns[:-1]), answer=ANSWER, session="")


def with_answer(entry: dict[str, Any]) -> dict[str, Any]:
    """The record with an answer added if it has none, since the forms end with an answer."""
    for key in CONVERSATIONS:
        if isinstance(said := entry.get(key), list) and said and isinstance(said[-1], dict):
            role, text = next(((role, text) for role, text in TURN_PAIRS if role in said[-1]), TURN_PAIRS[0])
            answered = said[-1].get(role) in ASSISTANTS
            return entry if answered else {**entry, key: [*said, {role: "assistant", text: ANSWER}]}
    return entry if any(name in entry for name in ANSWERS) else {**entry, "output": ANSWER}


def answer(trained: Trained, record: Record, *, written: bool) -> dict[str, Any]:
    """`action` and `probabilities`; `answer` if it is written out. Raises FormError for pictures that cannot be
    used."""
    from trainer.evaluation.heldout import HeldOut
    from trainer.model.refusal import UNFIT, refusing

    usage = trained.usage
    asked = HeldOut(
        processor=trained.processor, records=(record,), answered=(0,) if written or usage.choices is None else (),
        field=usage.answer_field, choices=usage.choices, budget=usage.answer_tokens, end=usage.end,
    )  # fmt: skip
    try:
        with refusing(trained.base, "asked", UNFIT):
            (said,) = asked.measure(trained.model, trained.accelerator, bool).predictions
    except RecordError as error:
        raise FormError(f": {error.words}") from None
    return {"action": said["prediction"], **{name: said[name] for name in ("probabilities", "answer") if name in said}}
