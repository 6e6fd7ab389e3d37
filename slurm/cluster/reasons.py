"""Slurm's reasons why a job waits, in plain words, and the command to type when waiting does not help. squeue's
reasons are one word, sometimes with details: `ReqNodeNotAvail, UnavailableNodes:n2`."""

from __future__ import annotations

import re
from typing import NamedTuple

from slurm.cluster.job_id import command

# In a command {words} are the words by which make finds the run, {again} is the command that continues it, {release}
# is the command that lets a held job start.
_ELSE = "make cancel {{words}}, then {{again}} {} (as it is, it never starts)"
_ELSE_OR_LESS = "make cancel {{words}}, then {{again}} {} or make submit with less (as it is, it never starts)"
_HELD = "{release} (it is held and does not start by itself; make cancel {words} ends it)"


class Reason(NamedTuple):
    pattern: str
    """A pattern for the whole of Slurm's reason."""
    means: str
    next: str = ""
    """The command to type; empty when one can only follow the log."""


_OF_ADMIN = "{release} (the administrator types it; make cancel {words} ends it)"
_SHORTER = "make cancel {words}, then {again} TIME=... (a shorter one may end before the reservation begins)"

REASONS = (
    Reason("JobHeldUser", "held by you", _HELD),
    Reason("JobHeldAdmin", "held by the administrator", _OF_ADMIN),
    Reason(".*held.*|JobHoldMaxRequeue", "held by Slurm, since it could not be started", _HELD),
    Reason("Resources", "waits until enough nodes are free"),
    Reason("Priority", "other jobs come before it"),
    Reason("BeginTime", "waits for its begin time, two minutes after a requeue"),
    Reason("Dependency", "waits for the job that it depends on"),
    Reason(
        "DependencyNeverSatisfied",
        "the job that it depends on did not end as it had to",
        _ELSE.format("EXTRA_FLAGS=none"),
    ),
    Reason("PartitionTimeLimit", "TIME is above the partition's limit", _ELSE.format("TIME=...")),
    Reason("PartitionNodeLimit", "NODES is not what the partition allows", _ELSE.format("PARTITION=...")),
    Reason(
        "MaxMemPerLimit",
        "MEM is above what the partition allows a node or a CPU",
        _ELSE.format("MEM=... or PARTITION=..."),
    ),
    Reason("PartitionDown|PartitionInactive", "the partition starts no jobs now"),
    Reason("ReqNodeNotAvail.*maintenance.*", "its nodes are reserved before it could end", _SHORTER),
    Reason(
        "(ReqNodeNotAvail|Nodes required for job are).*|NodeDown", "nodes that it needs are down, drained or reserved"
    ),
    Reason("Reservation", "waits for its reservation to begin"),
    Reason("ReservationDeleted|InvalidReservation", "its reservation is gone", _ELSE.format("RESERVATION=none")),
    Reason("Licenses", "waits for a licence"),
    Reason("JobArrayTaskLimit", "as many members of the sweep run as PARALLEL says"),
    Reason("(QOS|Assoc)Max(Jobs|Submit).*", "as many of your jobs run as {whose} allows"),
    Reason("(QOS|Assoc)(Max|Grp)WallDuration.*", "TIME is above what {whose} allows", _ELSE.format("TIME=...")),
    Reason("QOSGrp.*Minutes.*", "{whose} has used up its budget", _ELSE.format("QOS=...")),
    Reason("AssocGrp.*Minutes.*", "{whose} has used up its budget", _ELSE.format("ACCOUNT=...")),
    Reason("(QOS|Assoc)Grp.*", "the jobs of {whose} use all that it allows"),
    Reason("QOSMin.*", "it asks for less than {whose} takes", _ELSE.format("QOS=...")),
    Reason("QOSMax.*(PerJob|PerNode).*", "it asks for more than {whose} allows a job", _ELSE_OR_LESS.format("QOS=...")),
    Reason(
        "AssocMax.*(PerJob|PerNode).*",
        "it asks for more than {whose} allows a job",
        _ELSE_OR_LESS.format("ACCOUNT=..."),
    ),
    Reason("(QOS|Assoc)Max.*", "your jobs use all that {whose} allows"),
    # Slurm says the second of each in a sentence, with what the partition allows or denies.
    Reason(
        "InvalidAccount|AccountNotAllowed|Job's account not permitted.*",
        "the account may not be used there",
        _ELSE.format("ACCOUNT=..."),
    ),
    Reason(
        "InvalidQOS|QOSNotAllowed|Job's QOS not permitted.*", "the QOS may not be used there", _ELSE.format("QOS=...")
    ),
    Reason("BadConstraints", "no node has what it asks for", _ELSE.format("CONSTRAINT=...")),
    Reason("Cleaning", "its last attempt has not ended everywhere"),
    Reason("Prolog", "its nodes are being made ready"),
)


def explained(reason: str) -> str:
    """`Resources: waits until enough nodes are free`; an unknown reason unchanged."""
    known = _known(reason)
    if not known:
        return reason
    return f"{reason}: {known.means.format(whose='the QOS' if reason.startswith('QOS') else 'the account')}"


def advice(reason: str, job_id: str) -> str:
    """The command for a job that waits for this reason, with {words} and {again} in it; "" when waiting helps."""
    known = _known(reason)
    return known.next.replace("{release}", command("scontrol", job_id, "release")) if known else ""


def _known(reason: str) -> Reason | None:
    return next((known for known in REASONS if re.fullmatch(known.pattern, reason, re.IGNORECASE)), None)
