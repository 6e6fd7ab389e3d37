"""A job's id as run.json keeps it: `7`; `7_3` for an array's member; `7;fast` on the cluster `fast`, in the form of
`sbatch --parsable`."""

from __future__ import annotations

import re
from collections.abc import Sequence


def split(job_id: str) -> tuple[str, str]:
    """(the number, with the member's index; the cluster, empty for the one that Slurm's programs ask by default)."""
    number, _, cluster = job_id.partition(";")
    return number, cluster


def joined(number: str, cluster: str) -> str:
    return f"{number};{cluster}" if cluster else number


def array_of(job_id: str) -> str:
    """The number of a member's array; for any other job its own number."""
    return re.split("[_;]", job_id)[0]


def member_of(job_id: str, member: str) -> str:
    """The id of an array's member; `member` is `_3`, or empty for the job itself."""
    number, cluster = split(job_id)
    return joined(number + member, cluster)


def by_cluster(job_ids: Sequence[str]) -> dict[str, list[str]]:
    """Numbers by cluster."""
    found: dict[str, list[str]] = {}
    for number, cluster in map(split, job_ids):
        found.setdefault(cluster, []).append(number)
    return found


def command(program: str, job_id: str, *verb: str) -> str:
    """The command that a person types about the job: `scontrol --clusters=fast release 7`."""
    number, cluster = split(job_id)
    return " ".join([program, *([f"--clusters={cluster}"] if cluster else []), *verb, number])
