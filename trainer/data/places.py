"""Decides where the pictures of a record go in its turns: at image parts, at placeholders in the text, else in
front."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from trainer.data.turns import FormError, Picture, Role

PLACEHOLDER = "<image>"
# Other trainers' and models' spellings of the placeholder, with the marks that they put around it. <img>path</img> is
# not a placeholder but a picture, and is not read.
# Every branch begins with a character that is no letter, for which re then searches alone: ten times as fast in a
# long text.
PLACES = re.compile(
    r"(<(?:(?:image|picture)(?:[ _-]?\d+|_(?:placeholder|token|pad))?\s*/?>|im_start><image><im_end>"
    r"|(?:\|vision_start\|><)?\|(?:image|img)(?:_?\d+|_pad)?\|>(?:<\|vision_end\|>)?|start_of_image>"
    r"|img><ImageHere></img>|ImageHere>|img>(?![^<]*</img>))|\[(?:IMG|image(?:[ _-]?\d+)?)\](?!\()"
    r"|\{\{\s*image\s*\}\})",
    re.IGNORECASE,
)
# Text that nobody knows as a placeholder and that looks like one: {img}, [image_a], <vision_0>. The words have an end:
# over one long word the search would take the square of its length.
LIKE_A_PLACE = re.compile(
    r"<[|/]?(?:\w{1,30}_)?(?:image|img|picture|photo|vision|im)(?:[ _-]?\w{1,30})?\|?>"
    r"|[\[{$%]{1,2}(?:\w{1,30}_)?(?:image|img|picture|photo)(?:[ _-]?\w{1,30})?[\]}$%]{1,2}(?!\()"
    r"|<\|?(?:placeholder|media|visual)[ _]?\d{0,30}\|?>",
    re.IGNORECASE,
)

Parts = list[str | Picture | None]  # None: the place of a picture that is named beside the text


def may_hold_marker(text: str) -> bool:
    """Whether a text may hold a marker: every marker contains one of these strings. Text such as JSON holds none of
    them, and is not searched."""
    return "<" in text or "[i" in text or "[I" in text or "{i" in text or "{{" in text or "](" in text


def put_pictures(
    turns: list[Parts], roles: list[Role], beside: list[Picture], marked: bool
) -> list[list[str | Picture]]:
    """The parts of each turn with every picture in its place: an image part, or a placeholder in a user's text if
    there are as many as pictures. Without any place the pictures go in front of the first user turn, as in TRL.

    Raises FormError when the counts disagree.
    """
    shown = [part for parts in turns for part in parts if not isinstance(part, str)]
    if not marked and not shown:
        said: list[list[str | Picture]] = [
            [part for part in parts if isinstance(part, str) and part.strip()] for parts in turns
        ]
        said[roles.index("user")][:0] = beside
        return said
    # A placeholder means an image only when the record has images; otherwise it is ordinary text.
    count = len(shown) - shown.count(None) + len(beside)
    marks: dict[str, int] = {}
    for role, parts in zip(roles, turns, strict=True) if marked and count else ():
        texts = [part for part in parts if isinstance(part, str)]
        if role != "user" and any(PLACEHOLDER in text for text in texts):
            raise FormError(": only user turns can hold images")
        for text in texts if role == "user" else ():
            for mark in PLACES.findall(text):
                marks[mark.lower()] = marks.get(mark.lower(), 0) + 1
    numbers = [int(number) for mark in marks for number in re.findall(r"\d+", mark)]
    if numbers != sorted(numbers):
        raise FormError(": numbered places stand in another order than the images: put the images into theirs")
    names, kept, once = _choose_places(marks, len(shown), count)
    supply = iter(beside)
    if not kept and shown:  # the pictures of image parts go to the placeholders
        found = [next(supply, None) if part is None else part for part in shown]
        supply = iter([*(picture for picture in found if picture), *supply])
        turns = [[part for part in parts if isinstance(part, str)] for parts in turns]
    both = zip(roles, turns, strict=True)
    open_marks = Counter({name: 1 if name in once else marks[name] for name in names})
    filled = [list(_fill(parts, open_marks if role == "user" else Counter(), supply)) for role, parts in both]
    filled[roles.index("user")][:0] = supply
    return filled


def _choose_places(marks: Mapping[str, int], parts: int, count: int) -> tuple[Collection[str], bool, Collection[str]]:
    """(the placeholders that are places of pictures, whether the image parts are places too, the placeholders that
    are a place the first time alone), for a record with `count` pictures whose text holds each of `marks` that often.
    Raises FormError when no choice gives `count` places."""
    # Try all spellings, then each single one, with the others as text; first together with the image parts, then
    # instead of them. A number that comes again speaks of a picture that was shown.
    numbered = [mark for mark in marks if re.search(r"\d", mark)]
    for names in (marks, *((mark,) for mark in marks)):
        for once in ((), numbered):
            places = sum(1 if name in once else marks[name] for name in names)
            if places + parts == count or (places and places == count):
                return names, places + parts == count, once
    if marks or parts:
        places = sum(marks.values()) + parts
        raise FormError(f" has {count} images, but {places} places for them ({PLACEHOLDER} or an image part)")
    return (), True, ()


def _fill(parts: Parts, left: Counter[str], supply: Iterator[Picture]) -> Iterator[str | Picture]:
    """The parts of one turn, with a picture from `supply` in each place and for each placeholder that is `left`, as
    often as it says; a placeholder that becomes a picture is taken off."""
    for part in parts:
        if isinstance(part, str) and not left:
            if part.strip():
                yield part
            continue
        text = ""
        for piece in PLACES.split(part) if isinstance(part, str) else [part]:
            if isinstance(piece, Picture):
                yield piece
            elif piece is None or left[piece.lower()] > 0:
                if piece is not None:
                    left[piece.lower()] -= 1
                if text.strip():
                    yield text
                text = ""
                yield next(supply)
            else:
                text += piece
        if text.strip():
            yield text
