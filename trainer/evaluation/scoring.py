"""The probability of each allowed action: which one the model would choose, without a word being generated.

An action's log-probability is that of the tokens that say it, in the answers' own format: `{"button": "up"`.
Each candidate ends with what ends its value (the closing quote), so none is the beginning of another, and their
sums are probabilities of different answers: comparable whatever their lengths. A mean per token would favour
long names with predictable ends. Divided by their total they are the model's choice, given that it acts at all.

Pictures and prompt are computed once a record, with the tokens that all candidates begin with; only what differs
runs after that, on a copy of the keys and values for each candidate.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from trainer.data.examples import IGNORED, prompt_and_answer
from trainer.data.records import Record
from trainer.evaluation.generation import ROWS, ask
from trainer.evaluation.metrics import read_action
from trainer.model.traits import next_positions
from trainer.outcome import ConfigError

AUTO = "auto"
MAX_ACTIONS = 64  # more are no choice among actions but free text


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The allowed actions as tokens behind a prompt."""

    actions: tuple[str, ...]
    shared: tuple[int, ...]
    """What every candidate begins with."""
    rest: tuple[tuple[int, ...], ...]
    """What follows it, by action; at least one token, and no one is the beginning of another."""

    def probabilities(self, logprobs: Sequence[float]) -> dict[str, float]:
        """Of each action, given that it is one of them: from what `score_actions` finds of one record."""
        shares = torch.tensor(logprobs).softmax(-1).tolist()
        return {action: round(share, 6) for action, share in zip(self.actions, shares, strict=True)}


def find_choices(processor: Any, records: Sequence[Record], field: str | None, asked: str = AUTO) -> Choices | str:
    """The actions `asked` for (comma-separated; auto: those of `records`), spelled as `records` spell theirs.

    In words, why there are none: another key stands before the action, or there are too many.

    Raises:
        ConfigError: `asked` names fewer than two actions, one twice, or none that `records` have.
    """
    said = [read_action(record.answer, field) for record in records]
    counts = Counter(action for action in said if action is not None)
    known = sorted(counts, key=lambda action: (-counts[action], action))
    actions = known
    if asked != AUTO:
        actions = [word.strip() for word in asked.split(",")]
        if len(set(actions)) < max(2, len(actions)) or not all(actions):
            raise ConfigError(f"actions takes auto, or two or more different actions: up,down; got {asked}")
        if not set(known) & set(actions):
            raise ConfigError(f"actions={asked}: no training answer has any of them; they have {', '.join(known[:8])}")
    if not 2 <= len(actions) <= MAX_ACTIONS:
        return f"{len(actions)} different actions in the training answers, not 2 to {MAX_ACTIONS}"
    parts = [_take_apart(record.answer.strip(), field) for record in records]
    heads = Counter(part[0] for part in parts if part)
    if heads.total() * 2 < len(records):
        return f"{field!r} is not the first key of the answers, and depends on what is said before it"
    head = heads.most_common(1)[0][0]
    # The most frequent spelling of each action comes last, and stays.
    spelled = Counter((action, part[1]) for action, part in zip(said, parts, strict=True) if part)
    values = dict(pair for pair, _ in reversed(spelled.most_common()))
    model, value = next((r, part[1]) for r, part in zip(records, parts, strict=True) if part and part[0] == head)
    # As training has it, behind the prompt: the template adds an end of turn, and maybe something before.
    before, answer, behind = prompt_and_answer(processor, model)[1].partition(model.answer.strip())
    if not answer:
        return "the model's chat template rewrites the answers"
    tail = answer[len(head + value) :] + behind
    candidates = []
    for action in actions:
        value = values.get(action, action if field is None else json.dumps(action))
        candidates.append(_tokens(processor.tokenizer, before + head + value, tail))
    count = 0
    while len({candidate[: count + 1] for candidate in candidates}) == 1:
        count += 1
    rest = tuple(candidate[count:] for candidate in candidates)
    return Choices(actions=tuple(actions), shared=candidates[0][:count], rest=rest)


def _take_apart(text: str, field: str | None) -> tuple[str, str] | None:
    """(before the value, the value as written) of an answer; None unless `field` is its first key."""
    if field is None:
        return "", text
    start = re.match(r"\s*\{\s*" + re.escape(json.dumps(field)) + r"\s*:\s*", text)
    if start is None:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, start.end())
    except ValueError:
        return None
    return text[: start.end()], text[start.end() : end]


def _tokens(tokenizer: Any, said: str, tail: str) -> tuple[int, ...]:
    """The tokens of the whole answer, up to the one that ends the value."""
    encoded = tokenizer(said + tail, add_special_tokens=False, return_offsets_mapping=True)
    # A quote ends a string; a number or plain text is ended by what comes next.
    end = len(said) + (not said.endswith('"'))
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return tuple(token for token, (start, _) in pairs if start < end)


def score_actions(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    choices: Choices,
    *,
    accelerator: Any,
    between: Callable[[], object] = bool,
) -> list[list[float]]:
    """Log-probability (nats) of each of `choices` behind each record's prompt. Collective, as `ask` is.

    The part that all share counts for nothing, being the same for all.
    """

    def score(batch: dict[str, Tensor]) -> list[list[float]]:
        return _score_batch(model, batch, choices.rest).tolist()

    return ask(
        score, model, processor, records, accelerator=accelerator, what="scoring", between=between,
        behind=choices.shared, batch_size=max(1, ROWS // len(choices.actions)),
    )  # fmt: skip


def _score_batch(model: Any, batch: dict[str, Tensor], rest: Sequence[Sequence[int]]) -> Tensor:
    """(batch, candidates) log-probabilities of the token sequences `rest` behind left-padded prompts."""
    first = model(**batch, use_cache=True, logits_to_keep=1)
    scores = first.logits[:, -1].float().log_softmax(-1)[:, [tokens[0] for tokens in rest]]
    most = max(map(len, rest)) - 1
    if not most:
        return scores
    # Every candidate behind every prompt. Padding comes last, where nothing that counts can see it.
    tokens = pad_sequence([torch.tensor(one) for one in rest], batch_first=True, padding_value=IGNORED)
    tokens = tokens.to(scores.device).repeat(len(scores), 1)
    inputs = tokens[:, :-1].clamp(min=0)
    seen = batch["attention_mask"].repeat_interleave(len(rest), dim=0)
    positions = next_positions(model, batch, most)
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(rest))
    then = model(
        input_ids=inputs,
        position_ids=None if positions is None else positions.repeat_interleave(len(rest), dim=0),
        attention_mask=torch.cat((seen, torch.ones_like(inputs)), dim=1),
        past_key_values=cache,
        use_cache=True,
    )
    for place in range(most):
        lost = cross_entropy(
            then.logits[:, place].float(), tokens[:, place + 1], ignore_index=IGNORED, reduction="none"
        )
        scores -= lost.view_as(scores)
    return scores
