"""Describes this machine for training: NVIDIA cards, Apple's GPU, cores and memory. Imports no torch, and allocates
nothing. The sources are nvidia-smi, the kernel, and the control groups of this process."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Device
from trainer.node import cgroups, gpus
from trainer.node.host import host_memory
from trainer.outcome import SickNode
from trainer.text import GIB

DRIVER = Path("/proc/driver/nvidia/version")
# The driver itself keeps up to this share of a card; other processes hold whatever else is missing.
DRIVER_SHARE = 0.05
# Metal lets a process have about two thirds of a small Mac's memory: an assumption, not measured.
METAL_SHARE = 2 / 3
NO_GPU = "No devices were found"  # nvidia-smi's words on a machine with a driver and no GPU


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A GPU, or a slice of one (MIG)."""

    uuid: str
    """The id in the form for CUDA_VISIBLE_DEVICES."""
    name: str
    total_gib: float
    free_gib: float | None
    """None for slices, of which nvidia-smi does not report it."""
    capability: float
    is_slice: bool = False
    fault: str = ""
    """What nvidia-smi says in place of the card's values; empty for a card that answers."""

    @property
    def held_gib(self) -> float:
        """Memory that other processes hold."""
        held = 0.0 if self.free_gib is None else self.total_gib - self.free_gib
        return held if held > DRIVER_SHARE * self.total_gib else 0.0

    @property
    def offered_gib(self) -> float:
        """Memory that a plan may count on, rounded down to a tenth when other processes hold a part."""
        left = self.total_gib - self.held_gib
        return int(left * 10) / 10 if self.held_gib else round(left, 1)

    @property
    def unfit(self) -> str:
        """Why the card cannot train, in a few words; empty when it can."""
        if self.fault:
            return f"does not answer: {self.fault}"
        return "" if self.capability >= gpus.LEAST_CAPABILITY else "no bf16"

    @property
    def cannot(self) -> str:
        """What an unfit card lacks, as the rest of a sentence."""
        return "does not answer" if self.fault else "has no bf16, in which training computes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The device and cards of a run that sets neither GPUS, VRAM nor DEVICE."""

    device: Device
    cards: tuple[Card, ...] = ()
    why: str = ""
    """Why these and no more, in words."""

    @property
    def vram_gib(self) -> float | None:
        """The memory that the fullest of the cards offers; None when that is not known."""
        return min((card.offered_gib for card in self.cards), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    cards: tuple[Card, ...] = ()
    """The cards that CUDA_VISIBLE_DEVICES leaves, in the order of nvidia-smi."""
    hidden: bool = False
    """Whether CUDA_VISIBLE_DEVICES hides some cards."""
    silent: str = ""
    """Why nvidia-smi tells nothing of the cards; empty when it does, and without it."""
    has_smi: bool = False
    driver_only: bool = False
    """Whether there is a driver but no nvidia-smi, as in some containers: the cards exist, but are not known."""
    apple: bool = False
    cores: int
    memory_gib: int
    """The most memory that this process may take: the machine's, or less by a control group."""
    free_gib: float
    """The part of that memory which is free now."""
    limited: bool = False
    """Whether a control group leaves less than the machine has."""

    @property
    def held(self) -> str:
        """The memory of the cards that other processes hold, in words; empty when they hold none."""
        sizes: dict[str, list[str]] = {}
        for card in self.cards:
            if card.held_gib:
                sizes.setdefault(card.name, []).append(f"{card.held_gib:.1f}")
        return "; ".join(f"{', '.join(some)} GiB of {name} are held by others" for name, some in sizes.items())

    @property
    def fault(self) -> str:
        """Why there are cards, and none can be used until somebody mends them; empty otherwise."""
        if self.silent or not self.cards or any(not card.unfit for card in self.cards):
            return self.silent
        return next((f"{card.name} {card.unfit}" for card in self.cards if card.fault), "")

    @property
    def without(self) -> str:
        """Why no card is offered, for a machine that offers none."""
        if self.hidden:
            return "CUDA_VISIBLE_DEVICES hides every card"
        return "nvidia-smi finds no GPU" if self.has_smi else "this machine has no NVIDIA driver"

    def choice(self, count: int | None = None) -> Choice:
        """The device, and the cards of one kind that offer most together, where each counts as much as the fullest.
        With `count`, so many cards, when a kind has them."""
        if self.driver_only:
            return Choice(device="cuda", why="the driver's tools are not here, so one card of an unknown size is taken")
        if self.fault:
            return Choice(device="cuda", why=self.fault)
        if self.cards:
            fit = [card for card in self.cards if not card.unfit]
            if fit:
                return _of_cards(fit, self, count)
            return Choice(device="cpu", why=f"{self.cards[0].name} {self.cards[0].cannot}")
        if self.apple:
            return Choice(device="mps", why="Apple's GPU; nobody has run it there yet")
        return Choice(device="cpu", why=self.without)


def _of_cards(fit: Sequence[Card], here: Machine, asked: int | None) -> Choice:
    best: tuple[Card, ...] = ()
    for name in dict.fromkeys(card.name for card in fit):
        kind = sorted((card for card in fit if card.name == name), key=lambda card: -card.offered_gib)
        # Processes of one run cannot talk to each other across slices.
        counts = range(1, 2 if kind[0].is_slice else len(kind) + 1)
        for count in counts if asked is None else [each for each in counts if each == asked]:
            if _worth(taken := kind[:count]) > _worth(best):
                best = tuple(taken)
    best = best or tuple(fit[:asked])
    told = [f"{card.name} {card.cannot}" for card in here.cards if card.fault]
    told += [here.held] if here.held else []
    kinds = {card.name for card in here.cards}
    if best[0].is_slice and len(here.cards) > 1:
        told.append("one run uses one slice")
    elif len(kinds) > 1:
        told.append(f"{len(kinds)} kinds are here, and one run uses one")
    order = [card for card in here.cards if card in best]
    return Choice(device="cuda", cards=tuple(order), why="; ".join(told))


def _worth(cards: Sequence[Card]) -> tuple[float, float]:
    """(the memory that the cards offer together, each counted as the fullest; the memory of the fullest)."""
    each = min((card.offered_gib for card in cards), default=0.0)
    return len(cards) * each, each


def read_machine(environ: Mapping[str, str], *, with_gpus: bool = True) -> Machine:
    """This machine; nvidia-smi is asked only `with_gpus`."""
    total, available = host_memory()
    limits = list(cgroups.memory_limits())
    most = min([total, *(limit for limit, _ in limits)])
    cards: tuple[Card, ...] = ()
    hidden, silent = False, ""
    smi = with_gpus and bool(shutil.which("nvidia-smi"))
    if smi:
        try:
            found = read_cards(gpus.smi(*gpus.GPU_QUERY), gpus.smi("-L"))
            cards = _visible(found, environ.get("CUDA_VISIBLE_DEVICES"))
            hidden = len(cards) < len(found)
        except SickNode as error:
            silent = "" if NO_GPU in error.words else error.words
    return Machine(
        cards=cards,
        hidden=hidden,
        silent=silent,
        has_smi=smi,
        driver_only=not smi and DRIVER.exists(),
        apple=platform.system() == "Darwin" and platform.machine() == "arm64",
        cores=_cores(),
        memory_gib=max(1, most // GIB),
        free_gib=min([available, *(left for _, left in limits)]) / GIB,
        limited=most < total,
    )


def read_cards(query: str, listed: str) -> tuple[Card, ...]:
    """The cards in the answer to gpus.GPU_QUERY; a card that `nvidia-smi -L` shows as divided is replaced by its
    slices."""
    cards: list[Card] = []
    for gpu in gpus.read_gpus(query):
        whole = Card(
            uuid=gpu.uuid, name=gpu.name, total_gib=gpu.total_gib, free_gib=None if gpu.fault else gpu.free_gib,
            capability=gpu.capability, fault=_in_short(gpu.fault),
        )  # fmt: skip
        cards += ([] if gpu.fault else _slices(listed, gpu)) or [whole]
    return tuple(cards)


def _in_short(fault: str) -> str:
    """What stands in place of a value in a line such as `GPU-1, NVIDIA A100, [Unknown Error], [Unknown Error], 8.0`."""
    found = re.search(r"\[[^]]*\]", fault)
    return found[0] if found else fault


def _slices(listed: str, gpu: gpus.Gpu) -> list[Card]:
    """The slices in the lines below that GPU's: `  MIG 3g.20gb     Device  0: (UUID: MIG-...)`, whose name says the
    size."""
    found: list[Card] = []
    inside = False
    for line in listed.splitlines():
        if line.startswith("GPU "):
            inside = gpu.uuid in line
        elif inside and (words := re.match(r"\s+MIG (\S*?(\d+)gb\S*)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)", line)):
            found.append(
                Card(
                    uuid=words[3], name=f"{gpu.name} MIG {words[1]}", total_gib=float(words[2]), free_gib=None,
                    capability=gpu.capability, is_slice=True,
                )
            )  # fmt: skip
    return found


def _visible(cards: Sequence[Card], listed: str | None) -> tuple[Card, ...]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, in its order. Raises SickNode for a card that does not exist."""
    if listed is None:
        return tuple(cards)
    return tuple(card or gpus.not_listed(word, cards) for word, card in gpus.read_visible(cards, listed))


def _cores() -> int:
    """The number of cores that this process may use."""
    try:
        most = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        most = os.cpu_count() or 1
    return min([most, *cgroups.core_limits()])
