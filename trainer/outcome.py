"""The ends of a job: four exit codes, the errors behind them, and the file that carries a code past torchrun.

torchrun turns any exit code of its workers into 1 and kills their peers. So a rank that knows how the attempt ended
writes that down first, in a node-local directory that the supervisor made for this attempt alone, and the supervisor,
not torchrun, decides the exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
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
"""Path of a file on the first node, in which its supervisor leaves the exit code for a waiting batch shell."""
SWEEP_ENV = "TRAINYARD_WANDB_SWEEP"
"""The W&B sweep from which a job takes its values: entity/project/id."""
LACKING = r"OutOfMemoryError|out of memory|[Cc]an(no|')t allocate|ALLOC_FAILED|failed to map"
"""What torch, CUDA's libraries and the system say when memory is lacking."""


class ConfigError(Exception):
    """A mistake in the request. Its text is one line, which only `__str__` makes from the fields; code reads the
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
        """The mistake as a sentence; empty when the other fields say everything."""
        self.name = name
        """The variable or setting with the mistake."""
        self.given = None if given is None else str(given)
        """Its value as it was given; the text then begins with name=given."""
        self.allowed = allowed
        """The allowed values."""
        self.advice = advice
        """The remedy."""
        self.source = source
        """The file with the mistake; the text then begins with its name."""
        self.origin = origin
        """The source of a value that nobody typed; the text then ends with it."""

    def __str__(self) -> str:
        value = f"{self.name}={plain_or_shown(self.given)}" if self.given is not None else ""
        text = ": ".join(filter(None, (self.source, value, self.problem)))
        if self.allowed:
            text += f"{' ' if text.endswith('?') else ': ' * bool(text)}{self.allowed}"
        if self.advice:
            text += f"{' ' if text.endswith('?') else ': ' if value and not self.allowed else '; '}{self.advice}"
        return f"{text} ({self.name} is from {self.origin})" if self.origin else text

    @property
    def words(self) -> str:
        """The whole text; it contains no name of a node."""
        return str(self)

    def but(self, **fields: str) -> ConfigError:
        """The same mistake, of the same class, with other `fields`."""
        made = type(self).__new__(type(self), *self.args)  # whatever the constructor of its class takes
        vars(made).update(vars(self) | fields)
        return made

    @classmethod
    def of(cls, errors: Sequence[ConfigError], *, source: str = "") -> ConfigError:
        """All of `errors` as one; errors with the same allowed values stand together at the end, and list these
        once."""
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


class UnreadableError(ConfigError):
    """A file that cannot be read for the moment, and that nothing shows to be damaged. In a job, another attempt or
    another node may read it."""

    @classmethod
    def made(cls, path: object, error: OSError) -> UnreadableError:
        return cls(f"{path} cannot be read ({error.strerror}): make it readable, then try again")


class Problems(list[ConfigError]):
    """All mistakes of one request, to be refused together."""

    @contextlib.contextmanager
    def kept(self, name: str = "") -> Iterator[None]:
        """Keep a ConfigError of this block for `refuse`, with `name` if it has none; the code behind the block still
        runs."""
        try:
            yield
        except ConfigError as error:
            self.append(error.but(name=error.name or name))

    def refuse(self, *, source: str = "") -> None:
        """Raises ConfigError with all kept errors, if there are any."""
        if self:
            raise ConfigError.of(self, source=source)


def unknown(word: str, known: Sequence[str], *, meant: str | None = None) -> ConfigError:
    """The error for a `word` that is not `known`; `meant` is the name to search for similar ones, if it differs from
    `word`."""
    near = nearest(word if meant is None else meant, known)
    return ConfigError(f"unknown {shown(word)}{near}", name=word, allowed=f"known are {', '.join(known)}")


class SchedulerError(Exception):
    """A scheduler's own message, on one line; exit code 1, since the message does not tell a mistake from an
    outage."""


class SickNode(Exception):
    """This node cannot do what other nodes might. The message is one line and begins with the node's hostname."""

    exit_code = FAILED

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words
        """The text without the node's name."""

    def __str__(self) -> str:
        return f"{node_name()}: {self.words}"


class RecordError(SickNode):
    """A record that the model cannot be given, although every record could be when the data was checked."""

    def __init__(self, message: str) -> None:
        # torch makes the error of a loader's process anew, from the text of its traceback, which ends with these
        # words.
        words = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(words.removeprefix(f"{node_name()}: "))


def node_name() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def node_rank(environ: Mapping[str, str]) -> int | None:
    """This node's place among the nodes of its job, from 0; None when no scheduler sets it."""
    rank = environ.get("SLURM_PROCID") or environ.get("JOB_COMPLETION_INDEX")
    return int(rank) if rank else None


def write_outcome(code: int, message: str = "") -> None:
    """Record how this attempt ended, for the supervisor of this node; does nothing without a supervisor. Only local
    rank 0 of each node writes."""
    directory = os.environ.get(ATTEMPT_DIR_ENV)
    if not directory or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    record = {"attempt": os.environ.get(ATTEMPT_ID_ENV, ""), "code": code, "message": message}
    write_whole(Path(directory, "outcome.json"), json.dumps(record))


def read_outcome(directory: Path, attempt_id: str) -> tuple[int, str] | None:
    """(exit code, message) that a rank left in `directory`; None when no rank of this attempt did."""
    try:
        record = read_json(directory / "outcome.json")
        code, message = int(record["code"]), str(record["message"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return (code, message) if record.get("attempt") == attempt_id else None


def panic_words(error: BaseException) -> str:
    """One line about a panic, which a file of the model or of the data causes each time."""
    return f"a library gave up on a file of the model or the data: {' '.join(str(error).split())}"


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust gave up, as tokenizers does on an expression that it would match for ever: an error
    that is no Exception."""
    return type(error).__name__ == "PanicException"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what caused it, one after the other; an error can be its own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException | None, lacking: str = LACKING) -> bool:
    """Whether an error, or one of its causes, means that memory was lacking: Python's, torch's, a CUDA library's."""
    return any(
        isinstance(found, MemoryError) or re.search(lacking, f"{type(found).__name__}: {found}")
        for found in causes(error)
    )


def lacking_words(error: BaseException) -> str:
    """One line about memory that was lacking outside of a job, with the remedy."""
    return (
        f"out of memory ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]}): it takes more memory than is "
        "free here; close what else runs, or say --device cpu to use this machine's own memory"
    )
