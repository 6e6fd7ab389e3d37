"""Recognises records of services that take other forms: batch files of OpenAI's interface, and Gemini's contents."""

from __future__ import annotations

from typing import Any

from trainer.data.turns import FormError

BODY, MESSAGES, CONTENTS = "body", "messages", "contents"


def unwrapped(entry: dict[str, Any]) -> dict[str, Any]:
    """The request in a line of a batch file, where it holds an answer to learn; any other record as it is."""
    body = entry.get(BODY)
    if not isinstance(body, dict) or "custom_id" not in entry or not _answers(body.get(MESSAGES)):
        return entry
    return {**{name: value for name, value in entry.items() if name != BODY}, **body}


def fault(entry: dict[str, Any]) -> FormError | None:
    """What a record of a known service is, and what helps; None for any other record."""
    if "custom_id" in entry and isinstance(entry.get(BODY), dict):
        return FormError(
            " is a request of a batch file, and its answer is in the batch's output: add the answer to body.messages, "
            "as a turn of role assistant"
        )
    if "custom_id" in entry and isinstance(entry.get("response"), dict):
        return FormError(
            " is an answer of a batch, and its question is in the batch's input: add the answer to the body.messages "
            "with the same custom_id there, as a turn of role assistant"
        )
    if is_gemini(entry):
        return FormError(
            " has Gemini's form (contents with parts): write messages for contents, content for parts, assistant for "
            'model, and a picture as {"type": "image", "image": PATH}'
        )
    return None


def is_gemini(entry: dict[str, Any]) -> bool:
    turns = entry.get(CONTENTS)
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, dict) and "parts" in turn for turn in turns)


def _answers(turns: Any) -> bool:
    return isinstance(turns, list) and any(isinstance(turn, dict) and turn.get("role") == "assistant" for turn in turns)
