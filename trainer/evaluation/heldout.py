"""The held-out records of one run, and how good a model is on them: actions scored, answers written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.data.records import Dataset, Record
from trainer.evaluation.generation import choose_records, generate_answers
from trainer.evaluation.metrics import ActionMetrics, action_metrics, answer_field, read_action
from trainer.evaluation.scoring import Choices, find_choices, score_actions


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What one model did. None where it was not asked."""

    step: int
    """Optimizer steps it had been trained for."""
    scored: ActionMetrics | None
    """The likeliest allowed action of every record."""
    generated: ActionMetrics | None
    """Answers written out, on a part of the records."""
    logprobs: list[list[float]]
    """By record, of each allowed action; empty when none were scored."""
    answers: list[str]
    """By record that was to be answered."""

    @property
    def action(self) -> ActionMetrics | None:
        """The one that counts: of every record where actions can be scored, else of the answers."""
        return self.scored or self.generated


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    processor: Any
    records: tuple[Record, ...]
    answered: tuple[int, ...]
    """Places in `records` of those that answers are written out for."""
    field: str | None
    choices: Choices | None

    def truths(self, places: Sequence[int]) -> list[str]:
        return [read_action(self.records[i].answer, self.field) or "" for i in places]

    def score(
        self, model: Any, accelerator: Any, between: Callable[[], object]
    ) -> tuple[list[list[float]], ActionMetrics | None]:
        """Score the allowed actions for all records. Collective; `between` is called before each batch."""
        if self.choices is None or not self.records:
            return [], None
        logprobs = score_actions(
            model, self.processor, self.records, self.choices, accelerator=accelerator, between=between
        )
        return logprobs, action_metrics(self.truths(range(len(self.records))), self.likeliest(logprobs))

    def answer(
        self, model: Any, accelerator: Any, between: Callable[[], object]
    ) -> tuple[list[str], ActionMetrics | None]:
        """Write the answers out, greedily. Collective; `between` is called before each batch."""
        if not self.answered:
            return [], None
        asked = [self.records[i] for i in self.answered]
        answers = generate_answers(model, self.processor, asked, accelerator=accelerator, between=between)
        return answers, action_metrics(self.truths(self.answered), [read_action(a, self.field) for a in answers])

    def likeliest(self, logprobs: Sequence[Sequence[float]]) -> list[str]:
        actions = self.choices.actions if self.choices else ()
        return [actions[max(range(len(actions)), key=row.__getitem__)] for row in logprobs]

    def predictions(self, scores: Scores) -> list[dict[str, Any]]:
        """One entry a record: truth, prediction, images; `probabilities` of the actions, `answer` if written."""
        written = dict(zip(self.answered, scores.answers, strict=True)) if scores.answers else {}
        chosen = self.likeliest(scores.logprobs)
        lines = []
        for place, truth in enumerate(self.truths(range(len(self.records)))):
            entry: dict[str, Any] = {"truth": truth}
            if place in written:
                said = read_action(written[place], self.field)
                entry |= {"prediction": said, "generated": said, "answer": written[place]}
            if self.choices and scores.logprobs:
                shares = torch.tensor(scores.logprobs[place]).softmax(-1).tolist()
                named = zip(self.choices.actions, shares, strict=True)
                entry |= {"prediction": chosen[place], "probabilities": {a: round(p, 6) for a, p in named}}
            lines.append(entry | {"images": [str(path.absolute()) for path in self.records[place].images]})
        return lines


def hold_out(processor: Any, dataset: Dataset, config: TrainConfig, say: Callable[..., object]) -> HeldOut:
    """What to measure on, said in one line. Raises ConfigError for `actions` that are none."""
    field = answer_field([r.answer for r in dataset.train], config.answer_field)
    records = choose_records(dataset.eval, config.score_samples)
    choices = find_choices(processor, dataset.train, field, config.actions)
    if isinstance(choices, str):
        say(f"actions are not scored, answers are only written out: {choices}", flush=True)
        records = choose_records(dataset.eval, config.eval_samples)
    elif records:
        say(f"actions ({field or 'the whole answer'}): {', '.join(choices.actions)}", flush=True)
    places = {id(record): place for place, record in enumerate(records)}
    answered = choose_records(records, config.eval_samples)
    return HeldOut(
        processor=processor,
        records=tuple(records),
        answered=tuple(places[id(record)] for record in answered),
        field=field,
        choices=None if isinstance(choices, str) else choices,
    )


def describe(when: str, scores: Scores) -> str:
    """One line for the log."""
    result = scores.action
    if result is None:
        return f"{when}: nothing held out to score"
    text = (
        f"{when}: action accuracy {result.accuracy:.1%} on {result.samples} held-out records "
        f"(always {result.majority!r}: {result.majority_accuracy:.1%})"
    )
    if written := scores.generated:
        same = "" if written is result else f"written out {written.accuracy:.1%} of {written.samples}, "
        text += f", {same}valid JSON {written.valid_json:.1%}"
    return text
