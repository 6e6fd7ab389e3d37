"""Checks a planned job as its ranks will see it, before anything is submitted or started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from launcher import image
from launcher.mounts import mounts
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.file_settings import check_trainer_accepts
from trainer.architecture.folder import check_weights
from trainer.data.inline import UNPACKED
from trainer.data.records import Dataset, load_dataset
from trainer.data.sources import from_folder
from trainer.env_file import read_env_file
from trainer.model.warm_start import check_start
from trainer.outcome import ConfigError

MOST_NAMED = 3


def check_planned(plan: Plan) -> None:
    """Raises ConfigError for a model without weights, settings that contradict the plan, an adapter that the run
    cannot start from, unusable data, records of which none would be left, an OUTPUT below a file, and paths that a
    container would not see."""
    project_dir = Path(plan.spec.project_dir)
    output = project_dir / plan.spec.output
    if file := next((path for path in (output, *output.parents) if path.is_file()), None):
        raise ConfigError(f"{file} is a file", name="OUTPUT", given=plan.spec.output, advice="give a folder")
    model = project_dir / plan.spec.model
    if model.is_dir():
        check_weights(plan.spec.model, model)
    settings = check_trainer_accepts(plan, project_dir)
    image_root = settings.values["image_root"]
    if plan.spec.slurm.runtime != "none":
        used = ("image_root", "feature_store") if settings.values["feature_cache_gib"] else ("image_root",)
        _check_seen(plan.spec, {name: settings.values[name] for name in used})
    else:
        check_start(settings.config(), project_dir)
    dataset = load_dataset(
        from_folder(project_dir, plan.spec.data), image_root=str(project_dir / image_root) if image_root else None,
        write=False,
        **{name: settings.values[name] for name in ("learn", "text_only", "columns", "session_key", "strict")},
    )  # fmt: skip
    if plan.spec.slurm.runtime != "none":
        _check_data_seen(plan.spec, dataset)
    if plan.spec.too_short_for_pictures and all(record.pictures for record in dataset.train):
        raise ConfigError(plan.spec.too_short_for_pictures)


def _check_seen(spec: JobSpec, named: Mapping[str, str | None]) -> None:
    """Raises ConfigError for folders that only .env or the YAML file mention, `named` by their settings: a container
    would not have them mounted."""
    env_file = read_env_file(Path(spec.project_dir, ".env"))
    if "HF_HOME" in env_file and "HF_HOME" not in dict(spec.environment):
        raise ConfigError(
            f".env says HF_HOME={env_file['HF_HOME']}, which a container would not see: "
            f"say ENVIRONMENT=HF_HOME={env_file['HF_HOME']}, or environment: in the site file"
        )
    for setting, found in named.items():
        root = found or env_file.get(setting.upper(), "")
        inside = os.path.normpath(os.path.join(image.WORK_DIR, root))
        if root and not any(Path(inside).is_relative_to(mount.target) for mount in mounts(spec)):
            bind = root if os.path.isabs(root) else f"{os.path.join(spec.project_dir, root)}:{inside}"
            raise ConfigError(
                "would not be seen in the container", name=setting, given=root, advice=f"add BINDS={bind}"
            )


def _check_data_seen(spec: JobSpec, dataset: Dataset) -> None:
    """Raises ConfigError for records and pictures outside the folders that a container sees; links are followed."""
    folders: dict[str, str] = {}
    """One file of each folder."""
    for path in (*dataset.files, *(path for r in (*dataset.train, *dataset.eval) for path in r.images)):
        if not path.name.endswith(UNPACKED):
            place = os.path.realpath(path) if path.is_symlink() else str(path.absolute())
            folders.setdefault(os.path.dirname(place), place)
    sources = [os.path.realpath(mount.source) for mount in mounts(spec)]
    hidden = {
        folder: file
        for folder in folders
        if not any(Path(os.path.realpath(folder)).is_relative_to(source) for source in sources)
        for file in [folders[folder]]
    }
    if hidden:
        shown = sorted(os.path.realpath(folder) for folder in hidden)
        more = f" and {len(shown) - MOST_NAMED} more folders" if len(shown) > MOST_NAMED else ""
        raise ConfigError(
            f"{next(iter(hidden.values()))} would not be seen in the container: "
            f"add BINDS={','.join(shown[:MOST_NAMED])}{more}, or copy what lies there beside DATA"
        )
