"""`python -m trainer infer`: pictures in, JSON out, by the prompt and the scoring that training measured with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import Device
from trainer.data.forms import FRAMES, FormError, read_form
from trainer.data.records import Record, resolved
from trainer.evaluation.metrics import read_action
from trainer.flags import parse
from trainer.outcome import FAILED, FINISHED, ConfigError

if TYPE_CHECKING:
    from trainer.results.trained import Trained, Usage

USAGE = """usage: python -m trainer infer --run runs/x IMAGE [IMAGE ...] [--question TEXT] [--context TEXT]
       python -m trainer infer --run runs/x --records FILE

Answers with one JSON object: the likeliest allowed action and the probability of each. Where training used grids of
four frames, four images make one. --records takes one record a line, in any form that training takes, the answer left
out; `-` reads stdin. Every line is answered as it comes, by one line on stdout; {"error": ...} answers one that cannot
be read, and the exit code is 1 in the end."""
ANSWER = "?"  # stands where the forms want an answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    run: str
    """A finished run, its adapter folder, or a merged folder."""
    question: str | None = None
    """What is asked; left out: what every training record asks."""
    context: str | None = None
    """What stands before it; left out: what every training record says."""
    records: str | None = None
    """JSONL file of records, or - for stdin; image paths are relative to the file."""
    base: str | None = None
    """Folder or hub id of the base model, where it is not what the adapter says."""
    device: Device | None = None
    """Left out: as it was trained."""
    answer: bool = False
    """Write the whole answer out as well; where actions cannot be scored that is all there is."""
    json: bool = False
    """On one line."""


def main(argv: list[str]) -> int:
    """Raises ConfigError."""
    images: list[str] = []
    asked = parse(argv, Question, USAGE, words=images)
    if bool(images) == bool(asked.records):
        raise ConfigError(
            f"infer takes images, or --records FILE; got {'both' if images else 'neither'}: "
            "python -m trainer infer --run runs/x IMAGE"
        )
    from trainer.results.trained import find_trained, load_trained

    folder, usage = find_trained(Path(asked.run))
    given = read_images(images, asked, usage) if images else None
    lines = None if given else open_records(str(asked.records))
    trained = load_trained(folder, device=asked.device, base=asked.base)
    if given:
        try:
            found = answer(trained, given, written=asked.answer)
        except (ValueError, OSError) as error:  # frames of different sizes; no picture
            raise ConfigError(f"the images cannot be used: {error}") from None
        print(json.dumps(found, indent=None if asked.json else 1))
        return FINISHED
    refused = False
    where = Path(".") if asked.records == "-" else Path(str(asked.records)).parent
    for entry in answer_lines(trained, lines or (), where, written=asked.answer):
        print(json.dumps(entry), flush=True)
        refused |= "error" in entry
    return FAILED if refused else FINISHED


def read_images(images: list[str], asked: Question, usage: Usage) -> Record:
    """The one record that the command line describes, in the form of the training records."""
    texts = {}
    for name in ("context", "question"):
        text = getattr(asked, name)
        texts[name] = getattr(usage, name) if text is None else text
        if texts[name] is None:
            raise ConfigError(f"the training records have no {name} in common: say --{name}, or use --records")
    if usage.frames == FRAMES and len(images) not in (1, FRAMES):
        raise ConfigError(
            f"{len(images)} images: training used a grid of four frames; give the four, oldest first, or one ready grid"
        )
    key = "frames" if usage.frames == len(images) == FRAMES else "images"
    try:
        return as_record({key: images, **texts}, Path("."))
    except FormError as error:
        raise ConfigError(f"the images cannot be used{error}") from None


def as_record(entry: Any, folder: Path) -> Record:
    """A line of a data file, with or without its answer. Raises FormError."""
    if isinstance(entry, dict):
        entry = _with_answer(entry)
    turns, _ = read_form(entry)
    names = Record(turns=turns, answer=ANSWER, session="").images
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FormError(f": {folder / missing[0]} is not there")
    places = {str(name): str(folder / name) for name in names}
    return Record(turns=tuple(resolved(turns, places)), answer=ANSWER, session="")


def _with_answer(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The forms end with an answer; here it is what is asked for."""
    for key, role, text, name in (
        ("messages", "role", "content", "assistant"),
        ("conversations", "from", "value", "gpt"),
    ):
        said = entry.get(key)
        if isinstance(said, list) and said:
            last = said[-1].get(role) if isinstance(said[-1], dict) else None
            return {
                **entry,
                key: said if last in ("assistant", "gpt", "model") else [*said, {role: name, text: ANSWER}],
            }
    return {"output": ANSWER, **entry}


def open_records(name: str) -> Iterable[str]:
    if name == "-":
        return iter(sys.stdin.readline, "")
    try:
        return Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"records {name} cannot be read ({getattr(error, 'strerror', None) or error})") from None


def answer_lines(trained: Trained, lines: Iterable[str], folder: Path, *, written: bool) -> Iterator[dict[str, Any]]:
    """One answer a line, in order; {"error": ...} for a line that cannot be answered."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield answer(trained, as_record(json.loads(line.strip()), folder), written=written)
        except json.JSONDecodeError as error:
            yield {"error": f"line {number} is not JSON ({error})"}
        except FormError as error:
            yield {"error": f"line {number}{error}"}
        except (ValueError, OSError) as error:  # frames of different sizes; no picture
            yield {"error": f"line {number}: {error}"}


def answer(trained: Trained, record: Record, *, written: bool) -> dict[str, Any]:
    """`action` and `probabilities`; `answer` when it is written out. Raises ValueError, OSError for its pictures."""
    import torch

    from trainer.evaluation.generation import generate_answers
    from trainer.evaluation.scoring import score_actions

    choices, found = trained.usage.choices, {}
    asked = (trained.model, trained.processor, [record])
    if choices is not None:
        (logprobs,) = score_actions(*asked, choices, accelerator=trained.accelerator)
        shares = dict(zip(choices.actions, torch.tensor(logprobs).softmax(-1).tolist(), strict=True))
        found = {
            "action": max(shares, key=shares.__getitem__),
            "probabilities": {action: round(share, 6) for action, share in shares.items()},
        }
    if choices is None or written:
        budget = trained.usage.answer_tokens
        (text,) = generate_answers(*asked, accelerator=trained.accelerator, budget=budget)
        found = {"action": read_action(text, trained.usage.answer_field), **found, "answer": text}
    return found
