"""Carry out the rows of rows.py on this machine's GPU; each that ends is kept at once, and the page written again.

    make gpu-proof                        # on a machine with a GPU of 80 GiB or more, in eight minutes
    make gpu-proof REHEARSE=1             # the same at toy size on the CPU; its figures say nothing about a GPU
    python3 -m benchmarks.gpu_proof --wheels DIR     # where nothing can be fetched: see wheels.py

Ctrl-C, or the end of the minutes, cuts it short: what was found until then is on the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu_proof.page import write_page
from benchmarks.gpu_proof.rows import FULL_SECONDS, ROWS, Row
from benchmarks.gpu_proof.schedule import carry_out_all
from trainer.files import read_json, write_whole
from trainer.verbs import exit_code

PROJECT_DIR = Path(__file__).resolve().parents[2]
RESULTS = PROJECT_DIR / "benchmarks" / "results" / "gpu_proof"
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "deepspeed")
CARD_SHARE = 0.9  # of the card that rows which run side by side may take together


def main(argv: list[str]) -> int:
    options = _options(argv)
    if options.wheels:
        from benchmarks.gpu_proof.wheels import begin_again_with

        begin_again_with(options.wheels)
    ends_at = time.monotonic() + 60 * options.minutes
    rows = [row for row in ROWS if not options.only or any(word in row.name for word in options.only)]
    report: dict[str, Any] = {"about": _machine(options.rehearse), "asked": [row.name for row in rows], "rows": {}}
    if options.go_on:
        earlier = read_json(options.go_on)
        refuse_others(earlier["about"], report["about"])
        report["rows"] = dict(earlier["rows"])  # a row that failed keeps what it had found until it is tried again
        report["about"]["goes_on_from"] = earlier["about"]
        report["asked"] = list(dict.fromkeys([*report["rows"], *report["asked"]]))
        rows = [row for row in rows if "failed" in report["rows"].get(row.name, {"failed": ""})]
    options.out.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        report["about"]["seconds"] = round(time.monotonic() - ends_at + 60 * options.minutes)
        write_whole(options.out / "gpu_proof.json", f"{json.dumps(report, indent=1)}\n")
        write_page(options.out / "gpu_proof.md", report)

    def keep(row: Row, found: dict[str, Any]) -> None:
        report["rows"][row.name] = {"module": row.module, **found}
        write()
        print(
            f"{len(report['rows']):>3} of {len(report['asked'])}  {row.name}: {_short(found)}",
            file=sys.stderr,
            flush=True,
        )

    if options.go_on and not rows:  # the page alone is written anew
        write()
    folder = tempfile.mkdtemp(prefix="trainyard-gpu-proof-", dir=_roomy())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        slots = 2 if options.rehearse else 5
        carry_out_all(rows, folder, rehearsal=options.rehearse, gib=_card_gib(options.rehearse), slots=slots,
                      ends_at=ends_at, keep=keep)  # fmt: skip
    except KeyboardInterrupt:
        print("cut short", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{options.out}/gpu_proof.md", file=sys.stderr)
    failed = [row.name for row in rows if "failed" in report["rows"].get(row.name, {"failed": "not begun"})]
    return int(bool(failed))


def _options(argv: list[str]) -> Any:
    parser = argparse.ArgumentParser(
        prog="gpu_proof", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="toy size, on the CPU")
    parser.add_argument("--minutes", type=float, help=f"at most ({FULL_SECONDS // 60}; to rehearse 60)")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="rows whose names have it")
    parser.add_argument("--go-on", type=Path, metavar="FILE", help="leave out the rows that this gpu_proof.json has")
    parser.add_argument("--out", type=Path, default=None, help="folder for gpu_proof.json and gpu_proof.md")
    parser.add_argument("--wheels", type=Path, default=None, help="folder of wheels to install first")
    options = parser.parse_args(argv)
    options.minutes = options.minutes or (60 if options.rehearse else FULL_SECONDS / 60)
    options.out = options.out or (PROJECT_DIR / "runs" / "gpu-proof-rehearsal" if options.rehearse else RESULTS)
    return options


def _machine(rehearsal: bool) -> dict[str, Any]:
    """What a reader must know of where the figures are from. Raises ConfigError where there is no GPU."""
    from trainer.outcome import ConfigError

    about: dict[str, Any] = {
        "rehearsal": rehearsal, "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(), "cores": os.cpu_count(), "versions": _versions(),
    }  # fmt: skip
    if rehearsal:
        return about
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("torch sees no GPU here: make gpu-proof REHEARSE=1 goes through the same rows on the CPU")
    properties = torch.cuda.get_device_properties(0)
    return {**about, "gpu": properties.name, "gpu_gib": properties.total_memory / 2**30, "cuda": torch.version.cuda}


def refuse_others(earlier: dict[str, Any], about: dict[str, Any]) -> None:
    """Raises ConfigError for results that do not belong beside ours: of a rehearsal, another card, other libraries."""
    from trainer.outcome import ConfigError

    for name in ("rehearsal", "gpu", "cuda", "versions"):
        if (was := earlier.get(name)) != (now := about.get(name)):
            raise ConfigError(f"--go-on: its rows were made with {name}={was}, here it is {now}: begin anew")


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not here"
    return found


def _card_gib(rehearsal: bool) -> float:
    if rehearsal:
        return float("inf")
    import torch

    return CARD_SHARE * float(torch.cuda.get_device_properties(0).total_memory) / 2**30


def _roomy() -> str | None:
    """Where nine gigabytes of weights are read fastest: in memory, where there is much of it."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > 24 * 2**30 else None


def _short(found: dict[str, Any]) -> str:
    seconds = f"{found['seconds_taken']:.0f} s"
    return f"failed, {found['failed']}" if "failed" in found else f"done in {seconds}"


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
