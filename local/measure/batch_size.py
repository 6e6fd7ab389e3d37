"""`python -m local find-batch-size`: finds the largest micro-batch that really fits, by trying; the next plan uses
it. Each try is a job of its own, launched as the run would be: two optimizer steps on the longest record, on every
rank. A try that runs out of memory on any rank has failed, and cannot affect the next."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launcher import cli, starting
from local.measure.memory_profile import LIMIT_ENV, LONGEST_ENV, OUT_OF_MEMORY
from local.target import Machine, target
from planner.choose import MICRO_BATCH_SIZES, choose
from planner.fitting import Batch, write_batch
from planner.job import JobSpec
from planner.launch import launch_of
from planner.plan import Plan
from planner.request.variables import OF_SWEEPS, help_text, read_given, refuse_untaken
from trainer.data.lengths import data_digest
from trainer.env_file import read_env_file
from trainer.flags import answer_help
from trainer.log import last_words
from trainer.outcome import FAILED, FINISHED, ConfigError
from trainer.settings import say
from trainer.supervise import complete_command
from trainer.text import format_table, gib

PROJECT_DIR = Path(__file__).resolve().parents[2]
USAGE = """usage: python -m local find-batch-size [--gpus 2 ...] [--limit-gib X] [--json]

Makes two real steps on the longest record for micro-batches that keep the effective batch, in the configuration that
the plan chooses, each in a job of its own, halving the range until the largest that fits is known. What is found is
kept beside the data; the next plan for the same request takes it, and says so. --limit-gib pretends that a process has
only so much memory; what is found with it is not kept. Takes the options of run:"""
KILLED = r"SIGKILL|SIGABRT|std::bad_alloc"  # how a process ends whose host has no more memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    micro_batch_size: int
    fits: bool
    peak_bytes: int | None
    """The most bytes that any rank needed; None when the try did not fit."""
    seconds: float


def main(argv: Sequence[str]) -> int:
    """Runs `find-batch-size`. Raises ConfigError for a request that cannot work on this machine, or for steps that
    fail for another reason than memory."""
    answer_help(argv, help_text(USAGE))
    words, limit, as_json = own_words(argv)
    here, asked = request_here(words)
    spec = asked.but(measured_batch=0, measured_with=None)
    plan = choose(spec, here=here.offers)
    share = plan.effective_batch_size // plan.num_processes
    probes: list[Probe] = []

    with tempfile.TemporaryDirectory(prefix="trainyard-batch-size-") as folder:
        environment = {**read_env_file(PROJECT_DIR / ".env"), **os.environ, **dict(plan.env), **here.shown(spec)}
        environment[LONGEST_ENV] = f"{folder}/longest.json"
        if limit is not None:
            environment[LIMIT_ENV] = str(limit)

        def fits(micro: int) -> bool:
            say([f"micro-batch {micro} ..."])
            probes.append(probe(plan, micro, share, environment))
            return probes[-1].fits

        found = largest(sorted(m for m in MICRO_BATCH_SIZES if share % m == 0), fits)
    probes.sort(key=lambda p: p.micro_batch_size)
    best = next((p for p in probes if p.micro_batch_size == found), None)
    report: dict[str, Any] = {
        "config": plan.chosen.label, "processes": plan.num_processes, "max_length": spec.training.max_length,
        "effective_batch_size": plan.effective_batch_size, "limit_gib": limit, "micro_batch_size": found,
        "gradient_accumulation_steps": share // found if found else None, "tried": [asdict(p) for p in probes],
        # What was found with less memory than there is says nothing of the next run.
        "kept": keep(spec, plan, best) if best and limit is None else None,
    }  # fmt: skip
    print(json.dumps(report, indent=1) if as_json else render(report))
    return FINISHED if found else FAILED


def request_here(words: Sequence[str]) -> tuple[Machine, JobSpec]:
    """This machine, and the request to it. Raises ConfigError for one that it cannot run."""
    given = read_given(words, os.environ)
    if odd := [name for name in OF_SWEEPS if name in given]:
        raise ConfigError(
            "only make sweep takes it, leave it out for find-batch-size", name=odd[0], given=given[odd[0]]
        )
    refuse_untaken(given, "local")
    here = target(given, os.environ, PROJECT_DIR)
    suffix = cli.fresh_suffix()
    return here, starting.request(here, here.given, os.environ, PROJECT_DIR, run_suffix=suffix, is_named=True)


def own_words(argv: Sequence[str]) -> tuple[list[str], float | None, bool]:
    """(the options of run, --limit-gib, --json). Raises ConfigError."""
    words, limit = [word for word in argv if word != "--json"], None
    joined = [word.partition("=") for word in words]
    for place, (flag, equals, text) in enumerate(joined):
        if flag.replace("_", "-") == "--limit-gib":
            text = text if equals else next(iter(words[place + 1 : place + 2]), "")
            if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or not float(text):
                raise ConfigError(name="--limit-gib", given=text, allowed="takes a number of GiB")
            limit = float(text)
            del words[place : place + (1 if equals else 2)]
            break
    return words, limit, len(argv) > len([word for word in argv if word != "--json"])


def largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of the ascending `sizes` that fits, assuming that no size above one that does not fit would fit;
    None when none fits."""
    low, high = 0, len(sizes)  # sizes[:low] fit, sizes[high:] do not
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low - 1] if low else None


def probe(plan: Plan, micro: int, share: int, environment: dict[str, str]) -> Probe:
    """Try two steps with that micro-batch. Raises ConfigError when they fail for another reason than memory."""
    candidate = replace(plan.chosen, micro_batch_size=micro, gradient_accumulation_steps=share // micro)
    run = launch_of(plan.spec, candidate)
    launch = replace(run, module="local.measure.memory_profile", settings={**run.settings, "json": "true"})
    began = time.monotonic()
    command, variables = complete_command(launch, environment)
    done = subprocess.run(
        command, cwd=PROJECT_DIR, env={**environment, **variables}, capture_output=True, text=True, check=False
    )
    seconds = round(time.monotonic() - began, 1)
    if done.returncode == 0:
        peak = json.loads(done.stdout[done.stdout.index("{\n") :])["process_bytes"]
        return Probe(micro_batch_size=micro, fits=True, peak_bytes=peak, seconds=seconds)
    if OUT_OF_MEMORY in done.stderr or re.search(KILLED, done.stderr):
        return Probe(micro_batch_size=micro, fits=False, peak_bytes=None, seconds=seconds)
    raise ConfigError(f"micro-batch {micro} cannot be tried: {last_words(done.stderr)}")


def keep(spec: JobSpec, plan: Plan, best: Probe) -> str | None:
    """The path of the file that keeps the result for the next plan; None, with a message, when it cannot be
    written."""
    found = Batch(
        request=Batch.depends_on(spec, plan.chosen.label), data_sha256=data_digest(spec.data),
        micro_batch_size=best.micro_batch_size, peak_bytes=best.peak_bytes or 0,
    )  # fmt: skip
    try:
        return str(write_batch(spec.data, found))
    except OSError as error:
        say([f"the result was not kept ({error})"])
        return None


def render(report: dict[str, Any]) -> str:
    rows = [["micro-batch", "fits", "peak, GiB", "seconds"]]
    for tried in report["tried"]:
        peak = gib(tried["peak_bytes"]) if tried["fits"] else "out of memory"
        rows.append([str(tried["micro_batch_size"]), "yes" if tried["fits"] else "no", peak, str(tried["seconds"])])
    many = "es" if report["processes"] > 1 else ""
    first = (
        f"{report['config']} on {report['processes']} process{many}, {report['max_length']} tokens a sample at most, "
        f"{report['effective_batch_size']} samples a step"
    )
    micro, accumulation = report["micro_batch_size"], report["gradient_accumulation_steps"]
    last = [f"largest  micro-batch {micro} x accumulation {accumulation}"] if micro else ["largest  none fits"]
    if micro and report["limit_gib"] is not None:
        last.append(f"kept     no: {report['limit_gib']:g} GiB were pretended, and a run has what there is")
    if report["kept"]:
        last.append(f"kept     {report['kept']}: the next plan for this request takes it")
    return "\n\n".join([first, format_table(rows, rules_before=(1,)), "\n".join(last)])
