"""Where an answer ends: what training teaches the model to say behind it, read off the chat template, is what stops it.

A model's generation_config may know another end than its template writes, and a model that learned to say the one never
says the other. A template that puts nothing behind an answer would train a model that does not stop: there the
tokenizer's own end of sequence is learned behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trainer.data.template import bounded
from trainer.outcome import ConfigError

# What no template writes itself. One that refuses a turn of text alone is asked with a picture.
PROBE = "Trainyard-9f2c"
QUOTED = f"{PROBE}\n\"'\\"  # which Python would write otherwise
QUESTIONS = ([{"type": "text", "text": "?"}], [{"type": "image"}, {"type": "text", "text": "?"}])


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerEnd:
    """What stands around an answer, behind the generation prompt."""

    stop: tuple[int, ...] = ()
    """Tokens that end an answer: that of its training, then the tokenizer's end of sequence. Without any, nothing does
    so."""
    before: str = ""
    """What the template puts in front of an answer, its markers left out, as in decoding."""
    behind: str = ""
    """What it puts between an answer and the token that ends it."""
    added: str = ""
    """The tokenizer's end of sequence, where the template has none and training puts it there."""

    def answer(self, processor: Any, tokens: Sequence[int]) -> str:
        """What `tokens`, generated behind a prompt, answer: to the letter what training would have them say."""
        end = next((place for place, token in enumerate(tokens) if token in self.stop), len(tokens))
        text = processor.tokenizer.decode(tokens[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return markers(processor).sub("", text).removeprefix(self.before).removesuffix(self.behind)


def answer_end(processor: Any) -> AnswerEnd:
    """How the processor's chat template ends answers. Raises what the template raises, or ValueError."""
    return _read_end(processor, str(getattr(processor, "chat_template", None)))


@lru_cache(maxsize=4)
def _read_end(processor: Any, _: str) -> AnswerEnd:
    tokenizer = processor.tokenizer
    before, answer, behind = _probe(processor).partition(PROBE)
    if not answer:  # rewritten
        before, behind = "", before
    found, before = markers(processor).search(behind), markers(processor).sub("", before)
    # A family may call the end of a turn nothing special.
    added = "" if found else tokenizer.eos_token or ""
    token = tokenizer.convert_tokens_to_ids(found[0] if found else added) if found or added else None
    stop = dict.fromkeys(one for one in (token, tokenizer.eos_token_id) if one is not None)
    ended = behind[: found.start()] if found else behind
    return AnswerEnd(stop=tuple(stop), before=before, behind=ended if answer else "", added=added)


def _probe(processor: Any) -> str:
    refused: Exception | None = None
    for content in QUESTIONS:
        try:
            return render_answer(processor, [{"role": "user", "content": content}], PROBE)[1]
        except ConfigError:
            raise
        except Exception as error:  # whatever a template raises
            refused = refused or error
    raise refused or ValueError


def render_answer(processor: Any, shown: Sequence[Mapping[str, Any]], answer: str) -> tuple[str, str]:
    """(text up to and including the generation prompt, what the model's own chat template makes of the answer).

    Raises ValueError when the template does not put the answer right behind the generation prompt, since training would
    then differ from inference.
    """
    model = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    with bounded():
        asked = [_as_taken(processor, turn) for turn in shown]
        prompt = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = processor.apply_chat_template([*asked, _as_taken(processor, model)], tokenize=False)
    if not whole.startswith(prompt):
        raise ValueError("the chat template does not place answers right behind its generation prompt")
    return prompt, whole[len(prompt) :]


def _as_taken(processor: Any, turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """A turn as the template takes it: as parts or, where it would print these as Python does or lose them, as text.

    Some templates do so with the system turn, those of language models with every turn.
    """
    parts = turn["content"]
    plain = all(part["type"] == "text" for part in parts)
    if not plain or turn["role"] not in _plain_roles(processor, str(getattr(processor, "chat_template", None))):
        return turn
    return {**turn, "content": "".join(part["text"] for part in parts)}


@lru_cache(maxsize=4)
def _plain_roles(processor: Any, _: str) -> frozenset[str]:
    """The roles whose text the template shows where it is a string, and not where it is parts."""

    def shows(role: str, content: Any) -> bool:
        turns = {"system": ("system", "user"), "user": ("user",), "assistant": ("user", "assistant")}[role]
        spoken = [{"role": one, "content": content if one == role else other} for one in turns]
        try:
            return QUOTED in processor.apply_chat_template(spoken, tokenize=False)
        except ConfigError:  # its time is over
            raise
        except Exception:  # whatever a template raises
            return False

    found = set()
    for role in ("user", "assistant", "system"):
        other = "?" if "user" in found else [{"type": "text", "text": "?"}]
        if not shows(role, [{"type": "text", "text": QUOTED}]) and shows(role, QUOTED):
            found.add(role)
    return frozenset(found)


def describe_end(processor: Any) -> str | None:
    """What a reader should know about a template that has no end of turn behind an answer, or refuses to say; None for
    others."""
    try:
        end = answer_end(processor)
    except ConfigError:
        raise
    except Exception as error:  # whatever the template raises
        return f"the chat template refuses a plain question with its answer: {' '.join(str(error).split())}"
    if end.added:
        return f"the chat template puts no end of turn behind an answer: {end.added} is learned there, and ends answers"
    if not end.stop:
        return "neither chat template nor tokenizer has an end for answers: the model will not learn to stop"
    return None


@lru_cache(maxsize=4)
def markers(processor: Any) -> re.Pattern[str]:
    """What stands for pictures, turns and ends: in a record's own text the tokenizer would make the same of it."""
    tokenizer = processor.tokenizer
    known = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    # Some processors have an AddedToken there.
    known |= {str(token) for token in (getattr(processor, "image_token", None), tokenizer.eos_token) if token}
    # The longest first: one may be the beginning of another.
    return re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))) or "(?!)")
