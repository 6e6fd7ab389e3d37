"""How a job ends: four exit codes, the error behind the third, and the file that carries one past torchrun.

torchrun turns whatever its workers exit with into 1 and kills their peers. So a rank that knows how the
attempt ended writes it down first, in a node-local directory that the supervisor made for this attempt
alone, and the supervisor, not torchrun, decides the exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trainer.files import read_json, write_whole
from trainer.text import nearest, plain_or_shown, shown

FINISHED = 0
FAILED = 1
RUN_AGAIN = 75  # EX_TEMPFAIL: checkpointed, start me again
BAD_CONFIG = 78  # EX_CONFIG: never run this again

ATTEMPT_DIR_ENV = "TRAINYARD_ATTEMPT_DIR"
ATTEMPT_ID_ENV = "TRAINYARD_ATTEMPT_ID"
STATUS_FILE_ENV = "TRAINYARD_STATUS_FILE"
"""A file on the first node in which that node's supervisor leaves its exit code, for a batch shell that waits."""
SWEEP_ENV = "TRAINYARD_WANDB_SWEEP"
"""The W&B sweep that a job is to take its values from: entity/project/id."""


class ConfigError(Exception):
    """A mistake in what was asked for. Its text is one line, made of these fields by `__str__` alone; code reads the
    fields, never the text."""

    exit_code = BAD_CONFIG

    def __init__(
        self,
        problem: str = "",
        *,
        name: str = "",
        given: object = None,
        allowed: str = "",
        advice: str = "",
        source: str = "",
        origin: str = "",
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        """What is wrong, as a sentence; empty where the other fields say it all."""
        self.name = name
        """The variable or setting that it is about."""
        self.given = None if given is None else str(given)
        """Its value as it was given; the text then begins with name=given."""
        self.allowed = allowed
        """What it takes."""
        self.advice = advice
        """What to do."""
        self.source = source
        """The file that is wrong; the text then begins with that."""
        self.origin = origin
        """Where the value comes from, which nobody typed; the text then ends with that."""

    def __str__(self) -> str:
        value = f"{self.name}={plain_or_shown(self.given)}" if self.given is not None else ""
        text = ": ".join(filter(None, (self.source, value, self.problem)))
        if self.allowed:
            text += f"{' ' if text.endswith('?') else ': ' * bool(text)}{self.allowed}"
        if self.advice:
            text += f"{': ' if value and not self.allowed else '; '}{self.advice}"
        return f"{text} ({self.name} is from {self.origin})" if self.origin else text

    @property
    def words(self) -> str:
        """The whole text; a node's name is no part of it."""
        return str(self)

    def but(self, **fields: str) -> ConfigError:
        """The same mistake, with other `fields`."""
        return type(self)(**{**vars(self), **fields})

    @classmethod
    def of(cls, errors: Sequence[ConfigError], *, source: str = "") -> ConfigError:
        """All of `errors` as one; those that take the same stand together at the end, and it is said once."""
        if len(errors) == 1:
            return errors[0].but(source=source or errors[0].source)
        alike: dict[str, list[ConfigError]] = {}
        for error in errors:
            alike.setdefault(error.allowed, []).append(error)
        alone = [str(error) for error in errors if not error.allowed or len(alike[error.allowed]) == 1]
        together = [
            str(cls("; ".join(str(error.but(allowed="")) for error in some), allowed=allowed))
            for allowed, some in alike.items()
            if allowed and len(some) > 1
        ]
        return cls("; ".join([*alone, *together]), source=source)


class Problems(list[ConfigError]):
    """All that is wrong with one request, to be refused at once."""

    @contextlib.contextmanager
    def kept(self, name: str = "") -> Iterator[None]:
        """A ConfigError of this block is kept for `refuse`, about `name` where it says no other; what follows the block
        still runs."""
        try:
            yield
        except ConfigError as error:
            self.append(error.but(name=error.name or name))

    def refuse(self, *, source: str = "") -> None:
        """Raises ConfigError with all that was kept, if anything was."""
        if self:
            raise ConfigError.of(self, source=source)


def unknown(word: str, known: Sequence[str], *, meant: str | None = None) -> ConfigError:
    """For a `word`, by which `meant` is meant if something else, that is not among the `known`."""
    near = nearest(word if meant is None else meant, known)
    return ConfigError(f"unknown {shown(word)}{near}", name=word, allowed=f"known are {', '.join(known)}")


class SchedulerError(Exception):
    """A scheduler's own words, on one line; exit code 1, since they do not tell a mistake from an outage."""


class SickNode(Exception):
    """This node cannot do what others might. The message is one line and begins with its hostname."""

    exit_code = FAILED

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words
        """The text without the node's name."""

    def __str__(self) -> str:
        return f"{node_name()}: {self.words}"


class RecordError(SickNode):
    """A record cannot be put before the model, here and now: all of them could when the data was looked at."""

    def __init__(self, message: str) -> None:
        # torch makes an error of a loader's process anew, from the text of its traceback, which ends in these words.
        words = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(words.removeprefix(f"{node_name()}: "))


def node_name() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def node_rank(environ: Mapping[str, str]) -> int | None:
    """This node's place among those of its job, from 0; None where no scheduler says it."""
    rank = environ.get("SLURM_PROCID") or environ.get("JOB_COMPLETION_INDEX")
    return int(rank) if rank else None


def write_outcome(code: int, message: str = "") -> None:
    """Record how this attempt ended, for the supervisor of this node; does nothing without a supervisor.

    Only local rank 0 of each node writes.
    """
    directory = os.environ.get(ATTEMPT_DIR_ENV)
    if not directory or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    record = {"attempt": os.environ.get(ATTEMPT_ID_ENV, ""), "code": code, "message": message}
    write_whole(Path(directory, "outcome.json"), json.dumps(record))


def read_outcome(directory: Path, attempt_id: str) -> tuple[int, str] | None:
    """(exit code, message) that a rank left in `directory`, or None when none of this attempt's did."""
    try:
        record = read_json(directory / "outcome.json")
        code, message = int(record["code"]), str(record["message"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return (code, message) if record.get("attempt") == attempt_id else None
