"""A planned job looked at as its ranks will see it, before anything is submitted or started."""

from __future__ import annotations

from pathlib import Path

from trainer.job import Plan
from trainer.records import check_records
from trainer.settings import from_plan, say


def check_planned(plan: Plan) -> None:
    """Raises ConfigError for settings that contradict the plan and for data that cannot be trained on."""
    project_dir = Path(plan.spec.project_dir)
    settings = from_plan(plan.launch_argv, project_dir)
    say(settings.notices)
    image_root = settings.values["image_root"]
    check_records(
        str(project_dir / plan.spec.data), image_root=str(project_dir / image_root) if image_root else None
    )
