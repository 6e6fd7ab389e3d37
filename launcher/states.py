"""The words for how a job stands and how it ended, the four exit codes, and what a person does next.

Schedulers share these words, and Slurm has a few more. The last line of `status` comes from this table, and so do the
tables of docs/exit-codes.md (`make golden`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, RUN_AGAIN

EVERY = ("slurm", "k8s", "local")
CLUSTERS = ("slurm", "k8s")
# In the texts below {words} are what make needs to find the run, {again} is the command that goes on with it, {begin}
# the one that starts another.
FOLLOW = "make logs {words} (follows it; make cancel {words} ends it)"
READ = "make logs {words} (what happened), then {again}"
CHANGE = "make logs {words} (the request is wrong: it says how), then {begin} with another"
GO_ON = "{again} (goes on from its newest checkpoint)"
MORE_MEMORY = "{again} MEM=... (more GiB a node than it had)"
LOOK = "open the report"


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A state of a job."""

    word: str
    means: str
    next: str
    """The command to type next, with {words} and {again} in it."""
    ended: bool = True
    said_by: tuple[str, ...] = CLUSTERS


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitCode:
    """An exit code of the supervisor, and what the scheduler then does with the job."""

    code: int
    means: str
    next: str
    slurm: str
    k8s: str
    local: str


EXIT_CODES = (
    ExitCode(
        code=FINISHED,
        means="finished",
        next="look at the report",
        slurm="the job ends",
        k8s="the Job is complete",
        local="the run ends",
    ),
    ExitCode(
        code=RUN_AGAIN,
        means="stopped, with a checkpoint where a step was made",
        next="run it again",
        slurm="the batch script requeues it, unless it was cancelled",
        k8s="the pod is replaced; not counted as a failure",
        local="`make resume` goes on",
    ),
    ExitCode(
        code=BAD_CONFIG,
        means="the request is wrong",
        next="change what the message names",
        slurm="the job ends, never requeued",
        k8s="the Job fails at once",
        local="the run ends",
    ),
    ExitCode(
        code=FAILED,
        means="anything else: a crash, a sick node, no memory left",
        next="read the log",
        slurm="the job ends",
        k8s="the pod is replaced, three times for each node",
        local="the run ends",
    ),
)

STATES = (
    State(word="PENDING", ended=False, means="waits for its turn, for room, or for its next attempt", next=FOLLOW),
    State(word="RUNNING", ended=False, means="trains, or starts to", next=FOLLOW, said_by=EVERY),
    State(word="SUSPENDED", ended=False, means="somebody has stopped it for a while", next=FOLLOW),
    State(word="COMPLETING", ended=False, means="its processes end, and save before that", next=FOLLOW),
    State(word="COMPLETED", means="finished", next=LOOK, said_by=EVERY),
    State(word="FAILED", means="ended with 1 or 78: its exit code is said beside it", next=READ, said_by=EVERY),
    State(word="CANCELLED", means="somebody ended it", next=GO_ON),
    State(word="STOPPED", means="ended with 75 and was not started again", next=GO_ON, said_by=("local",)),
    State(word="TIMEOUT", means="its time was over before it could save", next=GO_ON, said_by=("slurm",)),
    State(word="DEADLINE", means="the cluster's deadline for it has passed", next=GO_ON),
    State(word="PREEMPTED", means="another job took its place, and it is not put back", next=GO_ON, said_by=("slurm",)),
    State(word="NODE_FAIL", means="its node was lost", next=GO_ON),
    State(word="BOOT_FAIL", means="its node did not start", next=GO_ON, said_by=("slurm",)),
    State(word="OUT_OF_MEMORY", means="killed for using more memory of the node than `MEM`", next=MORE_MEMORY),
    State(word="REVOKED", means="another cluster of the federation has it", next=READ, said_by=("slurm",)),
    State(
        word="GONE",
        means="the scheduler does not know it any more, and nobody saw how it ended",
        next=READ,
        said_by=EVERY,
    ),
    State(
        word="UNKNOWN",
        ended=False,
        means="the scheduler does not answer",
        next="make status {words} again; if no job of it is there, {again}",
        said_by=EVERY,
    ),
)
BY_WORD = {state.word: state for state in STATES}


def next_step(word: str, exit_code: int, *, ended: bool, words: str, again: str) -> str:
    """The command to type for a job in that state, whose run is not finished."""
    state = BY_WORD.get(word)
    told = READ if ended else FOLLOW  # of a word that only one scheduler has, such as Slurm's CONFIGURING
    if exit_code == BAD_CONFIG:
        told = CHANGE
    # Slurm's STOPPED is a job that somebody halted, and local's is a run that has ended.
    elif state and state.ended == ended and state.next != LOOK:
        told = state.next
    return told.format(words=words, again=again, begin=begin(words.split()))


def begin(words: Iterable[str]) -> str:
    """The command that starts a run where `words` find one."""
    scheduler = [word for word in words if word.startswith("TO=")]
    return "make run" if scheduler == ["TO=local"] else " ".join(["make submit", *scheduler])
