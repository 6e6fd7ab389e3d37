"""The held-out records of one run, and how good a model is on them: actions scored, answers written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config import TrainConfig
from trainer.data.endings import AnswerEnd
from trainer.data.records import Dataset, Record
from trainer.evaluation.generation import choose, generate_answers
from trainer.evaluation.metrics import ActionMetrics, action_metrics, answer_field, read_action
from trainer.evaluation.rows import Room
from trainer.evaluation.scoring import Choices, beyond, find_choices, score_actions
from trainer.text import shown

Said = dict[int, dict[str, Any]]  # by place in HeldOut.records: the `prediction`, and what it was read from


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What one model did. None where it was not asked."""

    scored: ActionMetrics | None = None
    """The likeliest allowed action of every record."""
    generated: ActionMetrics | None = None
    """Answers written out, on a part of the records."""
    predictions: Sequence[dict[str, Any]] = ()
    """One entry a record: truth, prediction, images; `probabilities` of the actions, `answer` if written."""

    @property
    def action(self) -> ActionMetrics | None:
        """The one that counts: of every record where actions can be scored, else of the answers."""
        return self.scored or self.generated

    @property
    def beside(self) -> ActionMetrics | None:
        """That of the answers, where actions were scored too."""
        return self.generated if self.scored else None


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    processor: Any
    records: tuple[Record, ...]
    answered: tuple[int, ...]
    """Places in `records` of those that answers are written out for."""
    field: str | None
    choices: Choices | None
    budget: int | None = None
    """The most tokens of an answer; None: as many as the true ones need."""
    room: Room = dataclasses.field(default_factory=Room)
    """What the memory has held so far: what did not fit once is not tried again."""
    end: AnswerEnd | None = None
    """What stops an answer; None: what the processor's template ends it with."""

    def score(self, model: Any, accelerator: Any, between: Callable[[], object]) -> Said:
        """The likeliest allowed action for every record; nothing where none can be scored. Collective; `between` is
        called before each batch."""
        if self.choices is None or not self.records:
            return {}
        found = score_actions(
            model, self.processor, self.records, self.choices, accelerator=accelerator, between=between, room=self.room
        )
        shares = [self.choices.probabilities(logprobs) for logprobs in found]
        return {i: {"prediction": max(p, key=p.__getitem__), "probabilities": p} for i, p in enumerate(shares)}

    def answer(self, model: Any, accelerator: Any, between: Callable[[], object]) -> Said:
        """What the answers say that are written out, greedily. Collective; `between` is called before each batch."""
        if not self.answered:
            return {}
        asked = [self.records[place] for place in self.answered]
        answers = generate_answers(
            model,
            self.processor,
            asked,
            accelerator=accelerator,
            budget=self.budget,
            end=self.end,
            between=between,
            room=self.room,
        )
        actions = [read_action(answer, self.field) for answer in answers]
        return {
            place: {"prediction": action, "generated": action, "answer": answer}
            for place, action, answer in zip(self.answered, actions, answers, strict=True)
        }

    def metrics(self, said: Said) -> ActionMetrics | None:
        """None where nothing was said."""
        truths, predictions = map(self.truth, said), [entry["prediction"] for entry in said.values()]
        # Whether answers are valid JSON is known of those that were written out alone.
        in_json = self.field is not None and all("answer" in entry for entry in said.values())
        return action_metrics(list(truths), predictions, in_json=in_json) if said else None

    def truth(self, place: int) -> str:
        return read_action(self.records[place].answer, self.field) or ""

    def measure(
        self, model: Any, accelerator: Any, between: Callable[[], object], scored: Said | None = None
    ) -> Scores:
        """Everything about one model; `scored` is what `score` found of it, where it did. Collective."""
        scored = self.score(model, accelerator, between) if scored is None else scored
        written = self.answer(model, accelerator, between)
        predictions = []
        for place, record in enumerate(self.records):
            said = written.get(place, {}) | scored.get(place, {})
            images = [str(path.absolute()) for path in record.images]
            predictions.append({"truth": self.truth(place), **said, "images": images})
        return Scores(scored=self.metrics(scored), generated=self.metrics(written), predictions=predictions)


def hold_out(processor: Any, dataset: Dataset, config: TrainConfig, say: Callable[..., object]) -> HeldOut:
    """What to measure on, and says so. Raises ConfigError for `actions` that are none."""
    field = answer_field([r.answer for r in dataset.train], config.answer_field)
    found = find_choices(processor, dataset.train, field, config.actions)
    choices = None if isinstance(found, str) else found
    places = choose(dataset.eval, config.score_samples if choices else config.eval_samples)
    records = tuple(dataset.eval[place] for place in places)
    if choices is None:
        say(f"actions are not scored, answers are only written out: {found}")
    elif records:
        say(f"actions ({field or 'the whole answer'}): {', '.join(dict.fromkeys(choices.actions))}")
        for line in beyond(choices, records, field):
            say(line)
    if dataset.eval and not config.eval_samples:
        say("eval_samples=0: nothing is evaluated on the way, so the last adapter is kept and nothing stops early")
    answered = tuple(choose(records, config.eval_samples))
    return HeldOut(processor=processor, records=records, answered=answered, field=field, choices=choices)


def describe(when: str, scores: Scores) -> str:
    """One line for the log."""
    result = scores.action
    if result is None:
        return f"{when}: nothing held out to score"
    text = (
        f"{when}: action accuracy {result.accuracy:.1%} on {result.samples} held-out records "
        f"(always {shown(result.majority)}: {result.majority_accuracy:.1%})"
    )
    if written := scores.generated:
        text += "" if written is result else f", written out {written.accuracy:.1%} of {written.samples}"
        text += "" if written.valid_json is None else f", valid JSON {written.valid_json:.1%}"
    return text
