"""Fuzzing of all that reads a file which somebody else may have written: no traceback, no endless work, no growth.

    python tests/fuzz.py MINUTES [READER ...]     minutes of CPU time for all readers together; left out: every reader
    python tests/fuzz.py --until 10 [READER ...]  each reader, until all runs on its code come to ten minutes

Seeds are what is really written. An input is changed at random, as text and, where it is JSON, by its values, and is
kept when lines of ours run that no input ran before. A reader may return or raise ConfigError; anything else, more than
MOST_CPU_S of a processor or more than MOST_MIB of memory is a finding: it is printed and left in a file. What was spent
is added to benchmarks/results/fuzz.json after each minute, so that a run can be ended at any time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from fuzz_results import Spent, commit_here, keep_spent, read_spent, still_counts  # noqa: E402

ROOMS = tuple(f"{ROOT}/{room}/" for room in ("trainer", "planner", "launcher", "slurm", "k8s", "local"))
MOST_CPU_S = 5.0  # under the tracer, which makes everything ten times slower
MOST_MIB = 400
LONGEST = 1 << 14
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", "x", "..", "/etc/passwd", "\x00", "\x1b[2J", "\u202e", "\ud800", "a\nb", "x" * 5000, "$(id)", "1e5", "~"),
    *([], {}, [[]], [None], {"": None}, {"x": {"x": {}}}, [0] * 300, {str(n): n for n in range(300)}),
)  # fmt: skip
TOKENS = [
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"NaN", b"1e999", b"-", b"\\ud800", b"\\", b"\n"),
    *(b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\x1f\x8b", b"\x1b[2J", "\u202e".encode(), b"[" * 500, b"9" * 5000),
    *(b"&a ", b"*a", b"<<: ", b"- ", b": ", b"? ", b"!!python/object:os.system ", b"!!set ", b"|\n", b"#", b"'"),
    *(b"=", b"export ", b"hf_", b"://u:p@h", b"${HOME}", b"%", b"~", b"<image>", b"data:;base64,", b"../", b"\t"),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reader:
    name: str
    """Of the file that is written into the folder that `read` gets."""
    seeds: list[bytes]
    read: Callable[[Path], object]
    allowed: tuple[type[Exception], ...] = ()
    """What it may raise besides ConfigError."""


class TooSlow(BaseException):
    """Of BaseException, so that no reader takes it for a damaged file."""


@dataclass
class Corpus:
    inputs: list[bytes]
    lines: set[tuple[str, int]] = field(default_factory=set)
    runs: int = 0
    cpu_s: float = 0.0
    most_cpu_s: float = 0.0
    most_mib: int = 0


def fuzz(reader: Reader, seconds: float, seed: int = 0, corpus: Corpus | None = None) -> tuple[Corpus, str]:
    """What was tried, added to `corpus`, and the first finding; empty where there is none."""
    drawn, corpus = random.Random(seed), corpus or Corpus([])
    start = time.process_time()  # so that a busy machine tries as much
    fault = _fuzz(reader, start + seconds, drawn, corpus)
    corpus.cpu_s += time.process_time() - start
    return corpus, fault


def _fuzz(reader: Reader, end: float, drawn: random.Random, corpus: Corpus) -> str:
    with tempfile.TemporaryDirectory(prefix="trainyard-fuzz-") as place:
        folder = Path(place, "run")
        folder.mkdir()
        for content in _inputs(reader, corpus, drawn, end):
            before = len(corpus.lines)
            corpus.runs += 1
            if fault := _try(reader, folder, content, corpus):
                return f"{fault}\ninput ({len(content)} bytes, kept in {_keep(reader, content)}): {content[:500]!r}"
            if len(corpus.lines) > before and content not in corpus.inputs:
                corpus.inputs.append(content)
    return ""


def cut_short(reader: Reader, every: int) -> str:
    """The first finding where the seeds end behind each `every`-th byte, as a crash or a full disk leaves files."""
    with tempfile.TemporaryDirectory(prefix="trainyard-cut-") as place:
        folder = Path(place, "run")
        folder.mkdir()
        cuts = (content[:size] for content in reader.seeds for size in range(0, len(content) + 1, every))
        return next((fault for content in cuts if (fault := _try(reader, folder, content, Corpus([])))), "")


def _inputs(reader: Reader, corpus: Corpus, drawn: random.Random, end: float) -> Iterator[bytes]:
    for content in [] if corpus.inputs else reader.seeds:
        corpus.inputs.append(content)
        yield content
    while time.process_time() < end:
        content = drawn.choice(corpus.inputs)
        for _ in range(drawn.choice((1, 1, 1, 2, 4))):
            content = (_by_value if drawn.random() < 0.5 else _as_bytes)(content, corpus, drawn)
        yield content[:LONGEST]


def _by_value(content: bytes, corpus: Corpus, drawn: random.Random) -> bytes:
    """One value of a JSON text, or of one of its lines, changed, removed or copied to another place."""
    lines = content.split(b"\n") if content.count(b"\n{") else [content]
    number = drawn.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except (ValueError, RecursionError):
        return _as_bytes(content, corpus, drawn)
    places = list(_places(value))
    if not places:
        return json.dumps(drawn.choice(ODD)).encode()
    holder, key = drawn.choice(places)
    deed = drawn.random()
    if deed < 0.15:
        del holder[key]
    elif deed < 0.3 and isinstance(holder, dict):
        name = drawn.choice(list(holder)) + drawn.choice(("", "x"))
        holder[name] = holder.pop(key)
    elif deed < 0.45:
        other, from_key = drawn.choice(places)
        holder[key] = json.loads(json.dumps(other[from_key])) if from_key in _keys(other) else None
    else:
        holder[key] = drawn.choice(ODD)
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines)


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(_keys(value)) if isinstance(value, (dict, list)) else ():
        yield value, key
        yield from _places(value[key])


def _as_bytes(content: bytes, corpus: Corpus, drawn: random.Random) -> bytes:
    start = drawn.randint(0, len(content))
    stop = min(len(content), start + drawn.choice((0, 1, 2, 8, 40)))
    other = drawn.choice(corpus.inputs)
    cut = drawn.randint(0, len(other))
    put = drawn.choice(
        (
            b"",
            drawn.choice(TOKENS),
            drawn.choice(TOKENS),
            drawn.randbytes(2),
            other[cut : cut + 60],
            content[start:stop] * 3,
        )
    )
    return content[:start] + put + content[stop:]


def _try(reader: Reader, folder: Path, content: bytes, corpus: Corpus) -> str:
    """What is wrong with how the reader takes `content`; the lines of ours that ran are added to the corpus."""
    from trainer.outcome import ConfigError

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename.startswith(ROOMS):
            corpus.lines.add((frame.f_code.co_filename, frame.f_lineno))
            return trace
        return None

    (folder / reader.name).write_bytes(content)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        with _bounded(trace):
            reader.read(folder)
    except ConfigError as error:
        if not str(error).replace("\n", " ").strip() or len(str(error)) > 20_000:
            return f"{reader.name}: a refusal of {len(str(error))} characters"
    except reader.allowed:
        pass
    except (Exception, TooSlow):
        return f"{reader.name}: {traceback.format_exc()[-3000:]}"
    finally:
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        corpus.most_cpu_s = max(corpus.most_cpu_s, time.process_time() - began)
        corpus.most_mib = max(corpus.most_mib, grown)
    return f"{reader.name}: took {grown} MiB" if grown > MOST_MIB else ""


@contextmanager
def _bounded(trace: Any) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooSlow(f"more than {MOST_CPU_S:g} s of a processor")

    heard, traced = signal.signal(signal.SIGVTALRM, ring), sys.gettrace()
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_S)
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(traced)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, heard)


def _keep(reader: Reader, content: bytes) -> Path:
    with tempfile.NamedTemporaryFile(prefix="trainyard-finding-", suffix=f"-{reader.name}", delete=False) as file:
        file.write(content)
    return Path(file.name)


def readers() -> dict[str, Reader]:
    """By what they are called; every file of others that is read without torch."""
    from plans import make_plan

    from k8s.cluster import seen
    from k8s.manifest.site import find_site as find_k8s_site
    from launcher.grid import read_result, read_sweep
    from launcher.progress import run_status, status_text
    from launcher.records import ATTEMPT_NAME, done, read_run, run_record
    from launcher.restore_spec import read_spec
    from launcher.trials import check_config
    from local.machine.attempt import read_attempt
    from local.runs import jobs_of
    from planner.fitting import batch_path, read_batch
    from slurm.cluster.site import find_site
    from trainer import __version__
    from trainer.architecture.shape_file import kept_shape, text_of
    from trainer.config import TrainConfig
    from trainer.data.filled import is_there, read_filled, read_keys, sets_path
    from trainer.data.lengths import lengths_path, read_lengths
    from trainer.data.records import Dataset, load_dataset
    from trainer.data.turns import Record
    from trainer.env_file import read_env_file
    from trainer.files import parse_json
    from trainer.model.warm_start import check_start
    from trainer.node.killed import BEGUN_NAME, begin_attempt
    from trainer.node.stop import ATTEMPTS_NAME, count_attempt
    from trainer.outcome import SickNode, read_outcome
    from trainer.progress_file import PROGRESS_FILE, Progress, progress_text, read_progress
    from trainer.settings import resolve_settings
    from trainer.sweep.trial import TRIAL_NAME, read_trial
    from trainer.training.checkpoint import MANIFEST, check_manifest
    from trainer.training.kept_inspection import KEPT_FILE, kept_text, read_kept
    from trainer.yaml_file import read_yaml

    plan = make_plan(run_id="run")
    record = json.dumps({**run_record(plan), "job_ids": ["42"]}).encode()
    settings_words = ["--config", "train.yaml", "--model", "m", "--data", "d", "--output_dir", "o", "--run_id", "r"]
    metrics = {
        "format": 1,
        "after": {"accuracy": 0.5, "samples": 9},
        "before": None,
        "history": [{"step": 3, "loss": 1.0}],
    }
    ends = {"gemma-run": {"state": "COMPLETED", "at": "2026-11-25T02:00:00Z", "reason": "", "exit_code": 0}}
    sums = {"step": 3, "layout": {"processes": 1}, "files": {MANIFEST: {"bytes": 1, "sha256": "a"}}}
    lengths = {
        "model": "m", "trainyard": "0", "processor_sha256": None, "picture_bytes": {"a.png": 3}, "data_sha256": "a",
        "records": 2, "tokens": {"p100": 9}, "supervised": {"p100": 3}, "learn": "all", "pictures": 1,
    }  # fmt: skip
    filled = {
        "model": "m", "data_sha256": "a", "processor_sha256": None, "trainyard": __version__, "precision": "float32",
        "made_by": "a" * 40, "parts": ["model.vision_tower"], "entries": 1, "size_bytes": 9, "sample": ["b" * 40],
        "picture_bytes": {"a.png": 3},
    }  # fmt: skip
    fits = {"request": {"config": "single_gpu"}, "micro_batch_size": 2, "peak_bytes": 9, "data_sha256": "a"}
    adapter = {"r": 64, "lora_alpha": 128, "base_model_name_or_path": "m", "target_modules": "q", "peft_type": "LORA"}
    sides, record_read = {"train": [0], "eval": []}, Record(turns=(), answer="up", session="s")
    inspected = {"apart": sides, "unfit": sides, "lines": ["1 record left out"], "tokens": [9]}
    here = {"HOME": "/home/ada", "USER": "ada"}

    def run(folder: Path) -> object:
        found = read_run(folder)
        status_text(run_status(found, jobs_of(found)), "RUN=run")
        return read_spec(found.record["spec"], project_dir=folder.parent)

    def read_set(folder: Path) -> object:
        path = sets_path(folder, "a", "m", "float32")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((folder / path.name).read_bytes())
        found = read_filled(folder, "a", "m", "float32")
        return found and (is_there(folder, found), read_keys(folder, found))

    def inspection(folder: Path) -> object:
        """Also with the digest that belongs to what was found: without it nothing else would be looked at."""
        path, dataset = folder / KEPT_FILE, Dataset(train=(record_read,) * 2, eval=(), split="")
        config = TrainConfig(model="m", data="d", output_dir="o", run_id="r")
        known, found = read_kept(path, "k", config, dataset), parse_json(path.read_bytes())
        if known or not isinstance(found, dict) or "result" not in found:
            return known
        path.write_text(kept_text("k", found["result"]))
        return read_kept(path, "k", config, dataset)

    def config_map(folder: Path) -> object:
        labels = {"app.kubernetes.io/instance": "run"}
        found = parse_json((folder / "ends.json").read_bytes())
        data = found if isinstance(found, dict) else {"run.json": record.decode(), "ends.json": json.dumps(found)}
        return seen.read_run({"metadata": {"name": "run", "labels": labels}, "data": data})

    def sweep(folder: Path) -> object:
        found = read_sweep(folder)
        return found and [found.own(index) for index in range(len(found.values))]

    def sweep_yaml(folder: Path) -> object:
        return check_config(read_yaml(folder / "sweep.yaml", "sweep.yaml", takes="x", typed=True), "sweep.yaml")

    def start(folder: Path) -> object:
        return check_start(TrainConfig(model="m", data="d", output_dir="o", run_id="r", init_adapter=str(folder)))

    def data(folder: Path) -> object:
        return [load_dataset(str(folder / "d.jsonl"), text_only=only, write=False) for only in (True, False)]

    texts = [path.read_bytes()[:LONGEST] for path in sorted((ROOT / "examples" / "records").glob("*.json*"))]
    found = [
        Reader(name="run.json", seeds=[record], read=run),
        Reader(name="metrics.json", seeds=[json.dumps(metrics).encode()], read=lambda f: (read_result(f), done(f))),
        Reader(
            name=PROGRESS_FILE,
            seeds=[progress_text(Progress(phase="training", written_at=1.0, step=3, of=9, said="x")).encode()],
            read=read_progress,
        ),
        Reader(name="sweep.json", seeds=[b'{"parallel": 4, "values": [{"LORA": "8"}], "wandb": null}'], read=sweep),
        Reader(name=TRIAL_NAME, seeds=[b'{"run_id": "x", "values": {"lora_r": 8}, "agent": "a"}'], read=read_trial),
        Reader(
            name=ATTEMPT_NAME,
            seeds=[b'{"number": 1, "pid": 7, "started": "9", "host": "h", "began": 1.0, "code": null, "verb": "run"}'],
            read=read_attempt,
        ),
        Reader(
            name=BEGUN_NAME, seeds=[b'{"saved": 0, "killed": 1}', b'{"saved": 0, "killed": 9}'], read=begin_attempt,
            allowed=(SickNode,),
        ),
        Reader(name=ATTEMPTS_NAME, seeds=[b'{"step": 3, "without_new_step": 1}'], read=lambda f: count_attempt(f, 3)),
        Reader(
            name="outcome.json", seeds=[b'{"attempt": "a", "code": 75, "message": "m"}'],
            read=lambda f: read_outcome(f, "a"),
        ),
        Reader(name=MANIFEST, seeds=[json.dumps(sums).encode()], read=check_manifest),
        Reader(name="adapter_config.json", seeds=[json.dumps(adapter).encode()], read=start),
        Reader(
            name=lengths_path("d.jsonl").name, seeds=[json.dumps(lengths).encode()],
            read=lambda f: read_lengths(str(f / "d.jsonl"), "m"),
        ),
        Reader(name=sets_path(Path(), "a", "m", "float32").name, seeds=[json.dumps(filled).encode()], read=read_set),
        Reader(
            name=KEPT_FILE, seeds=[kept_text("k", inspected).encode()], read=inspection, allowed=(ValueError,),
        ),
        Reader(
            name=batch_path("d.jsonl").name, seeds=[json.dumps(fits).encode()],
            read=lambda f: read_batch(plan.spec, str(f / "d.jsonl")),
        ),
        Reader(
            name="shape.json", seeds=[text_of(plan.spec.shape, {}).encode()],
            read=lambda f: kept_shape(parse_json((f / "shape.json").read_bytes()), None), allowed=(ValueError,),
        ),
        Reader(
            name="train.yaml", seeds=[b"max_steps: 20\nlora: high\n# why\nactions: up,down\nlearning_rate: 1e-4\n"],
            read=lambda f: resolve_settings(settings_words, {}, folder=f),
        ),
        Reader(
            name="site.yaml", seeds=[(ROOT / "slurm" / "site.example.yaml").read_bytes()],
            read=lambda f: find_site({"SITE": "site.yaml"}, f, here),
        ),
        Reader(
            name="k8s.yaml", seeds=[(ROOT / "tests" / "golden" / "k8s" / "full_site.site.yaml").read_bytes()],
            read=lambda f: find_k8s_site({"SITE": "k8s.yaml"}, f, here),
        ),
        Reader(name="sweep.yaml", seeds=[(ROOT / "wandb_sweep.yaml").read_bytes()], read=sweep_yaml),
        Reader(name=".env", seeds=[(ROOT / ".env.example").read_bytes()], read=lambda f: read_env_file(f / ".env")),
        Reader(name="d.jsonl", seeds=texts, read=data),
        Reader(name="ends.json", seeds=[json.dumps(ends).encode()], read=config_map, allowed=(ValueError,)),
    ]  # fmt: skip
    return {reader.name: reader for reader in found}


def fuzz_by_name(name: str, seconds: float, corpus: Corpus | None) -> tuple[Corpus, str]:
    return fuzz(readers()[name], seconds, random.randrange(1 << 32), corpus)


def spend(name: str, seeds: list[bytes], seconds: float) -> bool:
    """Whether a reader has a finding in `seconds` of CPU time; each minute is added to the results when it is over."""
    corpus, fault = Corpus([]), ""
    while corpus.cpu_s < seconds and not fault:
        runs, cpu_s = corpus.runs, corpus.cpu_s
        # In a process of its own, whose memory has no peak yet, and which may crash.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                corpus, fault = pool.submit(fuzz_by_name, name, min(60.0, seconds - cpu_s), corpus).result()
            except BrokenProcessPool as error:
                fault = f"{name}: {error}"
        row = keep_spent(
            name,
            seeds,
            Spent(
                cpu_s=round(corpus.cpu_s - cpu_s, 1),
                inputs=corpus.runs - runs,
                kept=len(corpus.inputs),
                lines=len(corpus.lines),
                most_cpu_s=round(corpus.most_cpu_s, 3),
                most_mib=corpus.most_mib,
                findings=bool(fault),
                commit=commit_here(),
                modules=sorted({str(Path(file).relative_to(ROOT)) for file, _ in corpus.lines}),
            ),
        )
        print(
            f"{name:<22} {row.cpu_s / 60:>5.1f} CPU minutes, {row.inputs:>7} inputs, "
            f"{row.lines:>5} lines of ours, {row.kept:>4} kept",
            flush=True,
        )
    if fault:
        print(fault, file=sys.stderr, flush=True)
    return bool(fault)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzzes what reads foreign files; see the top of tests/fuzz.py.")
    known = readers()
    parser.add_argument("minutes", type=float, nargs="?", default=1.0)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(known)}; left out: every one")
    parser.add_argument("--until", action="store_true", help="MINUTES for each reader, less what its row holds")
    asked = parser.parse_args(words)
    chosen = asked.readers or list(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no such reader: {', '.join(unknown)}; the readers are {', '.join(known)}")
    found = 0
    for name in chosen:
        seeds, seconds = known[name].seeds, 60 * asked.minutes / len(chosen)
        if asked.until:
            seconds = 60 * asked.minutes - still_counts(read_spent().get(name), seeds).cpu_s
        found += spend(name, seeds, seconds)
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main(sys.argv[1:]))
