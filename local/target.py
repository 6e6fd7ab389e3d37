"""The target on this machine: its cores, its memory, its GPUs, and the runs that were begun on it before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from launcher.scheduler import Batch, Found, Words, WordsOf
from local.render import NO_LIMIT_MIN, render
from planner.choose import HEADROOM_SHARE, choose
from planner.job import THIS_MACHINE, JobSpec
from planner.plan import Plan
from planner.request.file_settings import check_trainer_accepts
from planner.request.site import Site
from planner.request.variables import parse_given
from planner.values import ONE_SLICE
from trainer.env_file import read_env_file
from trainer.files import RECORD_NAME
from trainer.node.machine import METAL_SHARE, Card, Choice, read_machine
from trainer.node.machine import Machine as Hardware
from trainer.outcome import ConfigError
from trainer.text import GIB, gib

if TYPE_CHECKING:
    from launcher.records import Run

# The fields that `validate data` changes in a request, those that find-batch-size changes.
OF_LENGTHS = ("length_source", "max_length", "supervised_tokens", "images_per_sample")
OF_BATCH = ("measured_with", "measured_batch", "measured_peak_gib")
OF_IMAGE = ("IMAGE", "BINDS")
# What is taken from the machine unless one of them is said, and what that decides.
OF_MACHINE = ("GPUS", "VRAM", "GPU_TYPE", "DEVICE")
OF_CARDS = ("gpus", "vram_gib", "vram_source", "site")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A launcher.scheduler.Target: members of a sweep run one after another."""

    given: Words
    asked: frozenset[str]
    """The names of the variables that a person gave."""
    environ: Words
    project_dir: Path
    in_image: bool = False
    hardware: Hardware
    choice: Choice
    """The part of the hardware for a run that does not name any."""
    paths_elsewhere: ClassVar[bool] = False
    parallel: ClassVar[int | None] = 1

    def complete(self, spec: JobSpec, *, is_new: bool, is_named: bool) -> JobSpec:
        if spec.resources.nodes > 1:
            raise ConfigError(
                "run uses this machine only; make submit takes several", name="NODES", given=spec.resources.nodes
            )
        if spec.slurm.runtime != "none":
            raise ConfigError(
                "is for clusters",
                name="RUNTIME",
                given=spec.slurm.runtime,
                advice="run uses this checkout's environment, leave it out",
            )
        cards = self.hardware.cards
        if spec.resources.device == "cuda" and (fault := self.hardware.fault):
            raise ConfigError(f"{fault}: DEVICE=cpu trains without GPUs")
        if spec.resources.device == "cuda" and not cards and not self.hardware.driver_only:
            name, text = self._said("DEVICE", *OF_MACHINE)
            advice = "say DEVICE=cpu, or submit" if name == "DEVICE" else "leave it out, or submit"
            raise ConfigError(self.hardware.without, name=name, given=text or "cuda", advice=advice)
        if spec.resources.device == "cuda" and cards:
            self._refuse_absent(spec, is_new=is_new)
        if self.in_image and spec.resources.device == "mps":
            raise ConfigError("a container cannot see Apple's GPU", name="DEVICE", given="mps", advice="make run")
        if is_new and "TIME" not in self.given:
            spec = spec.but(time_limit_min=NO_LIMIT_MIN)
        # What was recorded is Apple's part already.
        return self._on_the_host(spec) if is_new and not spec.resources.gpus else spec

    def _refuse_absent(self, spec: JobSpec, *, is_new: bool) -> None:
        """Raises ConfigError for more cards, or larger ones, than are here to train on."""
        cards, asked = self.hardware.cards, spec.resources
        fit = [card for card in cards if not card.unfit]
        if not fit:
            name, text = self._said("DEVICE", *OF_MACHINE)
            raise ConfigError(self.choice.why, name=name, given=text or "cuda", advice="DEVICE=cpu, or submit")
        whole = [card for card in fit if not card.is_slice]
        if asked.gpus > max(1, len(whole)) and len(whole) < len(fit):
            raise ConfigError(ONE_SLICE, name="GPUS", given=asked.gpus, advice=f"GPUS={max(1, len(whole))}, or submit")
        if asked.gpus > len(fit):
            shows = f"this machine shows {len(cards)}"
            if others := [f"{card.name} {card.cannot}" for card in cards if card.unfit]:
                shows += f", and {', '.join(dict.fromkeys(others))}"
            advice = f"GPUS={len(fit)}, or submit" if is_new else "the run goes on where it finds as many"
            raise ConfigError(shows, name="GPUS", given=asked.gpus, advice=advice)
        largest = max(fit, key=lambda card: card.total_gib)
        if asked.vram_gib > largest.total_gib / (1 - HEADROOM_SHARE):
            name, text = self._said("VRAM", "GPU_TYPE")
            raise ConfigError(
                f"this machine's {largest.name} has {largest.total_gib:.1f} GiB",
                name=name,
                given=text or f"{asked.vram_gib:g}",
                advice="leave it out, or submit" if is_new else "the run goes on where a card is as large",
            )

    def _said(self, *names: str) -> tuple[str, str]:
        """The first of these variables that a person gave, and its text; when none was given, the first, and ""."""
        return next(((name, self.given[name]) for name in names if name in self.asked), (names[0], ""))

    def _on_the_host(self, spec: JobSpec) -> JobSpec:
        """`spec` with this machine's memory, of which Metal lets Apple's GPU use a part."""
        share = METAL_SHARE if spec.resources.device == "mps" and "MEM" not in self.asked else 1
        return spec.but(mem_gib=max(1, int(spec.resources.mem_gib * share)), vram_source=THIS_MACHINE)

    @property
    def site(self) -> Site:
        """This machine's hardware as defaults below everything that was given."""
        vram = self.choice.vram_gib
        return Site(
            source=THIS_MACHINE,
            device=self.choice.device,
            gpus=max(1, len(self.choice.cards)),
            gpu_gib={self.choice.cards[0].name: vram} if vram else {},
            apple=self.hardware.apple,
        )

    def plan(self, spec: JobSpec) -> Plan:
        try:
            decided = choose(self._as_begun(spec), here=self.offers)
        except ConfigError as error:
            if error.name == "MODEL" and (why := self._why(spec)):
                advice = "a smaller MODEL= is faster there, and make submit trains on a cluster"
                raise ConfigError(f"{why}, and on its CPU {error}; {advice}") from error
            if error.name == "MODEL" and spec.resources.device == "cuda" and (held := self.hardware.held):
                raise ConfigError(f"{error}; {held}", name=error.name) from error
            raise
        self._refuse_held(decided)
        check_trainer_accepts(decided, self.project_dir)
        return replace(decided, notes=(*decided.notes, *self._notes(decided)))

    @property
    def offers(self) -> tuple[float, ...]:
        """The GiB of each card that a plan may count on."""
        return tuple(card.offered_gib for card in self.hardware.cards if not card.unfit)

    def _refuse_held(self, plan: Plan) -> None:
        """Raises ConfigError where a run that was begun on more cards finds some held by others."""
        if not (self.project_dir / plan.spec.run_dir / RECORD_NAME).is_file():
            return
        needed = plan.chosen.estimate.peak_bytes
        cards = self.cards(plan.spec)
        free = [card for card in cards if not card.held_gib or card.offered_gib * GIB >= needed]
        if len(free) < len(cards):
            said = f"the run was begun on as many and takes {gib(needed)} GiB of each, which {len(free)} of them offer"
            raise ConfigError(
                said, name="GPUS", given=len(cards), advice=f"{self.hardware.held}: it goes on when they are free"
            )

    def _why(self, spec: JobSpec) -> str:
        """Why a run is planned for the CPU although nobody asked for it; "" for other runs."""
        said = spec.resources.device != "cpu" or self.choice.device != "cpu" or not self.asked.isdisjoint(OF_MACHINE)
        return "" if said else self.choice.why

    def _notes(self, plan: Plan) -> list[str]:
        """Notes for a person about decisions of this machine."""
        found, notes = self.hardware, []
        if why := self._why(plan.spec):
            notes.append(f"{why[0].upper()}{why[1:]}, so this is for its CPU; make submit trains on a cluster.")
        elif plan.spec.resources.device == "cuda" and (why := self.choice.why) and self.asked.isdisjoint(OF_MACHINE):
            notes.append(f"{why[0].upper()}{why[1:]}: see make hardware.")
        if plan.chosen.config == "cpu_mps" and plan.chosen.estimate.peak_bytes > found.free_gib * GIB:
            free = f"{found.free_gib:.1f} of {found.memory_gib} GiB"
            notes.append(f"Only {free} are free now: other programs hold the rest, and must end before this run fits.")
        return notes

    def _as_begun(self, spec: JobSpec) -> JobSpec:
        """`spec` with the measured micro-batch and the time limit with which its run began, and with its lengths if
        they keep the same records: if a measurement was made or lost since then, the run still continues as planned.

        Raises:
            ConfigError: the run's record cannot be read.
        """
        from launcher.records import read_run
        from launcher.restore_spec import read_spec

        folder = self.project_dir / spec.run_dir
        if not (folder / RECORD_NAME).is_file():
            return spec
        source = str(folder / RECORD_NAME)
        begun = read_spec(read_run(folder).record["spec"], project_dir=self.project_dir, source=source)
        before, now = begun.training.max_length, spec.training.max_length
        longest = {begun.sources.length_source: before, spec.sources.length_source: now}
        same = before == now or longest.get("measured", math.inf) <= longest.get("MAX_LENGTH", 0)
        kept = [*OF_BATCH, *(OF_LENGTHS if same else ()), *(() if "TIME" in self.given else ("time_limit_min",))]
        if self.asked.isdisjoint(OF_MACHINE) and spec.resources.device == begun.resources.device:
            kept += OF_CARDS  # which cards are free may have changed
        return spec.but(**{name: begun.value(name) for name in kept})

    def render(self, batch: Batch) -> str:
        return render(batch, self.shown(batch.spec))

    def cards(self, spec: JobSpec) -> tuple[Card, ...]:
        """Those that a run of `spec` gets: as many as it was planned for, whoever decided that and when."""
        uses = spec.resources.gpus and spec.resources.device == "cuda"
        return self.hardware.choice(spec.resources.gpus).cards if uses else ()

    def shown(self, spec: JobSpec) -> Words:
        """CUDA_VISIBLE_DEVICES, where a run of `spec` is to see fewer cards than there are."""
        chosen = self.cards(spec)
        fewer = chosen and chosen != self.hardware.cards
        return {"CUDA_VISIBLE_DEVICES": ",".join(card.uuid for card in chosen)} if fewer else {}

    def ready(self, batch: Batch, *, again: bool = False) -> Batch:
        from local.submit import ready

        return ready(batch, self.environ, self.plan, again=again)

    def submit(self, batch: Batch, words: WordsOf) -> int:
        from local.submit import submit

        environ = {**self.environ, **self.shown(batch.spec)}
        if self.in_image:
            from local.machine.docker import attempts

            return submit(batch, attempts(batch, environ, self.project_dir), "docker-run")
        from local.submit import supervised

        return submit(batch, supervised(batch, environ, self.project_dir))

    def resubmit(
        self, found: Found[Run], runs: Sequence[Run], batch: Batch, changes: Mapping[str, Any], words: WordsOf
    ) -> int:
        return self.submit(batch, words)


def target(given: Words, environ: Words, project_dir: Path, *, in_image: bool = False) -> Machine:
    """The target, with this machine's cores and memory unless they were given; also its memory for MEM=none.

    Raises:
        ConfigError: a variable that does not apply to a process of this machine, or more memory than it has.
    """
    if not in_image and (odd := [name for name in given if name in OF_IMAGE]):
        raise ConfigError("on this machine only docker-run takes it, leave it out", name=odd[0], given=given[odd[0]])
    values = parse_given({name: text for name, text in given.items() if name in ("MEM", "GPUS", "DEVICE")})
    seen = {**read_env_file(project_dir / ".env"), **environ}
    here = read_machine(seen, with_gpus=values.device in (None, "cuda"))
    if values.mem is not None and values.mem > here.memory_gib:
        limit = ", by its control group" if here.limited else ""
        said = f"this machine has {here.memory_gib} GiB{limit}"
        raise ConfigError(said, name="MEM", given=given["MEM"], advice="leave it out")
    # More threads than cores would only wait for each other.
    memory = here.memory_gib if values.mem is None else values.mem
    mine = {"CPUS": str(here.cores), **given, "MEM": str(memory)}
    return Machine(
        given=mine, asked=frozenset(given), environ=environ, project_dir=project_dir, in_image=in_image, hardware=here,
        choice=here.choice(values.gpus),
    )  # fmt: skip
