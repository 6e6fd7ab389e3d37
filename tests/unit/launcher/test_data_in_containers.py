"""A container sees the folders of all records and their pictures, or the request is refused with the mount to add."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plans import make_plan

from launcher.mounts import mounts
from launcher.preconditions import _check_data_seen, _check_seen
from planner.job import JobSpec
from trainer.data.records import load_dataset
from trainer.data.sources import from_folder
from trainer.outcome import ConfigError

ROW = {"question": "?", "output": "up"}


def spec_of(folder: Path, data: str, **more: object) -> JobSpec:
    return make_plan(project_dir=str(folder), data=data, runtime="apptainer", image="a.sif", **more).spec


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        ("sets/a.jsonl", ["sets"]), ("sets/a.ndjson", ["sets"]), ("sets/a.json.gz", ["sets"]), ("sets", ["sets"]),
        ("sets/a.jsonl,more/b.json", ["more", "sets"]), ("sets,/big/c.jsonl", ["/big", "sets"]),
    ],
)  # fmt: skip
def test_the_folder_of_every_file_is_mounted(data: str, seen: list[str], tmp_path: Path) -> None:
    wanted = {str(tmp_path / folder) for folder in seen}
    sources = {mount.source for mount in mounts(spec_of(tmp_path, data)) if mount.read_only}
    assert sources == wanted


@pytest.mark.parametrize("setting", ["image_root", "feature_store"])
def test_a_folder_that_only_the_files_of_settings_name_is_refused_unless_it_is_mounted(
    setting: str, tmp_path: Path
) -> None:
    def check(root: str, **more: object) -> str:
        try:
            _check_seen(spec_of(tmp_path, "sets", **more), {setting: root})
        except ConfigError as error:
            return str(error)
        return ""

    unseen = f"{setting}=%s: would not be seen in the container: add BINDS=%s"
    assert check("/away/kept") == unseen % ("/away/kept", "/away/kept")
    assert check("kept") == unseen % ("kept", f"{tmp_path}/kept:/workspace/kept")
    assert check("/away/kept", binds=("/away",)) == check("runs/kept") == ""
    (tmp_path / ".env").write_text(f"{setting.upper()}=/away/kept\n")
    assert check("") == unseen % ("/away/kept", "/away/kept")


def test_pictures_that_lie_elsewhere_are_refused_by_name(tmp_path: Path) -> None:
    project, away = tmp_path / "project", tmp_path / "away"
    for path in (project / "sets" / "a.png", away / "b.png", away / "c.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG")
    (project / "sets" / "link.png").symlink_to(away / "b.png")

    def check(*names: str, **more: object) -> None:
        (project / "sets" / "d.ndjson").write_text("".join(json.dumps({**ROW, "image": name}) + "\n" for name in names))
        spec = spec_of(project, "sets/d.ndjson", **more)
        _check_data_seen(spec, load_dataset(from_folder(project, spec.data), eval_fraction=0))

    check("a.png")
    for name, file in ((f"{away}/b.png", "b.png"), ("../../away/c.png", "c.png"), ("link.png", "b.png")):
        with pytest.raises(ConfigError) as caught:
            check("a.png", name)
        assert str(caught.value).endswith(
            f"{file} would not be seen in the container: add BINDS={away}, or copy what lies there beside DATA"
        )
        check("a.png", name, binds=(str(away),))
