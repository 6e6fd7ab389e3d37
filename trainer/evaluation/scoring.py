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

from trainer.data.examples import append_text, encode_prompt, load_pictures, pad_and_stack, prompt_and_answer
from trainer.data.records import Record
from trainer.evaluation.generation import shares
from trainer.evaluation.metrics import read_action
from trainer.model.traits import next_positions
from trainer.outcome import ConfigError

AUTO = "auto"
MAX_ACTIONS = 64  # more are no choice among actions but free text
CANDIDATE_ROWS = 32  # sequences at once, as in generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The allowed actions as tokens behind a prompt."""

    actions: tuple[str, ...]
    shared: tuple[int, ...]
    """What every candidate begins with."""
    rest: tuple[tuple[int, ...], ...]
    """What follows it, by action; at least one token, and no one is the beginning of another."""


def find_choices(processor: Any, records: Sequence[Record], field: str | None, asked: str = AUTO) -> Choices | str:
    """The actions `asked` for (comma-separated; auto: those of `records`), spelled as `records` spell theirs.

    In words, why there are none: another key stands before the action, or there are too many.

    Raises:
        ConfigError: `asked` names fewer than two actions, one twice, or none that `records` have.
    """
    spelled = {}
    for record in records:
        action = read_action(record.answer, field)
        if action is not None:
            spelled.setdefault(action, []).append(record)
    actions = tuple(sorted(spelled, key=lambda action: (-len(spelled[action]), action)))
    if asked != AUTO:
        actions = tuple(word.strip() for word in asked.split(","))
        if len(set(actions)) < max(2, len(actions)) or not all(actions):
            raise ConfigError(f"actions takes auto, or two or more different actions: up,down; got {asked}")
        if not spelled.keys() & set(actions):
            known = ", ".join(sorted(spelled, key=lambda action: -len(spelled[action]))[:8])
            raise ConfigError(f"actions={asked}: no training answer has any of them; they have {known}")
    if not 2 <= len(actions) <= MAX_ACTIONS:
        return f"{len(actions)} different actions in the training answers, not 2 to {MAX_ACTIONS}"
    parts = [(record, _take_apart(record.answer.strip(), field)) for record in records]
    heads = Counter(part[0] for _, part in parts if part)
    if sum(heads.values()) * 2 < len(records):
        return f"{field!r} is not the first key of the answers, and depends on what is said before it"
    head = heads.most_common(1)[0][0]
    model = next(record for record, part in parts if part and part[0] == head)
    written = _take_apart(prompt_and_answer(processor, model)[1], field, model.answer.strip())
    assert written is not None
    values = {}
    for action, some in spelled.items():
        found = Counter(part[1] for r in some if (part := _take_apart(r.answer.strip(), field)))
        values[action] = found.most_common(1)[0][0] if found else json.dumps(action)
    plain = field is None
    candidates = [
        _tokens(processor.tokenizer, head, values.get(a, a if plain else json.dumps(a)), written[2]) for a in actions
    ]
    count = 0
    while len({candidate[: count + 1] for candidate in candidates}) == 1:
        count += 1
    return Choices(
        actions=actions, shared=candidates[0][:count], rest=tuple(candidate[count:] for candidate in candidates)
    )


def _take_apart(text: str, field: str | None, plain: str | None = None) -> tuple[str, str, str] | None:
    """(before the value, the value as written, behind it) of an answer; None unless `field` is its first key."""
    if field is None:
        value = text if plain is None else plain
        return "", value, text[len(value) :]
    start = re.match(r"\s*\{\s*" + re.escape(json.dumps(field)) + r"\s*:\s*", text)
    if start is None:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, start.end())
    except ValueError:
        return None
    return text[: start.end()], text[start.end() : end], text[end:]


def _tokens(tokenizer: Any, head: str, value: str, tail: str) -> tuple[int, ...]:
    """The tokens of the whole answer, up to the one that ends the value."""
    encoded = tokenizer(head + value + tail, add_special_tokens=False, return_offsets_mapping=True)
    # A quote ends a string; a number or plain text is ended by what comes next.
    end = len(head + value) + (not value.endswith('"'))
    starts = [start for start, _ in encoded["offset_mapping"]]
    return tuple(token for token, start in zip(encoded["input_ids"], starts, strict=True) if start < end)


@torch.inference_mode()
def score_actions(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    choices: Choices,
    *,
    accelerator: Any,
    rows: int = CANDIDATE_ROWS,
    between: Callable[[], object] = bool,
) -> list[list[float]]:
    """Log-probability (nats) of each of `choices` behind each record's prompt, on every process.

    The part that all share counts for nothing, being the same for all. Records of like length go together.
    `between` is called before each batch, as often on every process, and may raise.
    """
    from accelerate.utils import gather_object

    shared = torch.tensor([choices.shared], dtype=torch.long)
    was_training = model.training
    model.eval()
    found: list[tuple[int, list[float]]] = []
    order = sorted(range(len(records)), key=lambda i: (len(records[i].pictures), len(records[i].prompt)))
    batch_size = max(1, rows // len(choices.actions))
    try:
        for indices, kept in shares(order, accelerator, batch_size, between, "scoring"):
            examples = []
            for index in indices:
                text, _ = prompt_and_answer(processor, records[index])
                example = encode_prompt(processor, text, load_pictures(records[index]))
                append_text(example, shared)
                examples.append(example)
            batch = pad_and_stack(examples, pad_id=processor.tokenizer.pad_token_id, side="left", multiple_of=1)
            batch = {key: tensor.to(accelerator.device) for key, tensor in batch.items()}
            with accelerator.autocast():
                scores = _score_batch(model, batch, choices.rest).tolist()
            found += zip(indices, scores, strict=True) if kept else []
    finally:
        model.train(was_training)
    gathered = dict(gather_object(found))
    return [gathered[index] for index in range(len(records))]


def _score_batch(model: Any, batch: dict[str, Tensor], rest: Sequence[Sequence[int]]) -> Tensor:
    """(batch, candidates) log-probabilities of the token sequences `rest` behind left-padded prompts."""
    first = model(**batch, use_cache=True, logits_to_keep=1)
    device = batch["input_ids"].device
    scores = first.logits[:, -1].float().log_softmax(-1)[:, [tokens[0] for tokens in rest]]
    longer = [number for number, tokens in enumerate(rest) if len(tokens) > 1]
    if not longer:
        return scores
    # Padding comes last, where nothing that counts can see it.
    most = max(map(len, rest)) - 1
    padded = torch.tensor([[*rest[n], *[0] * (most + 1 - len(rest[n]))] for n in longer], device=device)
    lengths = torch.tensor([len(rest[n]) - 1 for n in longer], device=device)
    count = len(scores)
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(longer))
    inputs = padded[:, :-1].repeat(count, 1)
    seen = batch["attention_mask"].repeat_interleave(len(longer), dim=0)
    positions = next_positions(model, batch, most)
    if positions is not None:
        positions = positions.repeat_interleave(len(longer), dim=0)
    then = model(
        input_ids=inputs,
        position_ids=positions,
        attention_mask=torch.cat((seen, torch.ones_like(inputs)), dim=1),
        past_key_values=cache,
        use_cache=True,
    )
    for place in range(most):
        said = then.logits[:, place].float().log_softmax(-1)
        said = said.gather(1, padded[:, place + 1].repeat(count).unsqueeze(1)).view(count, len(longer))
        scores[:, longer] += said * (lengths > place)
    return scores
