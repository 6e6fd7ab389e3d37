"""Decides where the pictures of a record go in its turns: at image parts, at placeholders in the text, else in
front."""

from __future__ import annotations

import re
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

DIGITS = re.compile(r"\d+")

Parts = list[str | Picture | None]  # None: the place of a picture that is named beside the text
Cut = str | list[str] | Picture | None  # a list: a text cut at its placeholders, which stand between two texts each


def may_hold_marker(text: str) -> bool:
    """Whether a text may hold a marker: every marker contains one of these strings. Text such as JSON holds none of
    them, and is not searched. A single character is found ten times as fast as two."""
    if "<" in text:
        return True
    return ("[" in text and ("[i" in text or "[I" in text or "](" in text)) or (
        "{" in text and ("{i" in text or "{{" in text)
    )


def may_look_like_place(text: str) -> bool:
    """Whether a text may match LIKE_A_PLACE, every match of which begins with one of these characters."""
    return "<" in text or "[" in text or "{" in text or "$" in text or "%" in text


def put_pictures(
    turns: list[Parts], roles: list[Role], beside: list[Picture], marked: bool
) -> list[list[str | Picture]]:
    """The parts of each turn with every picture in its place: an image part, or a placeholder in a user's text if
    there are as many as pictures. Without any place the pictures go in front of the first user turn, as in TRL.

    Raises FormError when the counts disagree.
    """
    shown = [part for parts in turns for part in parts if not isinstance(part, str)]
    # A placeholder means an image only when the record has images; otherwise it is ordinary text.
    count = len(shown) - shown.count(None) + len(beside)
    if not shown and not (marked and count):
        said: list[list[str | Picture]] = [
            [part for part in parts if isinstance(part, str) and part.strip()] for parts in turns
        ]
        said[roles.index("user")][:0] = beside
        return said
    cut: list[list[Cut]] = []
    marks: dict[str, int] = {}
    for role, parts in zip(roles, turns, strict=True):
        if role != "user" and count and any(isinstance(part, str) and PLACEHOLDER in part for part in parts):
            raise FormError(": only user turns can hold images")
        searched = marked and count and role == "user"
        cut.append(
            [PLACES.split(part) if searched and isinstance(part, str) and may_hold_marker(part) else part
             for part in parts]
        )  # fmt: skip
        for mark in [mark.lower() for part in cut[-1] if isinstance(part, list) for mark in part[1::2]]:
            marks[mark] = marks.get(mark, 0) + 1
    numbers = [int(number) for mark in marks for number in DIGITS.findall(mark)]
    if numbers != sorted(numbers):
        raise FormError(": numbered places stand in another order than the images: put the images into theirs")
    names, kept, once = _choose_places(marks, len(shown), count)
    supply = iter(beside)
    if not kept and shown:  # the pictures of image parts go to the placeholders
        found = [next(supply, None) if part is None else part for part in shown]
        supply = iter([*(picture for picture in found if picture), *supply])
        cut = [[part for part in parts if isinstance(part, str | list)] for parts in cut]
    left = {name: 1 if name in once else marks[name] for name in names}
    filled = [list(_fill(parts, left, supply)) for parts in cut]
    filled[roles.index("user")][:0] = supply
    return filled


def _choose_places(marks: Mapping[str, int], parts: int, count: int) -> tuple[Collection[str], bool, Collection[str]]:
    """(the placeholders that are places of pictures, whether the image parts are places too, the placeholders that
    are a place the first time alone), for a record with `count` pictures whose text holds each of `marks` that often.
    Raises FormError when no choice gives `count` places."""
    if sum(marks.values()) + parts == count:
        return marks, True, ()
    # Try all spellings, then each single one, with the others as text; first together with the image parts, then
    # instead of them. A number that comes again speaks of a picture that was shown.
    numbered = [mark for mark in marks if DIGITS.search(mark)]
    for names in (marks, *((mark,) for mark in marks)):
        for once in ((), numbered):
            places = sum(1 if name in once else marks[name] for name in names)
            if places + parts == count or (places and places == count):
                return names, places + parts == count, once
    if marks or parts:
        places = sum(marks.values()) + parts
        raise FormError(f" has {count} images, but {places} places for them ({PLACEHOLDER} or an image part)")
    return (), True, ()


def _fill(parts: list[Cut], left: dict[str, int], supply: Iterator[Picture]) -> Iterator[str | Picture]:
    """The parts of one turn, with a picture from `supply` in each place and for each placeholder that is `left`, as
    often as it says; a placeholder that becomes a picture is taken off."""
    for part in parts:
        if not isinstance(part, str | list):
            yield next(supply) if part is None else part
            continue
        text, *pieces = [part] if isinstance(part, str) else part
        for mark, behind in zip(pieces[::2], pieces[1::2], strict=True):
            if left.get(mark.lower(), 0) == 0:
                text += mark + behind
                continue
            left[mark.lower()] -= 1
            if text.strip():
                yield text
            yield next(supply)
            text = behind
        if text.strip():
            yield text
