"""`make hardware`: what this machine has to train with, what a run gets of it, and the plan for each card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.scheduler import Words
from local.target import OF_MACHINE, target
from planner.choose import choose
from planner.request.resolve import resolve
from planner.request.site import Site
from trainer.node.machine import METAL_SHARE, Card, Choice, Machine
from trainer.outcome import FINISHED, ConfigError
from trainer.text import GIB, format_table, printable, wrap

WIDTH = 100


def show(scheduler: Any, given: Words, environ: Words, project_dir: Path) -> int:
    """The verb. Raises ConfigError for GPUS and what else the machine says itself."""
    if odd := [name for name in (*OF_MACHINE, "RUN", "MEM", "CPUS") if name in given]:
        advice = "leave it out; make plan takes it"
        raise ConfigError("hardware says what is here", name=odd[0], given=given[odd[0]], advice=advice)
    here = target(given, environ, project_dir)
    found, choice = here.hardware, here.choice

    def planned(**words: str) -> str:
        return _planned({**given, "CPUS": str(found.cores), **words}, environ, project_dir, apple=found.apple)

    rows = [["here", "GiB", "free", "plan for one run"]]
    for index, card in enumerate(found.cards):
        plan = card.unfit or planned(DEVICE="cuda", GPUS="1", VRAM=f"{card.offered_gib:g}")
        rows.append([f"{index}  {card.name}", f"{card.total_gib:.1f}", _free(card), plan])
    if len(choice.cards) > 1 and choice.vram_gib:
        together = {"DEVICE": "cuda", "GPUS": str(len(choice.cards)), "VRAM": f"{choice.vram_gib:g}"}
        rows.append([f"   {len(choice.cards)} together", "", "", planned(**together)])
    if found.apple:
        memory = int(found.memory_gib * METAL_SHARE)
        rows.append(["   Apple's GPU", f"{memory}", "", planned(DEVICE="mps", MEM=f"{memory}")])
    cores = f"   CPU, {found.cores} core{'s' * (found.cores > 1)}{', limited by its control group' * found.limited}"
    cpu = planned(DEVICE="cpu", MEM=f"{found.memory_gib}")
    rows.append([cores, f"{found.memory_gib}", f"{found.free_gib:.1f}", cpu])
    print(_left(rows))
    print()
    print(wrap(printable(_recommendation(found, choice)), width=WIDTH, prefix="a run   "))
    print("next    make plan TO=local (the whole comparison), then make run DATA=records.jsonl")
    return FINISHED


def _planned(asked: Mapping[str, str], environ: Words, project_dir: Path, *, apple: bool) -> str:
    """The plan in a few words, or what would be needed."""
    try:
        spec = resolve(asked, project_dir=project_dir, environ=environ, run_suffix="x", site=Site(apple=apple))
        chosen = choose(spec, here=True).chosen
    except ConfigError as error:
        if error.name != "MODEL":
            raise
        needed = re.search(r"needs ([\d.]+ GiB)", str(error))
        ways = re.findall(r"\b(?:MAX_LENGTH|LORA|QUANTIZATION)=\S+", str(error))  # its memory is what it is
        return f"does not fit: {' or '.join([f'it takes {needed[1]}' if needed else 'too much', *ways])}"
    peak = chosen.estimate.peak_bytes / GIB
    return f"{chosen.label}, {chosen.micro_batch_size} x {chosen.gradient_accumulation_steps}, {peak:.1f} GiB"


def _free(card: Card) -> str:
    return "?" if card.free_gib is None else f"{card.free_gib:.1f}"


def _recommendation(found: Machine, choice: Choice) -> str:
    why = f"; {choice.why}" if choice.why else ""
    if choice.cards and choice.vram_gib:
        which = ", ".join(str(found.cards.index(card)) for card in choice.cards)
        return f"takes GPUS={len(choice.cards)} VRAM={choice.vram_gib:g} (card {which}) where nothing is said{why}"
    return f"takes DEVICE={choice.device} where nothing is said{why}"


def _left(rows: Sequence[Sequence[str]]) -> str:
    """The table with its last column to the left: it is long, and a refusal is longer."""
    lines = format_table([row[:-1] for row in rows], rules_before=(1,)).split("\n")
    width = max(map(len, lines))
    cells = [rows[0][-1], "-" * max(len(row[-1]) for row in rows), *(row[-1] for row in rows[1:])]
    return "\n".join(f"{line:<{width}}  {printable(cell)}" for line, cell in zip(lines, cells, strict=True))
