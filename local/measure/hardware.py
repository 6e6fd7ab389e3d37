"""`make hardware`: this machine's hardware for training, the part that a run gets, and the plan for each card."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.scheduler import Words
from local.target import OF_MACHINE, target
from planner.choose import choose
from planner.refuse import NothingFits
from planner.request.resolve import resolve
from planner.request.site import Site
from trainer.files import MOST_CHARACTERS
from trainer.node.machine import METAL_SHARE, Card, Choice, Machine
from trainer.outcome import FINISHED, ConfigError
from trainer.terminal import size
from trainer.text import GIB, format_table, gib, printable, wrap

WIDTH = 100
LEAST_COLUMNS = 30
LEAST_GIB = 1  # that VRAM takes
SMALL_MODEL = "HuggingFaceTB/SmolVLM-256M-Instruct"
OF_REQUEST = ("MAX_LENGTH=", "LORA=", "LORA_TARGETS=", "QUANTIZATION=")


def show(scheduler: Any, given: Words, environ: Words, project_dir: Path) -> int:
    """Runs the verb `hardware`. Raises ConfigError for GPUS and other variables that the machine itself decides."""
    if odd := [name for name in (*OF_MACHINE, "RUN", "MEM", "CPUS") if name in given]:
        advice = "leave it out; make plan takes it"
        raise ConfigError("hardware says what is here", name=odd[0], given=given[odd[0]], advice=advice)
    here = target(given, environ, project_dir)
    found, choice = here.hardware, here.choice

    rows = [["here", "GiB", "free", "plan for one run"]]
    made: dict[tuple[Card, ...] | str, Made] = {}

    def planned(what: tuple[Card, ...] | str, **words: str) -> str:
        asked = {**given, "CPUS": str(found.cores), "DEVICE": what if isinstance(what, str) else "cuda", **words}
        made[what] = _planned(asked, environ, project_dir, here=here.offers, apple=found.apple)
        return made[what].text

    def on_cards(cards: tuple[Card, ...], gib: float) -> str:
        return planned(cards, GPUS=str(len(cards)), VRAM=f"{gib:g}") if gib >= LEAST_GIB else "no room"

    for index, card in enumerate(found.cards):
        held = f"held by others: {card.held_gib:.1f} GiB" if card.offered_gib < LEAST_GIB else ""
        plan = card.unfit or held or on_cards((card,), card.offered_gib)
        rows.append([f"{index}  {card.name}", "?" if card.fault else f"{card.total_gib:.1f}", _free(card), plan])
    if found.silent:
        rows.append(["   GPUs", "?", "?", found.silent])
    if len(choice.cards) > 1 and choice.vram_gib:
        rows.append([f"   {len(choice.cards)} together", "", "", on_cards(choice.cards, choice.vram_gib)])
    if found.apple:
        memory = int(found.memory_gib * METAL_SHARE)
        rows.append(["   Apple's GPU", f"{memory}", "", planned("mps", MEM=f"{memory}")])
    cores = f"   CPU, {found.cores} core{'s' * (found.cores > 1)}{', limited by its control group' * found.limited}"
    rows.append([cores, f"{found.memory_gib}", f"{found.free_gib:.1f}", planned("cpu", MEM=f"{found.memory_gib}")])
    if all(plan.wrong for plan in made.values()):
        raise next(plan.wrong for plan in made.values() if plan.wrong)
    columns = (size() or (None, 0))[0]
    print(_left(rows, columns))
    print()
    width = min(WIDTH, columns or WIDTH)
    print(wrap(printable(_recommendation(found, choice)), width=width, prefix="a run   "))
    asked = {**given, "DEVICE": "cpu"} if found.fault else given
    device = asked.get("DEVICE", choice.device)
    print("\n".join(_next(asked, made.get(choice.cards or device), on_cpu=device == "cpu")))
    return FINISHED


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """The result of the request on one part of the machine."""

    text: str
    fits: bool = False
    change: str = ""
    """NAME=value with which it fits, where it does not."""
    wrong: ConfigError | None = None
    """The error about a request that contradicts this part; None when it does not."""


def _planned(
    asked: Mapping[str, str], environ: Words, project_dir: Path, *, here: Sequence[float], apple: bool
) -> Made:
    """The plan in a few words, or what would be needed, or what contradicts it."""
    try:
        spec = resolve(asked, project_dir=project_dir, environ=environ, run_suffix="x", site=Site(apple=apple))
        chosen = choose(spec, here=here).chosen
    except NothingFits as error:
        # The memory and the number of this part are what they are.
        ways = [change for change in error.changes if change.startswith(OF_REQUEST) and " " not in change]
        advice = f": try {' or '.join(ways)}" if ways else ""
        text = f"does not fit: it takes {gib(error.needed_bytes)} GiB{advice}"
        return Made(text=text, change=next(iter(ways), ""))
    except ConfigError as error:
        return Made(text=str(error), wrong=error)
    peak = chosen.estimate.peak_bytes / GIB
    batch = f"{chosen.micro_batch_size} x {chosen.gradient_accumulation_steps}"
    text = f"{chosen.label}, {batch}, {peak:.1f} GiB{', tight' * chosen.tight}"
    return Made(text=text, fits=True)


def _next(given: Words, of_run: Made | None, *, on_cpu: bool) -> list[str]:
    """The commands to type next, a line each, which work for the part that a run gets. A model that a CPU barely holds
    would train on it for days."""
    if of_run and not of_run.fits and (on_cpu or not of_run.change):
        data = shlex.quote(given.get("DATA", "records.jsonl"))
        return [
            f"next    make hardware MODEL={SMALL_MODEL}    (a small one)",
            f"or      make submit DATA={data}    (trains on a cluster)",
        ]
    changed, _, value = of_run.change.partition("=") if of_run else ("", "", "")
    asked = {**given, **({changed: value} if changed else {})}
    words = "".join(f" {name}={shlex.quote(text)}" for name, text in asked.items() if name != "DATA")
    data = shlex.quote(given.get("DATA", "records.jsonl"))
    of_data = f" DATA={data}" if "DATA" in given else ""
    return [f"next    make plan TO=local{words}{of_data}", f"then    make run{words} DATA={data}"]


def _free(card: Card) -> str:
    return "?" if card.free_gib is None else f"{card.free_gib:.1f}"


def _recommendation(found: Machine, choice: Choice) -> str:
    why = f"; {choice.why}" if choice.why else ""
    if found.fault:
        return f"gets no GPU ({found.fault}); DEVICE=cpu trains without"
    if choice.cards and (choice.vram_gib or 0) < LEAST_GIB:
        return f"finds no room on its cards{why}"
    if choice.cards and choice.vram_gib:
        which = ", ".join(str(found.cards.index(card)) for card in choice.cards)
        return f"takes GPUS={len(choice.cards)} VRAM={choice.vram_gib:g} (card {which}) where nothing is said{why}"
    return f"takes DEVICE={choice.device} where nothing is said{why}"


def _left(rows: Sequence[Sequence[str]], columns: int | None) -> str:
    """The table with its last column aligned left, since that column is long, and longest for a refusal. On a terminal
    of so many `columns` its text goes on in further lines; in a file each row is one line."""
    lines = format_table([row[:-1] for row in rows], rules_before=(1,)).split("\n")
    behind = max(map(len, lines)) + 2
    room = max(LEAST_COLUMNS, columns - behind) if columns else MOST_CHARACTERS
    heading, *cells = [wrap(printable(row[-1]), width=room).split("\n") for row in rows]
    rule = "-" * max(len(line) for cell in (heading, *cells) for line in cell)
    below = "\n" + " " * behind
    return "\n".join(
        f"{line:<{behind}}{below.join(cell)}" for line, cell in zip(lines, (heading, [rule], *cells), strict=True)
    )
