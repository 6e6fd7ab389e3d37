"""Counts the keys and markers of records that Trainyard does not read, and refuses the set where the model would be
trained without something that a record shows or points at: pictures, videos, audio, boxes.

A key is judged by its name (`image_path`, `imgFile`, `bbox`) and by its value (`0001.png`, a `data:` address, the
path of a picture that exists); a number is an ordinary column. A marker is judged by its content (`<img>0.png</img>`,
`<box>(12,30),(80,90)</box>`) or, if it only marks a place (`<video>`), by whether the record has something to put
there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from trainer.data.columns import BESIDE, PAIRS
from trainer.data.file_names import SIDE_OF
from trainer.data.inline import BASE64_MAGIC
from trainer.data.names import AUDIO, BOXES, PICTURES, SUFFIXES, VIDEOS, is_quiet, kind_of_file, kind_of_name
from trainer.data.places import LIKE_A_PLACE, PLACEHOLDER, PLACES, may_hold_marker, may_look_like_place
from trainer.data.switches import switches
from trainer.data.turns import Form, Picture
from trainer.text import shown

SWITCHES = "what is learned"
SPLIT = "split"
LONGEST_SIDE = 20
LONGEST_PATH = 300
MOST_SHOWN = 8
FILE_NAME = rf"[^<>\n]{{1,{LONGEST_PATH}}}(?:{'|'.join(map(re.escape, SUFFIXES))})"
NUMBERS = r"[\s\[\]()<]*-?\d[\d.]*[\s,]+-?\d"
FILLED = re.compile(
    rf"<(img|image|picture|video|audio)>{FILE_NAME}\s*</\1>|<\|?(?:box|bbox)(?:_start)?\|?>{NUMBERS}"
    rf"|!\[[^\[\]\n]*\]\({FILE_NAME}\)",
    re.IGNORECASE,
)
HTML_PICTURE = re.compile(rf"<img\s[^<>]{{0,{LONGEST_PATH}}}?\bsrc\s*=\s*[\"']?{FILE_NAME}[^<>]*>", re.IGNORECASE)
BARE = re.compile(
    r"<(video|audio)(?:_?\d+)?>|<\|(?:video|audio)(?:_?\d+|_pad)?\|>|\{\{\s*(?:video|audio)\s*\}\}|<bbox>|<ref-object>",
    re.IGNORECASE,
)
CLOSING = re.compile(r"</(video|audio)>", re.IGNORECASE)
MARKER = re.compile(r"<[^<>]*>|\{\{[^{}]*\}\}")
EMPTY: tuple[Any, ...] = (None, "", [], {})


class Unread:
    """Keys and markers that Trainyard does not read, counted over a set of records that are added one by one."""

    def __init__(self, *, text_only: bool) -> None:
        """With `text_only` no picture is missing."""
        self._is_picture: Callable[[str], bool] = lambda _: False
        self._text_only = text_only
        self._keys: Counter[str] = Counter()
        self._idle = 0
        """Number of records that say they have no picture but hold a place for one."""
        self._bare = 0
        """Number of records that show no picture and do not say so."""
        self._like_places: dict[str, list[str]] = {}
        """By text that looks like a placeholder: the places of the records that hold it beside a picture."""
        self._sides: dict[str, set[str]] = {}
        """By key of texts: the sides that its values name, up to the first value that names none, which is ""."""
        self._choices: Counter[str] = Counter()
        """By key of a list: number of records whose answer is the number of one of its texts."""
        self._lost: dict[tuple[str, str], list[str]] = {}
        """By (words for the thing that training would miss, its kind): the places of the records that hold it."""

    def add(self, form: Form, where: str, is_picture: Callable[[str], bool]) -> None:
        """Count one record. `where` names it, and may appear in an error; `is_picture` tells whether a path is a
        picture's."""
        self._is_picture = is_picture
        pictured = any(isinstance(part, Picture) for turn in form.turns for part in turn.parts)
        held = [
            (name, value)
            for name, value in form.unread
            if value not in EMPTY and not (is_quiet(name) and (pictured or not self._is_file(value)))
        ]
        for name, value in form.unread:
            self._note_value(name, value, form)
        self._idle += form.no_picture and form.marked and not self._text_only and _has_place(form)
        self._bare += not (form.no_picture or self._text_only or pictured)
        for name in dict.fromkeys(name for name, _ in held) if held else ():
            self._keys[name] += 1
        lost = [(f"{name!r} ({SWITCHES})", SWITCHES) for name, value in held if switches(name, value, form)]
        if form.marked and pictured:
            texts = (text for text in _asked(form) if may_look_like_place(text))
            found = (found[0].lower() for text in texts for found in LIKE_A_PLACE.finditer(text))
            # A known place with a number that comes again speaks of a picture that was shown.
            for mark in {mark for mark in found if not (PLACES.fullmatch(mark) and re.search(r"\d", mark))}:
                self._like_places.setdefault(mark, []).append(where)
        if not self._text_only and (held or form.marked):
            lost += (*self._lost_keys(form, held), *_lost_markers(form))
        for what in dict.fromkeys(lost):
            self._lost.setdefault(what, []).append(where)

    def _note_value(self, name: str, value: Any, form: Form) -> None:
        if isinstance(value, list) and form.as_json and value and all(isinstance(each, str) for each in value):
            self._choices[name] += form.turns[-1].text in map(str, range(len(value)))
        elif isinstance(value, str) and name != SPLIT and not name.endswith(BESIDE):
            if "" in (known := self._sides.setdefault(name, set())):
                return
            known.add(SIDE_OF.get(value.strip().lower(), "") if len(value) <= LONGEST_SIDE else "")

    def side_note(self) -> str | None:
        """One line about a key that divides the records as `split` would; None when there is none."""
        name = next((name for name, sides in self._sides.items() if len(sides) > 1 and "" not in sides), None)
        says = f"names sides, and divides nothing: columns: split={name} makes it divide"
        return f"{shown(name)} {says}" if name else None

    def choice_note(self) -> str | None:
        """One line about answers that are numbers of choices which the model does not see."""
        name, count = next(iter(self._choices.most_common(1)), ("", 0))
        says = f"{shown(name)}, which is not shown: write these texts into the question"
        what = "1 answer is the number" if count == 1 else f"{count} answers are numbers"
        return f"{what} of a text in {says}" if count else None

    def _lost_keys(self, form: Form, held: list[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
        shown = {_basename(path) for picture in form.pictures for path in picture.paths} if held else set()
        for name, value in held:
            if name == f"{PAIRS[1]}{BESIDE}":  # the answer that was not chosen, with what it was asked
                continue
            paths = value if isinstance(value, list) else [value]
            # The record may name a picture a second time that was already read.
            twice = all(isinstance(path, str) and _basename(path) in shown for path in paths)
            if not twice and (kind := self._kind(name, value)):
                yield f"{name!r} ({kind})", kind

    def _kind(self, name: str, value: Any, depth: int = 0) -> str:
        """The kind of thing that a key with this value holds; "" for words and numbers."""
        named = kind_of_name(name)
        if isinstance(value, str):
            if kind := self._kind_of_text(value):
                return kind
            if named == BOXES:
                return BOXES if len(re.findall(r"\d+", value)) >= 4 else ""
            return named if named and re.fullmatch(r"\S*[./\\]\S*", value) else ""
        if isinstance(value, list | tuple):
            if named == BOXES and any(not isinstance(each, str) for each in value):
                return BOXES
            return next((kind for each in value[:8] if depth < 4 and (kind := self._kind(name, each, depth + 1))), "")
        if isinstance(value, dict):
            if named and any(value.get(key) not in EMPTY for key in ("bytes", "path", "url", "base64")):
                return named
            return next((kind for k, v in value.items() if depth < 4 and (kind := self._kind(k, v, depth + 1))), "")
        return ""

    def _kind_of_text(self, text: str) -> str:
        if text.startswith("data:"):
            return {"image": PICTURES, "video": VIDEOS, "audio": AUDIO}.get(text[5:10], "")
        if text.startswith(BASE64_MAGIC) and len(text) > LONGEST_PATH:
            return PICTURES
        if len(text) > LONGEST_PATH or "\n" in text:
            return ""
        if kind := kind_of_file(text):
            return kind
        return PICTURES if self._is_picture(text) else ""

    def _is_file(self, value: Any) -> bool:
        """Whether `value` is the path of an existing picture, whatever the name of its key."""
        return isinstance(value, str) and value[value.rfind(".") :].lower() in SUFFIXES and self._is_picture(value)

    def like_note(self) -> str | None:
        """One line about texts that look like places of pictures and are learned as words; None when there are
        none."""
        if not self._like_places:
            return None
        most = sorted(self._like_places.items(), key=lambda item: -len(item[1]))[:MOST_SHOWN]
        found = ", ".join(f"{mark!r} in {len(places)} records ({places[0]})" for mark, places in most)
        return f"learned as words, and may be the place of a picture, which is {PLACEHOLDER}: {found}"

    def idle_note(self) -> str | None:
        """One line about records whose place of a picture is treated as text; None when there are none."""
        what = "say that they have no image and hold a place for one, which the model is shown as a word"
        return f"{self._idle} records {what}" if self._idle else None

    def bare_note(self) -> str | None:
        """One line, where records of a set with pictures have none."""
        says = (
            "1 record shows no picture, and is" if self._bare == 1 else f"{self._bare} records show no picture, and are"
        )
        return f'{says} learned as text: `"image": null` says so yourself' if self._bare else None

    def note(self) -> str | None:
        """One line about the keys that were not read; None when all were."""
        counted = [f"{name} in {count} records" for name, count in self._keys.most_common(MOST_SHOWN)]
        more = [f"{len(self._keys) - MOST_SHOWN} other keys"] if len(self._keys) > MOST_SHOWN else []
        return f"not read: {', '.join((*counted, *more))}" if counted else None

    def refusal(self) -> str | None:
        """One line about everything that the model would be trained without; None when nothing is missing."""
        if not self._lost:
            return None
        found = [
            f"{what} in {len(places)} records ({places[0]})" if places[0] else what
            for (what, _), places in list(self._lost.items())[:MOST_SHOWN]
        ]
        if len(self._lost) > MOST_SHOWN:
            found.append(f"{len(self._lost) - MOST_SHOWN} others")
        kinds = {kind for _, kind in self._lost}
        advice = [
            *(["pictures go under image, images or frames, <image> being their place in the text: rename the key "
               "(columns: image=KEY does), or remove it"] if PICTURES in kinds else []),
            *(["videos, audio and boxes are not shown: leave them out, or write a box as words"]
              if kinds - {PICTURES, SWITCHES} else []),
            *(["answers alone are learned, all alike, and none is compared: leave such records out, remove the key, or "
               "write weight 0, loss false, training false or mask true, which only shows an answer"]
              if SWITCHES in kinds else []),
            *(["text_only: true is for a set that is text alone, its markers words"] if kinds - {SWITCHES} else []),
        ]  # fmt: skip
        means = "so the model would not see it" if kinds - {SWITCHES} else "and it says what to learn"
        return f"not read, {means}: {', '.join(found)}; {'; '.join(advice)}"


def _lost_markers(form: Form) -> Iterator[tuple[str, str]]:
    for turn in form.turns if form.marked else ():
        for part in turn.parts:
            if not isinstance(part, str) or not may_hold_marker(part):
                continue
            found = FILLED.search(part)
            if not found and turn.role != "assistant" and not form.no_picture:
                found = _bare(part) or (None if form.pictures else PLACES.search(part) or HTML_PICTURE.search(part))
            if not found:
                continue
            tag = (MARKER.match(found[0]) or found)[0]
            marker = f"{tag}...</{found[1]}>" if found.re is FILLED and found[1] else tag
            picture = re.match(r"!\[|\W*(?:img|image|picture|vision)", marker, re.IGNORECASE)
            yield f"{marker!r} as text", PICTURES if picture else ""


def _bare(text: str) -> re.Match[str] | None:
    """The first marker of a video, a sound or a box; a tag that is closed later is HTML."""
    closed = {found[1].lower(): found.start() for found in CLOSING.finditer(text)}
    return next((mark for mark in BARE.finditer(text) if closed.get((mark[1] or "").lower(), -1) < mark.end()), None)


def _has_place(form: Form) -> bool:
    return any(PLACES.search(text) for text in _asked(form))


def _asked(form: Form) -> Iterator[str]:
    """The texts of the user's turns."""
    return (part for turn in form.turns if turn.role == "user" for part in turn.parts if isinstance(part, str))


def _basename(path: str) -> str:
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
