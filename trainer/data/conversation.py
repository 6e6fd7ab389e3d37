"""The turns of a conversation as a record holds them: who speaks, what is said, and whether it is learned."""

from __future__ import annotations

import json
from typing import Any

from trainer.data.columns import IMAGE_KEYS, PAIRS, TURN_PAIRS, pair_cure
from trainer.data.turns import ROLES, FormError, Role, role_of, short

# The keys by which OpenAI and ms-swift say whether an answer is learned: the value for no, and for yes.
LEARNED_BY = {"weight": (0, 1), "loss": (False, True)}
# In a turn, Axolotl's and torchtune's keys too.
TURN_LEARNED_BY = {
    **LEARNED_BY, "train": (False, True), "training": (False, True), "mask": (True, False), "masked": (True, False),
}  # fmt: skip
# Tool calls of an answer: learned without them, it would be another answer.
CALLS = ("tool_calls", "function_call")
# The keys of a picture in a part of a turn; the keys that are read of each type of part.
IMAGE_PART_KEYS = ("image", "path", "url", "image_url", "base64", "source")
READ_OF_PART = {"text": ("type", "text"), "image": ("type", "text", *IMAGE_PART_KEYS)}
# Types from OpenAI's two interfaces, Axolotl, and Qwen, which leaves the type out.
PART_TYPES = {
    **dict.fromkeys(("text", "input_text", "output_text"), "text"),
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
}

Said = tuple[Role, Any, bool]  # the speaker, the text, whether it is learned


def read_conversation(entry: dict[str, Any], key: str, unread: list[tuple[str, Any]]) -> list[Said]:
    """The turns of a conversation; other keys of the turns are added to `unread`."""
    said = entry[key]
    if not isinstance(said, list) or not said:
        raise FormError(f": {key} takes a list of turns, got {short(said)}", f"{key} takes a list of turns")
    turns: list[Said] = [("system", entry["system"], False)] if entry.get("system") else []
    for number, turn in enumerate(said, start=len(turns) + 1):
        keys = None
        if isinstance(turn, dict):
            keys = next((both for both in TURN_PAIRS if both[0] in turn and both[1] in turn), None)
        if keys is None:
            takes, how = "role and content (or from and value)", _turn_columns(turn)
            said = f": turn {number} of {key} takes {takes}, got {short(turn)}{how}"
            raise FormError(said, f"a turn takes {takes}")
        role_key, text_key = keys
        if (role := role_of(turn[role_key])) is None:
            kind = f"{role_key} {short(turn[role_key])}"
            raise FormError(f": {kind} of turn {number}: it takes {', '.join(ROLES)}", f"{kind} of a turn")
        learned = role == "assistant"
        for name in turn.keys() - {role_key, text_key} if len(turn) > 2 else ():
            if name in TURN_LEARNED_BY and _is_switch(name, turn[name]):
                learned = _is_learned(name, turn[name], number, role) and learned
            elif name in CALLS and turn[name]:
                said = f"a turn has {name}: write a call into the text of the answer"
                raise FormError(f": turn {number} has {name}: write the call into its text", said)
            elif name not in IMAGE_KEYS:
                unread.append((name, turn[name]))
            elif turn[name]:
                raise FormError(
                    f": turn {number} has {name}: they go beside {key}, or into the turn's parts as type image",
                    f"a turn has {name}: they go beside {key}, or into the turn's parts as type image",
                )
        said_here = turn[text_key]
        turns.append((role, [said_here] if _is_part(said_here) else said_here, learned))
    roles = [role for n, (role, *_) in enumerate(turns) if role == "assistant" or not n or role != turns[n - 1][0]]
    alternating = roles[1:] if roles[0] == "system" else roles
    answered = alternating[:-1] if alternating[-1:] == ["user"] else alternating
    if not answered or answered != ["user", "assistant"] * (len(answered) // 2):
        if not answered and entry.keys() >= {*PAIRS}:
            more = "and has no other answer"
            raise FormError(
                f" is a pair to choose from ({', '.join(PAIRS)}), {more}; {pair_cure(entry)}",
                f"is a pair to choose from, {more}",
            )
        wanted = f"{key} takes turns that alternate user, assistant, behind system turns at most, with an answer"
        raise FormError(f": {wanted}; got {', '.join(roles)}", wanted)
    return turns


def _turn_columns(turn: Any) -> str:
    """The setting that would read a turn under other names; "" where none is seen."""
    texts = [name for name, value in turn.items() if isinstance(value, str)] if isinstance(turn, dict) else []
    speakers = [name for name in texts if role_of(turn[name])]
    if len(texts) != 2 or len(speakers) != 1:
        return ""
    (text,) = {*texts} - {*speakers}
    return f"; columns: role={speakers[0]},content={text} would read it"


def _is_switch(name: str, value: Any) -> bool:
    """Whether a turn's key `name` is meant to say that it is learned: a mask may also be the name of a picture, and
    train a text."""
    flags = value if isinstance(value, list) else [value]
    said = (flag is None or isinstance(flag, int | float) or str(flag).lower() in ("true", "false") for flag in flags)
    return name in LEARNED_BY or any(said)


def _is_learned(name: str, value: Any, number: int, role: Role) -> bool:
    """Whether a turn is learned according to its key `name`. Raises FormError for a value that is neither yes nor no,
    and for a yes in a turn that is not an answer."""
    no, yes = (json.dumps(value) for value in TURN_LEARNED_BY[name])
    if value is None:
        return True
    if not isinstance(value, int | float) or value not in TURN_LEARNED_BY[name]:
        takes = f"it takes {yes} (learned) or {no} (only shown)"
        raise FormError(f": {name} {short(value)} of turn {number}: {takes}", f"{name} of a turn: {takes}")
    learned = value == TURN_LEARNED_BY[name][1]
    if learned and role != "assistant":
        said = f"which is the {role}'s: only answers are learned"
        raise FormError(f": {name} {yes} of turn {number}, {said}", f"{name} {yes} of a turn {said}")
    return learned


def part_type(part: dict[str, Any]) -> str:
    """text or image, else the part's own type."""
    said = str(part["type"]) if "type" in part else next((key for key in ("text", "image") if key in part), "")
    return PART_TYPES.get(said, said)


def _is_part(said: Any) -> bool:
    """Whether the content of a turn is a single part, not in a list. An answer with further keys is a JSON value."""
    if not isinstance(said, dict) or "type" not in said:
        return False
    kind = part_type(said)
    return kind in READ_OF_PART and said.keys() <= {*READ_OF_PART[kind]} and (kind != "text" or "text" in said)
