"""The held-out records of one run, and the measurements of a model on them: actions scored, answers written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.data.answers import answer_field, json_object, read_action
from trainer.data.endings import AnswerEnd
from trainer.data.examples import encode
from trainer.data.records import Dataset, each_answer
from trainer.data.tensors import pad_and_stack, tensor_layout
from trainer.data.turns import Record
from trainer.evaluation.generation import generate_answers, sample_places
from trainer.evaluation.metrics import FEW_ANSWERS, ActionMetrics, action_metrics, interval
from trainer.evaluation.rows import Room
from trainer.evaluation.scoring import Choices, agree, find_choices, score_actions, unscorable_actions
from trainer.model.behaviour import asked
from trainer.text import shown

PROMPT_CHARS = 4000  # of a prompt, kept for the report; the data has the whole prompts
# by place in HeldOut.records: the `prediction`, with the probabilities or the answer that it was read from
Said = dict[int, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The scores of one model; None for a measurement that was not made."""

    scored: ActionMetrics | None = None
    """Metrics of the likeliest allowed action for every answer."""
    generated: ActionMetrics | None = None
    """Metrics of the answers that were written out, which are a part of all."""
    predictions: Sequence[dict[str, Any]] = ()
    """One entry for each held-out answer: truth, prediction, the prompt's text, images, and last_picture, the last of
    these; `probabilities` of the actions when scored, `answer` when written out."""
    records: int = 0
    """Number of held-out records that the answers belong to."""

    @property
    def action(self) -> ActionMetrics | None:
        """The metrics that count: of every answer where actions can be scored, else of the written answers."""
        return self.scored or self.generated

    @property
    def beside(self) -> ActionMetrics | None:
        """The metrics of the written answers, when actions were scored too."""
        return self.generated if self.scored else None


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    processor: Any
    records: tuple[Record, ...]
    """One record for each answer that is measured, behind the true turns before it."""
    answered: tuple[int, ...]
    """Places in `records` of those whose answers are written out."""
    field: str | None
    choices: Choices | None
    budget: int | None = None
    """The most tokens of an answer; None: as many as the true answers need."""
    room: Room = dataclasses.field(default_factory=Room)
    """The batch sizes that have fitted into memory so far: a size that did not fit is not tried again."""
    end: AnswerEnd | None = None
    """The texts that stop an answer; None: those with which the processor's template ends an answer."""
    held_out: int = 0
    """Number of held-out records whose answers are in `records`."""

    def score(self, model: Any, accelerator: Any, between: Callable[[], object]) -> Said:
        """The likeliest allowed action for every record; empty when actions cannot be scored. Collective; `between`
        is called before each batch."""
        if self.choices is None or not self.records:
            return {}
        found = score_actions(
            model, self.processor, self.records, self.choices, accelerator=accelerator, between=between, room=self.room
        )
        shares = [self.choices.probabilities(logprobs) for logprobs in found]
        return {i: {"prediction": max(p, key=p.__getitem__), "probabilities": p} for i, p in enumerate(shares)}

    def answer(self, model: Any, accelerator: Any, between: Callable[[], object]) -> Said:
        """The greedy answers to the records in `answered`. Collective; `between` is called before each batch."""
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
        """The metrics of these predictions; None when there are none."""
        truths, predictions = map(self.truth, said), [entry["prediction"] for entry in said.values()]
        # Only answers that were written out can be checked for valid JSON.
        in_json = self.field is not None and all("answer" in entry for entry in said.values())
        return action_metrics(list(truths), predictions, in_json=in_json) if said else None

    def truth(self, place: int) -> str:
        return read_action(self.records[place].answer, self.field) or ""

    def measure(
        self, model: Any, accelerator: Any, between: Callable[[], object], scored: Said | None = None
    ) -> Scores:
        """All measurements of one model; `scored` is the result of `score`, if it is known already. Collective."""
        scored = self.score(model, accelerator, between) if scored is None else scored
        written = self.answer(model, accelerator, between)
        predictions = []
        for place, record in enumerate(self.records):
            said = written.get(place, {}) | scored.get(place, {})
            images = [str(path.absolute()) for path in record.images]
            last = [str(Path(path).absolute()) for picture in record.pictures[-1:] for path in picture.paths]
            asked = {"prompt": record.prompt[:PROMPT_CHARS], "images": images, "last_picture": last}
            predictions.append({"truth": self.truth(place), **said, **asked})
        return Scores(
            scored=self.metrics(scored), generated=self.metrics(written), predictions=predictions, records=self.held_out
        )


def build_heldout(processor: Any, dataset: Dataset, config: TrainConfig, say: Callable[..., object]) -> HeldOut:
    """The records to measure on, with a log of the choice. Raises ConfigError for `actions` that no answer has."""
    taught = each_answer(dataset.train)
    field = answer_field([record.answer for record in taught], config.answer_field)
    asked = [(number, one) for number, record in enumerate(dataset.eval) for one in _to_ask(record, field)]
    if talk := sum(len(record.answers) for record in dataset.eval) - len(asked):
        say(f"{talk} held-out answers on the way are no JSON objects: they are not scored, their loss counts")
    found = find_choices(processor, taught, field, config.actions)
    choices = None if isinstance(found, str) else found
    places = sample_places([one for _, one in asked], config.score_samples if choices else config.eval_samples)
    records = tuple(asked[place][1] for place in places)
    held_out = len({asked[place][0] for place in places})
    if held_out < len(records):
        say(f"held out to score: {len(records)} answers of {held_out} records")
    if 0 < len(records) < FEW_ANSWERS:
        known = f"50% right may be anything from {interval(0.5, len(records))}"
        say(f"held out to score: {len(records)} are few: {known}; hold out more (eval_fraction)")
    if choices is None:
        say(f"actions are not scored, answers are only written out: {found}")
    elif records:
        say(f"actions ({field or 'the whole answer'}): {', '.join(dict.fromkeys(choices.actions))}")
        for line in unscorable_actions(choices, records, field):
            say(line)
    if dataset.eval and not config.eval_samples:
        say("eval_samples=0: nothing is evaluated on the way, so the last adapter is kept and nothing stops early")
    answered = tuple(sample_places(records, config.eval_samples))
    return HeldOut(
        processor=processor, records=records, answered=answered, field=field, choices=choices, held_out=held_out
    )


def settle_scoring(held_out: HeldOut, model: Any, say: Callable[..., object]) -> HeldOut:
    """`held_out`, unless candidates cannot share what the model keeps of a prompt: then, after a log line, a copy in
    which each candidate runs behind its own prompt."""
    if not held_out.choices or not held_out.records:
        return held_out
    choices, processor = held_out.choices, held_out.processor
    example = encode(processor, held_out.records[0], behind=choices.shared)
    layout = tensor_layout(processor)
    batch = pad_and_stack([example], pad_id=processor.tokenizer.pad_token_id, side="left", layout=layout)
    with torch.inference_mode(), asked(model):
        why = agree(model, {name: tensor.to(model.device) for name, tensor in batch.items()}, choices.rest, layout)
    if not why:
        return held_out
    say(f"actions are scored behind a prompt each, which takes longer: what the model keeps of one does not do ({why})")
    return dataclasses.replace(held_out, choices=dataclasses.replace(choices, apart=True))


def _to_ask(record: Record, field: str | None) -> list[Record]:
    """One record for each answer that can hold an action, and always for the last one; answers before it may be
    talk."""
    *earlier, last = each_answer([record])
    return [*(one for one in earlier if field is None or json_object(one.answer) is not None), last]


def describe(when: str, scores: Scores) -> str:
    """One line about these scores for the log."""
    result = scores.action
    if result is None:
        return f"{when}: nothing held out to score"
    answers = "answers" if scores.records < len(scores.predictions) else "records"
    text = (
        f"{when}: action accuracy {result.accuracy:.1%} on {result.samples} held-out {answers} "
        f"(always {shown(result.majority)}: {result.majority_accuracy:.1%})"
    )
    if written := scores.generated:
        text += "" if written is result else f", written out {written.accuracy:.1%} of {written.samples}"
        text += "" if written.valid_json is None else f", valid JSON {written.valid_json:.1%}"
    return text
