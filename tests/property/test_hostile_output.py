"""Whatever stands in names, records and files, no verb shows what a terminal would act on."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from finished_run import write_run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from plans import make_plan

import k8s.__main__
import slurm.__main__
import trainer.__main__
from k8s.cluster import draft as k8s_draft
from k8s.cluster.draft import GPU, MEMORY, PRODUCT
from launcher import verbs
from launcher.records import ATTEMPT_NAME, run_record
from local.scheduler import SCHEDULER as LOCAL
from planner.request.variables import VARIABLES
from slurm.cluster import draft as slurm_draft
from slurm.scheduler import SCHEDULER as SLURM
from trainer.progress_file import Progress, progress_text
from trainer.report.page import main as report
from trainer.results.card import model_card
from trainer.results.trained import Usage
from trainer.text import printable_lines
from trainer.tools.checks import Check, format_checks
from trainer.verbs import exit_code

pytestmark = pytest.mark.slow
ACTING = "\x1b\x07\x08\r\x9b\x7f\u202e\u2066\u061c"
WORDS = st.text(alphabet=f"{ACTING}\n\taZ1[2J|`<&\"'$ ", min_size=1, max_size=12).filter(set(ACTING).intersection)
examples = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def quiet(text: str, *, page: bool = False) -> bool:
    """Whether a terminal acts on nothing in it; a `page` is HTML, whose lines may have tabs."""
    left = text.replace("\n", "")
    return not set(ACTING).intersection(left) and (page or left.replace("━", "").replace("─", "").isprintable())


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """(what holds it, its key) of each text in it."""
    for key in list(value) if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0):
        if isinstance(value[key], str):
            yield value, key
        yield from leaves(value[key])


def spoilt(value: Any, word: str, drawn: random.Random) -> Any:
    """A copy with `word` in one of its texts, or as one of its keys."""
    found = json.loads(json.dumps(value))
    holder, key = drawn.choice(list(leaves(found)))
    if drawn.random() < 0.2 and isinstance(holder, dict):
        holder[word] = holder.pop(key)
    else:
        holder[key] = drawn.choice((word, holder[key] + word))
    return found


def said(capsys: pytest.CaptureFixture[str], act: Callable[[], object]) -> str:
    """All that is written, errors as the command line writes them."""
    capsys.readouterr()

    def acting(_: object) -> int:
        act()
        return 0

    exit_code(acting, [])
    shown = capsys.readouterr()
    return shown.out + shown.err


@examples
@given(
    word=WORDS, flag=st.sampled_from([variable.flag for variable in VARIABLES]), module=st.sampled_from([slurm, k8s]),
    verb=st.sampled_from(["plan", "render", "status", "logs", "cancel", "list", "nonsense"]),
)  # fmt: skip
def test_no_verb_shows_what_a_terminal_would_act_on(
    word: str, flag: str, module: Any, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [verb, flag, word, *(["--image", "r.example.org/x:1"] if module is k8s and flag != "--image" else [])]
    for argv in (words, [verb + word], [verb, word], [verb, f"--{word}", "x"]):
        if verb not in ("status", "logs", "cancel", "list") or module is slurm:
            assert quiet(said(capsys, lambda argv=argv: module.__main__.main(argv, {"HOME": "/home/ada"}))), argv


@examples
@given(word=WORDS, seed=st.integers(0, 10**6))
def test_nor_do_status_list_and_logs_of_whatever_stands_in_a_run(
    word: str, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = random.Random(seed)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    name = drawn.choice(("r", word.replace("/", "")))
    folder = tmp_path / "runs" / name
    (folder / "logs").mkdir(parents=True)
    progress = Progress(phase="failed", written_at=1.0, step=3, of=9, said="why")
    attempt = {"number": 1, "pid": 7, "started": "9", "host": "h", "began": 1.0, "code": 1, "verb": "run"}
    files = {
        "run.json": run_record(make_plan(run_id=name)), "progress.json": json.loads(progress_text(progress)),
        ATTEMPT_NAME: attempt, "metrics.json": {"format": 1, "history": [{"step": 1}], "after": None, "x": "x"},
        "sweep.json": {"parallel": 1, "values": [{"LORA": "8"}], "wandb": None},
    }  # fmt: skip
    for file in drawn.sample(list(files), drawn.randint(1, len(files) - 1)):
        content = spoilt(files[file], word, drawn) if drawn.random() < 0.7 else files[file]
        (folder / file).write_text(json.dumps(content))
    (folder / "logs" / "local-1.log").write_text(f"a{word}\n")
    for scheduler in (SLURM, LOCAL):
        for verb in (verbs.list_runs, verbs.status, verbs.logs):
            asked = {} if verb is verbs.list_runs else {"RUN": name}
            assert quiet(said(capsys, partial(verb, scheduler, asked, {}, tmp_path)).replace("\t", ""))


@pytest.fixture
def metrics(tmp_path: Path) -> dict[str, Any]:
    data = {"sha256": "abc", "split": "eval.jsonl", "train": 9, "eval": 20, "frames": 1}
    write_run(tmp_path, data=data, peak_memory={"bytes": 1, "of": "resident memory"})
    found: dict[str, Any] = json.loads((tmp_path / "metrics.json").read_text())
    return found


@examples
@given(word=WORDS, seed=st.integers(0, 10**6))
def test_nor_do_card_report_and_page_of_runs(word: str, seed: int, tmp_path: Path, metrics: dict[str, Any]) -> None:
    drawn = random.Random(seed)
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True, exist_ok=True)
    entry = spoilt(metrics, word, drawn)
    usage = Usage(
        device="cpu", quantization="nf4", answer_field=None, choices=None, answer_tokens=9, frames=1, context="",
        question=None,
    )  # fmt: skip
    try:
        card = model_card(copy.deepcopy(entry), Path("runs", word, "adapter"), usage)
    except Exception as error:  # a key that is gone
        assert "jinja2" in type(error).__module__ or isinstance(error, KeyError)
    else:
        assert quiet(card) and len(re.findall(r"^```", card, re.M)) == 2, card
    write_run(run, images=[word])
    (run / "metrics.json").write_text(json.dumps(entry))
    (run / "run.json").write_text(json.dumps(spoilt(run_record(make_plan(run_id="r")), word, drawn)))
    for asked in (run, run.parent):
        try:
            report([str(asked)])
        except Exception as error:
            assert "trainer.outcome" in type(error).__module__ or isinstance(error, (KeyError, TypeError)), error
    for page in run.parent.rglob("*.html"):
        assert quiet(page.read_text(encoding="utf-8"), page=True)


@examples
@given(word=WORDS, seed=st.integers(0, 10**6))
def test_nor_do_validate_and_infer(word: str, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.tools.data_report import render  # not above: it loads torch

    side = {
        "records": 1, "kept": 1, "answers": 1, "sessions": 1, "pictures": 1, "text_only": 0, "duplicates": 0,
        "duplicates_with_another_answer": 0, "labels": {"up": 1}, "majority_share": 1.0,
        **{size: {"p50": 1, "p95": 1, "p100": 1} for size in ("tokens", "supervised", "picture_tokens")},
    }  # fmt: skip
    found = {
        "data": "d", "split": "s", "notes": ["note"], "left_out": ["a"], "picture_sizes": {"1x1": 1},
        "sides": {"train": side, "eval": side}, "lengths_file": "f", "page": "p", "answer_field": "button",
    }  # fmt: skip
    assert quiet(printable_lines(render({**found, "notes": [word], "left_out": [word], "data": word})))
    labelled = {**side, "labels": {word: 1}}
    assert quiet(printable_lines(render({**found, "sides": {"train": labelled, "eval": labelled}})))
    for argv in (
        ["infer", "--run", word, "x.png"], ["infer", "--run", "x", word], ["infer", f"--{word}", "x"], [word],
        ["validate", word], ["validate", "environment", f"--{word}", "1"], ["validate", "environment", "--seed", word],
        ["config", "--config", word], ["report", word], ["merge", "--run", word],
    ):  # fmt: skip
        assert quiet(said(capsys, lambda argv=argv: trainer.__main__.main(argv))), argv


STUB = """#!/bin/sh
case "${0##*/} $*" in
  sinfo*) printf 'gpu%s*|1:00:00|1|16|64000|gpu:a100%s:8|f%s|NO\\n' "$WORD" "$WORD" "$WORD";;
  "scontrol show config"*) printf 'ClusterName = c%s\\n' "$WORD";;
  squeue*) printf '42|RUN%s|why%s|n%s|1:00|2:00|r%s|/x/%s\\n' "$WORD" "$WORD" "$WORD" "$WORD" "$WORD";;
  sbatch*) printf 'sbatch: Job 1 to start %s\\n' "$WORD" >&2; exit "${CODE:-0}";;
  *) printf '%s' "$WORD" >&2; exit 1;;
esac
"""


@pytest.fixture
def stubs(tmp_path: Path) -> str:
    """PATH with programs of Slurm that answer with what stands in WORD."""
    (folder := tmp_path / "stubs").mkdir()
    for name in ("sinfo", "scontrol", "squeue", "sacct", "sbatch", "scancel", "srun"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@settings(examples, max_examples=4)
@example(word="\x1b|\x07", code="0")
@given(word=WORDS, code=st.sampled_from("01"))
def test_nor_does_a_verb_show_it_of_a_scheduler(
    word: str,
    code: str,
    stubs: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"HOME": str(tmp_path), "PATH": stubs, "WORD": word.replace("\n", ""), "CODE": code}
    for member in ("r", "s-0", "s-1"):
        folder = tmp_path / "runs" / member
        folder.mkdir(parents=True, exist_ok=True)
        sweep = {"sweep": "s"} if member.startswith("s") else {}
        record = run_record(make_plan(run_id=member, **sweep))
        (folder / "run.json").write_text(json.dumps({**record, "job_ids": ["42"]}))
    for verb, asked in ((verbs.list_runs, {}), *((v, {"RUN": r}) for v in (verbs.status, verbs.cancel) for r in "rs")):
        assert quiet(said(capsys, partial(verb, SLURM, asked, environ, tmp_path))), (verb, asked)
    for answer in (word, word.replace("|", "")):
        asked = {**environ, "WORD": answer.replace("\n", "")}
        assert quiet(said(capsys, lambda asked=asked: print(slurm_draft.ask(asked), end="")))
    for checked in (slurm.__main__.main, k8s.__main__.main):
        with monkeypatch.context() as patched:
            for name in ("check_files", "_check_here"):
                patched.setattr(f"slurm.submit.{name}", lambda *_: None)
            patched.setattr("slurm.submit.read_nodes", lambda *_, **__: ())
            patched.setattr("slurm.submit.as_tracked", lambda spec, _: (spec, [word]))
            patched.setattr("slurm.submit.refuse_beyond_limits", lambda *_: [word])
            patched.setattr("k8s.cluster.rehearsal.rehearse", lambda *_: f"job.batch/{word} created")
            words = [
                "check",
                "--gpus",
                "1",
                *(["--image", "r.example.org/x:1"] if checked is k8s.__main__.main else []),
            ]
            assert quiet(said(capsys, lambda words=words, checked=checked: checked(words, environ)))


@given(word=WORDS)
def test_nor_do_the_drafts_of_site_files_and_the_checks(word: str) -> None:
    name = {"metadata": {"name": word, "labels": {PRODUCT: word, MEMORY: "81920"}}}
    node, claim = {**name, "status": {"allocatable": {GPU: "8"}}}, {**name, "spec": {"accessModes": [word]}}
    assert quiet(k8s_draft.draft([node], [claim], [name]))
    assert quiet(format_checks([Check(name=word, status="warn", found=word, do=word)]))
