"""How an answer ends: generation stops at the token that training teaches the model to write behind an answer.

That token is read from the chat template. A model's generation_config may name another end than its template writes,
and a model that learned the one never writes the other. If the template writes nothing behind an answer, training
adds the tokenizer's end of sequence, because the model would otherwise never stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trainer.data.template import bounded
from trainer.outcome import ConfigError
from trainer.text import shown as quoted

# A word that no template writes itself. A template that refuses a turn of text alone is asked with a picture.
PROBE = "Trainyard-9f2c"
QUOTED = f"{PROBE}\n\"'\\"  # repr() would write these characters differently
QUESTIONS = ([{"type": "text", "text": "?"}], [{"type": "image"}, {"type": "text", "text": "?"}])


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerEnd:
    """The text and tokens around an answer, behind the generation prompt."""

    stop: tuple[int, ...] = ()
    """Tokens that end an answer: the one that training puts behind answers, then the tokenizer's end of sequence.
    When empty, no token ends an answer."""
    before: str = ""
    """Text that the template puts in front of an answer, without its markers, which decoding leaves out too."""
    behind: str = ""
    """Text that the template puts between an answer and the token that ends the answer."""
    added: str = ""
    """The tokenizer's end of sequence, when training adds it because the template has no end."""

    def answer(self, processor: Any, tokens: Sequence[int]) -> str:
        """The answer in `tokens`, which were generated behind a prompt: exactly the text that training would have
        taught."""
        end = next((place for place, token in enumerate(tokens) if token in self.stop), len(tokens))
        text = processor.tokenizer.decode(tokens[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return markers(processor).sub("", text).removeprefix(self.before).removesuffix(self.behind)


def answer_end(processor: Any) -> AnswerEnd:
    """How the processor's chat template ends answers. Raises the template's own error, or ValueError."""
    return _read_end(processor, str(getattr(processor, "chat_template", None)))


@lru_cache(maxsize=4)
def _read_end(processor: Any, template: str) -> AnswerEnd:
    tokenizer = processor.tokenizer
    before, _, behind = _probe(processor).partition(PROBE)
    found, before = markers(processor).search(behind), markers(processor).sub("", before)
    # Some families do not mark the end of a turn as a special token.
    added = "" if found else tokenizer.eos_token or ""
    token = tokenizer.convert_tokens_to_ids(found[0] if found else added) if found or added else None
    stop = dict.fromkeys(one for one in (token, tokenizer.eos_token_id) if one is not None)
    ended = behind[: found.start()] if found else behind
    return AnswerEnd(stop=tuple(stop), before=before, behind=ended, added=added)


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
    """(text up to and including the generation prompt, the answer as the model's own chat template renders it).

    Raises ValueError when the template does not put the answer right behind the generation prompt, since training
    would then differ from inference, and when a text of the record is not in it word for word.
    """
    model = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    with bounded():
        asked = [_as_taken(processor, turn) for turn in shown]
        prompt = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = processor.apply_chat_template([*asked, _as_taken(processor, model)], tokenize=False)
    if not whole.startswith(prompt):
        raise ValueError("the chat template does not place answers right behind its generation prompt")
    ended = whole[len(prompt) :]
    # Earlier answers do not count: templates take the thoughts out of them.
    told = (part["text"] for turn in shown if turn["role"] != "assistant" for part in turn["content"] if "text" in part)
    if lost := _lost(told, prompt) or _lost([answer], ended):
        raise ValueError(f"the chat template leaves out, or writes otherwise, what the record says: {quoted(lost)}")
    return prompt, ended


def _lost(texts: Iterable[str], rendered: str) -> str:
    """The first of these texts that is not in `rendered`, whatever spaces the template trims; "" when all are."""
    lost = [text for text in texts if text not in rendered]
    squeezed = "".join(rendered.split()) if lost else ""
    return next((text for text in lost if "".join(text.split()) not in squeezed), "")


def _as_taken(processor: Any, turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """The turn in the form that the template accepts: as parts, or as text where the template would lose the parts or
    print them like a Python list.

    Some templates need text for the system turn, the templates of language models for every turn.
    """
    parts = turn["content"]
    plain = all(part["type"] == "text" for part in parts)
    if not plain or turn["role"] not in _plain_roles(processor, str(getattr(processor, "chat_template", None))):
        return turn
    return {**turn, "content": "".join(part["text"] for part in parts)}


@lru_cache(maxsize=4)
def _plain_roles(processor: Any, _: str) -> frozenset[str]:
    """The roles whose text the template shows when it is a string, but not when it is parts."""

    def shows(role: str, content: Any) -> bool:
        turns = {"system": ("system", "user"), "user": ("user",), "assistant": ("user", "assistant")}[role]
        spoken = [{"role": one, "content": content if one == role else other} for one in turns]
        try:
            return QUOTED in processor.apply_chat_template(spoken, tokenize=False)
        except ConfigError:  # the time limit of the template
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
    """A line about a template that has no end of turn behind an answer, or that refuses the question; None for
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
    """A pattern of the markers of pictures, turns and ends. The tokenizer would treat such a marker in a record's own
    text as a real one."""
    tokenizer = processor.tokenizer
    known = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    # The image_token of some processors is an AddedToken.
    known |= {str(token) for token in (getattr(processor, "image_token", None), tokenizer.eos_token) if token}
    # The longest first: one marker may be the beginning of another.
    return re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))) or "(?!)")
