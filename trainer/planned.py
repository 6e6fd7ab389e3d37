"""A planned job looked at as its ranks will see it, before anything is submitted or started."""

from __future__ import annotations

from pathlib import Path

from trainer.job import Plan
from trainer.outcome import ConfigError
from trainer.records import check_records
from trainer.settings import from_plan, say


def check_planned(plan: Plan) -> None:
    """Raises ConfigError for a model without weights, settings that contradict the plan and unusable data."""
    project_dir = Path(plan.spec.project_dir)
    model = project_dir / plan.spec.model
    if model.is_dir() and not any(model.glob("*.safetensors")):
        raise ConfigError(
            f"MODEL={plan.spec.model}: the folder has no *.safetensors: pass one with the weights"
        )
    settings = from_plan(plan.launch_argv, project_dir)
    say(settings.notices)
    image_root = settings.values["image_root"]
    check_records(
        str(project_dir / plan.spec.data), image_root=str(project_dir / image_root) if image_root else None
    )
