"""The probability of each allowed action: which action the model would choose, without generating a word.

An action's log-probability is that of the tokens that spell it in the answers' own format: `{"button": "up"`. Every
candidate ends with the token that ends its value in its own training answers (the closing quote with any characters
in the same token: `"}` or `",`). So no candidate is the beginning of another, and the sums of log-probabilities of
short and long actions can be compared. An action whose answers end in several ways has a candidate for each way,
whose probabilities add up. A mean per token would favour long names with predictable ends. Divided by their total,
the probabilities are the model's choice, given that it acts at all.

Pictures and prompt are computed once a record, together with the tokens that all candidates begin with; only the
tokens that differ run after that, on a copy of the keys and values for each candidate.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.data.answers import UNREADABLE, json_object, read_action
from trainer.data.examples import prompt_and_answer
from trainer.data.tensors import IGNORED, Layout, lengthened, tensor_layout
from trainer.data.turns import Record
from trainer.evaluation.batches import map_batches
from trainer.evaluation.rows import SCORED_POSITIONS, Room, candidates_at_once
from trainer.model.head import log_probabilities
from trainer.model.refusal import first_words, is_of_machine
from trainer.model.traits import next_positions
from trainer.outcome import ConfigError

AUTO = "auto"
COMPARED = 3  # candidates of one record that are scored both ways
SAME_SCORE = 0.05  # nats, or a share of the score where that is larger; the same sums in bf16 differ by less
MAX_ACTIONS = 64  # with more the answer is free text, not a choice among actions
REACH = 16  # characters behind a value that the token which ends it may include
RARE = 0.1  # ways of writing an action in a smaller share of its answers are no candidates
Tokens = tuple[int, ...]
FIRST_KEY = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*')


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The allowed actions as tokens behind a prompt."""

    actions: tuple[str, ...]
    """The action of each candidate. An action that training answers write in several ways has several candidates."""
    shared: Tokens
    """The tokens that every candidate begins with."""
    rest: tuple[Tokens, ...]
    """The tokens that follow `shared`, by candidate; at least one token, and no candidate is the beginning of
    another."""
    apart: bool = False
    """Whether each candidate runs behind its own prompt, because a copy of the keys and values does not work for this
    model."""

    def probabilities(self, logprobs: Sequence[float]) -> dict[str, float]:
        """The probability of each action, given that the answer is one of them. `logprobs` is the result of
        `score_actions` for one record."""
        shares = dict.fromkeys(self.actions, 0.0)
        for action, share in zip(self.actions, torch.tensor(logprobs).softmax(-1).tolist(), strict=True):
            shares[action] += share
        return {action: round(share, 6) for action, share in shares.items()}


def find_choices(processor: Any, records: Sequence[Record], field: str | None, asked: str = AUTO) -> Choices | str:
    """The actions `asked` for (comma-separated; auto: those of `records`), spelled as in `records`. If actions cannot
    be scored, the reason in words: another key comes before the action, or there are too many actions.

    Raises:
        ConfigError: `asked` names fewer than two actions, an action twice, or only actions that `records` lack.
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
    model = next(r for r, part in zip(records, parts, strict=True) if part)
    # The answer as in training, behind the prompt: the template adds an end of turn, and maybe something before.
    before, answer, behind = prompt_and_answer(processor, model)[1].partition(model.answer.strip())
    if not answer:
        return "the model's chat template rewrites the answers"

    def tokens_of(value: str, tail: str) -> Tokens:
        """The tokens up to the one that ends the value: with a JSON string's quote, else with the next characters."""
        text = before + head + value
        encoded = processor.tokenizer(text + tail + behind, add_special_tokens=False, return_offsets_mapping=True)
        end = len(text) + (field is None or not value.endswith('"'))
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return tuple(token for token, (start, _) in pairs if start < end)

    written = Counter((action or "", p[1], p[2][:REACH]) for action, p in zip(said, parts, strict=True) if p)
    ways = _ways(actions, written, tokens_of, as_json=field is not None)
    found = [(action, tokens) for action in actions for tokens in ways[action]]
    candidates = [tokens for _, tokens in found]
    if any(other[: len(one)] == one for one, other in itertools.pairwise(sorted(candidates))):
        return "one answer is the beginning of another"
    count = 0
    while len({candidate[: count + 1] for candidate in candidates}) == 1:
        count += 1
    rest = tuple(candidate[count:] for candidate in candidates)
    return Choices(actions=tuple(action for action, _ in found), shared=candidates[0][:count], rest=rest)


def _ways(
    actions: Sequence[str],
    written: Mapping[tuple[str, str, str], int],
    tokens_of: Callable[[str, str], Tokens],
    *,
    as_json: bool,
) -> dict[str, list[Tokens]]:
    """The token sequences of each of `actions` in its own answers, the most frequent first; an action without answers
    is written like the others. `written` counts (action, value, text behind it)."""
    ways: dict[str, Counter[Tokens]] = defaultdict(Counter)
    tails: dict[int, Counter[str]] = defaultdict(Counter)  # by the token that ends the value
    for (action, value, tail), count in written.items():
        tokens = tokens_of(value, tail)
        ways[action][tokens] += count
        tails[tokens[-1]][tail] += count
    tail = max(tails.values(), key=Counter.total).most_common(1)[0][0]
    values = "".join(value for _, value, _ in written)
    for action in set(actions) - set(ways):
        value = json.dumps(action, ensure_ascii="\\u" in values) if as_json and '"' in values else action
        ways[action][tokens_of(value, tail)] = 1
    return {a: [tokens for tokens, n in found.most_common() if n >= RARE * found.total()] for a, found in ways.items()}


def unscorable_actions(choices: Choices, records: Sequence[Record], field: str | None) -> list[str]:
    """A line about the held-out answers that can only be scored as wrong; an empty list when all can be right."""
    truths = [read_action(record.answer, field) for record in records]
    wrong = [UNREADABLE if truth is None else truth for truth in truths if truth not in choices.actions]
    names = shorten(", ".join(dict.fromkeys(wrong)), 80, placeholder=" ...")
    line = f"{len(wrong)} of {len(records)} held-out answers have actions that cannot be chosen: {names}"
    return [f"{line} (see answer_field and actions)"] if wrong else []


def _take_apart(text: str, field: str | None) -> tuple[str, str, str] | None:
    """(text before the value, the value as written, text behind it) of an answer; None unless `field` is its first
    key."""
    if field is None:
        return "", text, ""
    entry, start = json_object(text), FIRST_KEY.match(text)
    if not entry or not start or next(iter(entry)) != field:
        return None
    value, end = json.JSONDecoder().raw_decode(text, start.end())
    return (text[: start.end()], text[start.end() : end], text[end:]) if value == entry[field] else None


def score_actions(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    choices: Choices,
    *,
    accelerator: Any,
    between: Callable[[], object] = bool,
    room: Room | None = None,
) -> list[list[float]]:
    """Log-probability (nats) of each of `choices` behind each record's prompt. Collective, as `map_batches` is. The
    tokens that all candidates share are left out, since their log-probability is the same for all."""
    lengths = [len(tokens) for tokens in choices.rest]

    def score(batch: dict[str, Tensor], rows: int) -> list[list[float]]:
        if choices.apart:
            return _score_apart(model, batch, choices.rest, tensor_layout(processor)).tolist()
        return _score_batch(model, batch, choices.rest, candidates_at_once(rows, len(lengths))).tolist()

    return map_batches(
        score, model, processor, records, accelerator=accelerator, what="scoring", between=between,
        behind=choices.shared, candidates=lengths, room=room,
    )  # fmt: skip


def _score_batch(model: Any, batch: dict[str, Tensor], rest: Sequence[Tokens], at_once: int) -> Tensor:
    """(batch, candidates) log-probabilities of the token sequences `rest` behind left-padded prompts, at most
    `at_once` of them at a time behind each prompt."""
    first = model(**batch, use_cache=True, logits_to_keep=1)
    scores = first.logits[:, -1].float().log_softmax(-1)[:, [tokens[0] for tokens in rest]]
    cache = first.past_key_values
    del first
    longest = max(map(len, rest)) - 1
    if not longest:
        return scores
    positions = next_positions(model, batch, longest)
    for start in range(0, len(rest), at_once):
        part = rest[start : start + at_once]
        scores[:, start : start + len(part)] += _behind(model, batch, cache, positions, part)
    return scores


def _behind(
    model: Any, batch: dict[str, Tensor], cache: Any, positions: Tensor | None, rest: Sequence[Tokens]
) -> Tensor:
    """(batch, candidates) log-probabilities of all but the first token of each of `rest`, after the tokens in
    `cache`. `cache` is not changed. `positions` are those of the tokens behind the prompts; None when the model
    counts them itself."""
    # Every candidate behind every prompt. Padding comes last, where no token that counts attends to it.
    count, device = len(batch["input_ids"]), batch["input_ids"].device
    tokens = pad_sequence([torch.tensor(one) for one in rest], batch_first=True, padding_value=IGNORED)
    inputs, targets = (part.to(device).repeat(count, 1) for part in (tokens[:, :-1].clamp(min=0), tokens[:, 1:]))
    scores = torch.zeros(targets.shape, device=device)
    if not inputs.shape[1]:
        return scores.sum(1).view(count, -1)
    rows = torch.arange(count, device=device).repeat_interleave(len(rest))
    counted = targets != IGNORED
    # The logits of whole sequences would be the largest tensor, and hardly any of them counts.
    scores[counted] = log_probabilities(
        model.get_base_model() if hasattr(model, "get_base_model") else model,
        counted.flatten().nonzero().squeeze(1),
        targets[counted],
        SCORED_POSITIONS,
        input_ids=inputs,
        position_ids=None if positions is None else positions[rows, : inputs.shape[1]],
        attention_mask=torch.cat((batch["attention_mask"][rows], torch.ones_like(inputs)), dim=1),
        past_key_values=cache_rows(cache, rows),
        use_cache=True,
    )
    return scores.sum(1).view(count, -1)


def _score_apart(model: Any, batch: dict[str, Tensor], rest: Sequence[Tokens], layout: Layout) -> Tensor:
    """The same result as `_score_batch` without its assumptions: every candidate behind its prompt, one at a time, in
    one pass."""
    length, found = batch["input_ids"].shape[1], []
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for tokens in rest:
        ids = batch["input_ids"].new_tensor(tokens).expand(len(batch["input_ids"]), -1)
        whole = lengthened(batch, ids, layout)
        places = torch.arange(len(ids), device=ids.device)[:, None] * (length + len(tokens)) + length - 1
        places = (places + torch.arange(len(tokens), device=ids.device)).flatten()
        scores = log_probabilities(base, places, ids.flatten(), SCORED_POSITIONS, use_cache=False, **whole)
        found.append(scores.view(ids.shape).sum(1))
    return torch.stack(found, dim=1)


def agree(model: Any, batch: dict[str, Tensor], rest: Sequence[Tokens], layout: Layout) -> str:
    """Why the first of the candidates `rest` cannot be scored on copies of the keys and values of their prompts; ""
    when the scores are those of whole sequences."""
    few = rest[:COMPARED]
    try:
        fast, plain = _score_batch(model, batch, few, len(few)), _score_apart(model, batch, few, layout)
    except Exception as error:
        if is_of_machine(error):
            raise
        return first_words(error)
    off = (fast - plain).abs().max().item()
    return f"off by {off:.3f} nats" if off > SAME_SCORE * max(1.0, plain.abs().max().item()) else ""


def cache_rows(cache: Any, rows: Tensor) -> Any:
    """A new cache with these rows of `cache`, in this order."""
    copied = copy(cache)
    copied.layers = [copy(layer) for layer in cache.layers]
    for layer in copied.layers:  # linear attention keeps its states in lists
        vars(layer).update({name: copy(kept) for name, kept in vars(layer).items() if isinstance(kept, (dict, list))})
    copied.reorder_cache(rows)  # every kind of layer has this method, and makes new tensors
    return copied
