"""Symbolic links under names that a run writes to: what they point to stays as it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from here import prepare
from plans import make_plan
from training import train_forked

from launcher.records import Run, read_run, run_record, write_record
from local.runs import place as local_place
from local.submit import carry_out
from slurm import submit as submitting
from slurm.cluster.queue import SCRIPT_NAME
from slurm.cluster.sbatch import SubmitError
from slurm.runs import place as slurm_place
from trainer.files import own_folder, sweep_halves, without_links, write_whole
from trainer.node.ranks import Ranks
from trainer.outcome import ConfigError
from trainer.tracking.wandb_run import WandbRun
from trainer.training.checkpoint import CheckpointError, CheckpointStore, check_manifest


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file that is none of the run's."""
    (tmp_path / "theirs").write_text("precious")
    return tmp_path / "theirs"


def store(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, Ranks(1), layout={"processes": 1}, keep=1, say=print)


@pytest.mark.parametrize("content", ["new", b"new"])
def test_a_file_written_whole_takes_a_links_place(content: str | bytes, theirs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").symlink_to(theirs)
    write_whole(run / "run.json", content)
    assert theirs.read_text() == "precious"
    assert [(path.name, path.is_symlink(), path.read_text()) for path in run.iterdir()] == [("run.json", False, "new")]


@pytest.mark.parametrize("target", ["theirs", "nothing"])
def test_a_run_whose_lock_is_a_link_is_refused_by_its_name(
    target: str, theirs: Path, tmp_path: Path, tiny_model: Path
) -> None:
    data = tmp_path / "records.jsonl"
    (tmp_path / "a.png").touch()
    data.write_text('{"image": "a.png", "context": "", "question": "?", "output": "up"}\n')
    plan = prepare([f"--model={tiny_model}", f"--data={data}", f"--output={tmp_path}/runs", "--device=cpu", "--run=r"])
    lock = tmp_path / "runs" / "r" / ".running"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(tmp_path / target)
    with pytest.raises(ConfigError) as caught:
        carry_out(plan, lambda _: pytest.fail("it has begun"))
    assert str(caught.value) == f"{lock} is a symbolic link: a run locks a file of its own, remove this one"
    assert theirs.read_text() == "precious" and not (tmp_path / "nothing").exists()
    lock.unlink()
    os.link(theirs, lock)  # a second name of another file is no link; locked, it keeps its contents too
    assert carry_out(plan, lambda _: 0) == 0
    assert theirs.read_text() == "precious"


def test_the_checkpoints_owner_and_old_names_are_not_followed(theirs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "owner").symlink_to(theirs)
    (folder / ".writing-000007-abc").symlink_to(tmp_path)
    (folder / ".kept-by-another").mkdir()
    assert store(folder).take_over() == 0
    assert theirs.read_text() == "precious"
    assert not (folder / "owner").is_symlink() and (folder / ".kept-by-another").is_dir()


def test_an_owner_that_is_a_pipe_or_has_no_end_is_not_waited_for(tmp_path: Path) -> None:
    checkpoints = store(tmp_path / "checkpoints")
    checkpoints.take_over()
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        (tmp_path / "checkpoints" / "owner").unlink()
        make(tmp_path / "checkpoints" / "owner")
        with pytest.raises(CheckpointError, match="a pipe or a device, and no file"):
            checkpoints.save(1, lambda _: None)
    (tmp_path / "checkpoints" / "owner").unlink()
    (tmp_path / "checkpoints" / "owner").write_text("another")
    with pytest.raises(CheckpointError, match="a later attempt has taken over"):
        checkpoints.save(1, lambda _: None)


def test_checkpoints_in_another_folder_are_refused(tmp_path: Path) -> None:
    """Old checkpoints are renamed and removed: in a linked folder these would be another's."""
    theirs = tmp_path / "home"
    (theirs / ".writing-me").mkdir(parents=True)
    (tmp_path / "checkpoints").symlink_to(theirs)
    with pytest.raises(ConfigError, match=r"/checkpoints is a symbolic link: checkpoints lie in the run's own folder"):
        store(tmp_path / "checkpoints").take_over()
    assert [path.name for path in theirs.iterdir()] == [".writing-me"]


def test_an_adapter_is_written_into_a_folder_without_links(theirs: Path, tmp_path: Path) -> None:
    adapter, elsewhere = tmp_path / "run" / "adapter", tmp_path / "elsewhere"
    adapter.mkdir(parents=True)
    elsewhere.mkdir()
    (adapter / "adapter_model.safetensors").symlink_to(theirs)
    (adapter / "chat_template.jinja").write_text("old")
    without_links(adapter)
    assert [path.name for path in adapter.iterdir()] == ["chat_template.jinja"]
    linked = tmp_path / "linked"
    linked.symlink_to(elsewhere)
    assert not without_links(linked).is_symlink() and elsewhere.is_dir()
    assert theirs.read_text() == "precious"


def test_a_resumed_runs_script_takes_a_links_place_and_so_does_the_old_one(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / SCRIPT_NAME
    script.symlink_to(theirs)

    def refusing(*_: object) -> str:
        assert script.read_text() == "new" and not script.is_symlink()
        raise SubmitError("no")

    monkeypatch.setattr(submitting, "sbatch", refusing)
    with pytest.raises(SubmitError):
        submitting._submit_again(
            tmp_path, "new", {}, {"": (Run(folder=tmp_path, record={"job_ids": []}), make_plan())}, {}
        )
    assert theirs.read_text() == "precious"


def test_a_file_written_whole_is_its_owners_to_write_whatever_umask_says(tmp_path: Path) -> None:
    """Where umask is 002, as in many groups, each member could write another's request for a resume."""
    before = os.umask(0o002)
    try:
        write_whole(tmp_path / "run.json", "{}")
        os.umask(0o077)
        write_whole(tmp_path / "own.json", "{}")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("run.json", "own.json")] == [0o644, 0o600]


def test_the_name_of_a_half_written_file_is_new_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    replace = Path.replace

    def note(self: Path, target: Path) -> Path:
        names.add(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", note)
    for _ in range(5):
        write_whole(tmp_path / "run.json", "new")
    assert len(names) == 5 and all(re.fullmatch(r"\.run\.json\.[0-9a-f]{16}", name) for name in names)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "optimizer.pt is a link, a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "optimizer.pt is a link, a pipe or a device"),
        (lambda path: path.symlink_to("/etc/hostname"), "optimizer.pt is a link, a pipe or a device"),
        (lambda path: path.with_name("more.pt").touch(), "optimizer.pt is missing"),
        (lambda path: (path.touch(), path.with_name("more.pt").touch()), "more.pt is not in its manifest"),
    ],
)
def test_a_checkpoint_is_of_its_own_files_and_none_is_waited_for(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    empty = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"layout": {}, "files": {"optimizer.pt": empty}}))
    make(tmp_path / "optimizer.pt")
    assert check_manifest(tmp_path) == said


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "a\0b", "x" * 5000])
def test_a_manifest_names_nothing_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").touch()
    step = tmp_path / "step"
    step.mkdir()
    empty = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    (step / "manifest.json").write_text(json.dumps({"layout": {}, "files": {name: empty}}))
    assert check_manifest(step) == f"{name} is missing"


def test_a_folder_that_is_a_link_is_replaced(theirs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "logs").symlink_to(elsewhere)
    own = own_folder(tmp_path / "logs")
    (own / "local-1.log").touch()
    assert (own.is_symlink(), list(elsewhere.iterdir())) == (False, [])
    assert list(own_folder(own).iterdir()) == [own / "local-1.log"]


def test_a_folder_that_another_rank_made_since_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_symlink", lambda _: True)  # as it was when this rank looked
    for _ in range(2):
        assert own_folder(tmp_path / "features").is_dir()


def test_old_halves_of_files_are_swept_and_nothing_else(tmp_path: Path) -> None:
    half = f".run.json.{'0a' * 8}"
    kept = [f"x{half}", half[:-1], f"{half}0", f".{'0a' * 8}", "run.json", f".new.{'0b' * 8}", f".link.{'0c' * 8}"]
    for name in [half, *kept[:-1]]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / kept[-2]).touch()
    (tmp_path / kept[-1]).symlink_to("run.json")
    os.utime(tmp_path / kept[-1], (0, 0), follow_symlinks=False)
    (folder := tmp_path / f".folder.{'0d' * 8}").mkdir()
    os.utime(folder, (0, 0))
    sweep_halves(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, folder.name}
    sweep_halves(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["wandb", ".wandb"])
def test_the_client_of_wandb_finds_no_link_to_write_through(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("trainer.tracking.wandb_run.prepare_client", lambda **_: None)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (run := tmp_path / "r").mkdir()
    (run / name).symlink_to(elsewhere)
    WandbRun({"run_id": "r", "output_dir": str(run)}, None)
    assert not (run / name).is_symlink() and elsewhere.is_dir()


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file to another user")
@pytest.mark.parametrize("to", ["slurm", "local"])
def test_a_record_that_another_user_wrote_is_not_resumed(to: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    write_record(folder, run_record(make_plan(run_id="r")))
    place_of: Any = {"slurm": slurm_place, "local": local_place}[to]
    place = place_of({}, {}, tmp_path)
    run = read_run(folder)
    assert place.spec_of(run).run_id == "r"
    write_record(folder, {**run.record, "nan": float("nan")})
    assert place.spec_of(read_run(folder)).run_id == "r"
    write_record(folder, run.record)
    (folder / "run.json").rename(theirs := folder / "theirs.json")
    for content in ("{}", "{"):
        (mine := tmp_path / "mine.json").write_text(content)
        (folder / "run.json").unlink(missing_ok=True)
        (folder / "run.json").symlink_to(mine)  # another's request, under the name of a file of one's own
        with pytest.raises(ConfigError, match=r"run\.json has changed meanwhile: try again"):
            place.spec_of(run)
    theirs.replace(folder / "run.json")
    (folder / "run.json").chmod(0o664)
    with pytest.raises(
        ConfigError, match=r"run\.json may be written by others, .*, then chmod go-w /.*run\.json \(changes nothing"
    ):
        place.spec_of(run)
    shutil.copytree(tmp_path / "runs", (home := tmp_path / "home") / "runs", copy_function=shutil.copyfile)
    copied = place_of({}, {}, home)
    assert copied.spec_of(read_run(home / "runs" / "r")).run_id == "r"
    (folder / "run.json").chmod(0o644)
    os.chown(folder / "run.json", 4711, 4711)
    with pytest.raises(ConfigError, match=r"run\.json is another user's \(uid 4711\), and resume would run as you"):
        place.spec_of(run)


CANARY = "cAnary7fJ2kQ9xZ1"


@pytest.mark.slow
def test_a_run_writes_through_no_link_at_any_name_of_an_earlier_run_and_no_secret_anywhere(
    tiny_model: Path, walks: Path, tmp_path: Path
) -> None:
    """The names are those that a run has left, and no list of ours."""
    secrets = {
        "HF_TOKEN": f"hf_{CANARY}",
        "WANDB_API_KEY": f"local-{CANARY}{'0' * 24}",
        "AWS_SECRET_ACCESS_KEY": CANARY,
    }
    options = {"model": tiny_model, "data": walks, "max_steps": 2, "eval_steps": 1, "save_steps": 1}
    first = train_forked(tmp_path / "first", environment=secrets, **options)
    assert first.codes == (0,), first.output
    written = [path for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(written) > 15 and [path for path in written if CANARY.encode() in path.read_bytes()] == []
    (theirs := tmp_path / "theirs").mkdir()
    for number, path in enumerate(written):
        name = path.relative_to(tmp_path / "first")
        if "checkpoints" not in name.parts and name.parts[0] == "run":  # a folder of checkpoints is refused, or its own
            (link := tmp_path / "second" / name).parent.mkdir(parents=True, exist_ok=True)
            (theirs / str(number)).write_text("precious")
            link.symlink_to(theirs / str(number))
    second = train_forked(tmp_path / "second", environment=secrets, **options)
    assert second.codes == (0,), second.output
    assert {path.read_text() for path in theirs.iterdir()} == {"precious"}
