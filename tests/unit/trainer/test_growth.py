"""Small files that stand for much: reading them ends in one line, and soon."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.convert import tars
from trainer.data import growth
from trainer.data.growth import Growth
from trainer.data.records import load_dataset
from trainer.files import MIB
from trainer.outcome import ConfigError

RECORD = b'{"question": "?", "answer": "a"}\n'
PACK: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def refused(data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["convert", str(data), str(out)]) == 78
    said = capsys.readouterr().err
    assert said.count("trainyard: ") == 1 and "Traceback" not in said
    return said.rpartition("trainyard: ")[2].removesuffix("\n")


def test_growth_is_counted_over_all_that_is_made() -> None:
    bounds = Growth(name="x", stored_bytes=10)
    bounds.add(growth.FREE_BYTES, rows=growth.FREE_ROWS)
    bounds.add(growth.MOST_TIMES * 10, rows=10)
    with pytest.raises(ConfigError, match=r"^x stands for more rows than it has bytes: look into it$"):
        bounds.add(0, rows=1)
    with pytest.raises(ConfigError, match=r"^x stands for more than 200 times its size: look into it$"):
        bounds.add(1)


@pytest.mark.parametrize("form", PACK)
def test_a_packed_file_of_records_stands_for_so_much_and_no_more(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines without anything in them are no faults, so nothing else ends their reading."""
    path = tmp_path / f"d.jsonl.{form}"
    path.write_bytes(PACK[form](RECORD * 2 + b"\n" * MIB))
    assert len(load_dataset(str(path), text_only=True, eval_fraction=0).train) == 2
    monkeypatch.setattr(growth, "FREE_BYTES", MIB // 8)
    with pytest.raises(ConfigError, match=rf"d\.jsonl\.{form} stands for more than 200 times its size: look into it$"):
        load_dataset(str(path), text_only=True, eval_fraction=0)


@pytest.mark.slow
@pytest.mark.parametrize("form", PACK)
def test_a_packed_table_stands_for_so_much_and_no_more(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"train.csv.{form}"
    path.write_bytes(PACK[form](b"question,answer\n?,a\n" + b"\n" * (8 * MIB)))
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    monkeypatch.setattr(growth, "FREE_BYTES", MIB)
    said = refused(tmp_path / "in", tmp_path / "other", capsys)
    assert said == f"{path} stands for more than 200 times its size: look into it"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("FREE_ROWS", 1000, "rows than it has bytes"), ("FREE_BYTES", MIB, "than 200 times its size")],
)
def test_a_table_stands_for_so_many_rows_and_so_much_text(
    name: str,
    value: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pyarrow
    import pyarrow.parquet

    cells = pyarrow.DictionaryArray.from_arrays([0] * 20_000, ["a" * 200])
    table = pyarrow.table({"question": cells, "answer": cells})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet", store_schema=False)
    assert (tmp_path / "d.parquet").stat().st_size < 5_000
    monkeypatch.setattr(growth, name, value)
    assert refused(tmp_path / "d.parquet", tmp_path / "out", capsys) == (
        f"{tmp_path / 'd.parquet'} stands for more {said}: look into it"
    )


def sparse(path: Path) -> None:
    """A tar as `tar --sparse` writes it, of a file with a hole of 1 TiB."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        entry, stored = tarfile.TarInfo("0.png"), b"0\n".ljust(512, b"\0")
        names = {"major": "1", "minor": "0", "name": "0.png", "realsize": str(1 << 40)}
        entry.pax_headers = {f"GNU.sparse.{name}": value for name, value in names.items()}
        entry.size = len(stored)
        tar.addfile(entry, io.BytesIO(stored))


def long(path: Path) -> None:
    """A tar that itself has a hole: a long member that takes no room on the disk."""
    entry = tarfile.TarInfo("0.png")
    entry.size = 1 << 40
    with path.open("wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        file.truncate((1 << 40) + 4096)


def packed(path: Path) -> None:
    """A tar of packed members, which the library would unpack."""
    with tarfile.open(path, "w") as tar:
        for name, content in (("0.json", RECORD), ("0.txt.BZ2", bz2.compress(bytes(MIB)))):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (sparse, " holds more than its size, in sparse files: pack it again without --sparse"),
        (long, ": '0.png' has more than 0.00390625 GiB: take it out"),
        (packed, ": '0.txt.BZ2' is packed: unpack it, and pack the tar again"),
    ],
)
def test_what_a_tar_stands_for_is_not_read(
    made: Callable[[Path], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(tars, "MOST_MEMBER_BYTES", 4 * MIB)
    made(tmp_path / "a.tar")
    assert refused(tmp_path / "a.tar", tmp_path / "out", capsys) == f"{tmp_path / 'a.tar'}{said}"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_links_and_devices_in_a_tar_are_no_members(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"question": "?", "answer": "of this machine"}')
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("1.json", tarfile.SYMTYPE), ("2.json", tarfile.LNKTYPE), ("3.json", tarfile.CHRTYPE),
                           ("4.json", tarfile.FIFOTYPE), ("../5.json", tarfile.REGTYPE)):  # fmt: skip
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, str(tmp_path / "secret.json")
            entry.size = len(RECORD) if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(RECORD))
    assert main(["convert", str(tmp_path / "a.tar"), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "train.jsonl").read_text()) == json.loads(RECORD)
