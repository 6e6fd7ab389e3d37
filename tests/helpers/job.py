"""A job on the test cluster, and its log."""

from __future__ import annotations

import re
from pathlib import Path

from cluster import STARTED_S, Cluster
from programs import until
from slurm_verbs import submit

from planner.plan import Plan
from slurm.render import log_path, run_dir
from trainer.log import bare


class Job:
    """A submitted job, and its log."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self.cluster, self.run_dir = cluster, Path(run_dir(plan.spec))
        self.id = submit(plan, cluster.environ).job_id
        self.log_path = Path(log_path(plan.spec, job_id=self.id))

    @property
    def log(self) -> str:
        return bare(self.log_path.read_text()) if self.log_path.exists() else ""

    @property
    def state(self) -> dict[str, str]:
        return self.cluster.job(self.id)

    def until(self, pattern: str, *, times: int = 1, timeout_s: float = 120) -> None:
        def said() -> bool:
            if len(re.findall(pattern, self.log)) >= times:
                return True
            assert self.state["JobState"] not in ("FAILED", "COMPLETED"), self.log
            return False

        until(said, lambda: f"{self.state}\n{self.log}", timeout_s)

    def until_requeued(self, times: int = 1, timeout_s: float = 180) -> None:
        until(lambda: self.state["Restarts"] == str(times), lambda: f"{self.state}\n{self.log}", timeout_s)

    def run_on(self, timeout_s: float = STARTED_S) -> dict[str, str]:
        """The job once it has ended, without the two minutes that Slurm lets a requeued job wait."""
        return self.cluster.start_again(self.id, ended=True, timeout_s=timeout_s)

    def start_again(self) -> None:
        """Wait until a requeued job is running."""
        self.cluster.start_again(self.id)

    @property
    def steps(self) -> list[int]:
        return [int(step) for step in re.findall(r"(?m)^step (\d+)$", self.log)]


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
