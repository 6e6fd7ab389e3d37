"""The pages in a real Chromium: they fit every width, are read without a script, run none of a record's, and can be
used by keyboard."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from finished_run import history, write_run
from PIL import Image
from plans import make_plan

from examples.demo.browser import Browser, find_chromium
from launcher.records import run_record, write_record
from trainer.evaluation.metrics import action_metrics
from trainer.report.page import save_report
from trainer.report.runs import write_pages
from trainer.report.templates import render

pytestmark = pytest.mark.slow

WIDTHS = (390, 681, 800, 960, 1280)
HOSTILE = '"><img src=x onerror="document.title=1"><script>document.title=1</script>'
LONG = "a_very_long_name_of_an_action_that_nobody_would_type_" * 3
# What a person reads, each with its colour and that of the nearest thing behind it which has one, as [r, g, b, a].
COLOURS = """
(() => {
  const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement, text = node.textContent.trim();
    if (!text || !element.checkVisibility() || ["SCRIPT", "STYLE", "TITLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element), behind = [];
    for (let at = element; at; at = at.parentElement) behind.push(rgba(getComputedStyle(at).backgroundColor));
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    found.push({text: text.slice(0, 40), ink: rgba(style.color), behind, large});
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI=true, but there is no Chromium", pytrace=False)
        pytest.skip("there is no Chromium: apt install chromium")
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with names, answers and settings that break pages; one folder that is no run."""
    output = tmp_path_factory.mktemp("browser") / "runs"
    truths = ["up"] * 5 + [HOSTILE] * 4 + [LONG] * 3
    answers = [*truths[:8], None, "jump", LONG, "up"]
    scores = [action_metrics(truths, said) for said in (["up"] * 12, answers)]
    before, partly = (vars_of(found) for found in scores)
    perfect = vars_of(action_metrics(truths, truths))  # 100.0% is the widest number
    for run_id, after in (("first", partly), (LONG[:60], perfect)):
        folder = output / run_id
        folder.mkdir(parents=True)
        write_record(folder, run_record(make_plan(run_id=run_id)))
        evaluations = [{"step": step, "eval_loss": 2 / step, "eval_action_accuracy": step / 20} for step in (5, 10)]
        write_run(
            folder, before=before, after=after, generated_before=before, generated_after=after, step=10,
            history=[*history([13.0, 0.5, 0.01]), *evaluations], data={"sha256": HOSTILE, "frames": 4},
            provenance={"ended": HOSTILE, "host": LONG, "wandb": "https://wandb.ai/a/b/runs/c"},
        )  # fmt: skip
        lines = [
            {"truth": t, "prediction": p, "answer": f"{HOSTILE} {n}", "prompt": f"{HOSTILE} {LONG} {n}", "images": []}
            for n, (t, p) in enumerate(zip(truths, answers, strict=True))
        ]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        save_report(folder)
    (output / "second").mkdir()
    (output / "second" / "run.json").write_text("{")
    write_pages(output)
    (output / "data.html").write_text(render("data.html.j2", title="Data", report=FINDINGS, samples=SEEN))
    return output


def vars_of(scores: Any) -> dict[str, Any]:
    return {name: getattr(scores, name) for name in scores.__slots__}


SIDE = {
    "records": 1_000_000, "kept": 12, "answers": 12, "sessions": 0, "pictures": 12, "text_only": 0, "duplicates": 0,
    "tokens": {"p50": 75, "p95": 1024}, "supervised": {}, "picture_tokens": {}, "labels": {HOSTILE: 4, LONG: 8},
}  # fmt: skip
FINDINGS = {
    "data": f"/data/{LONG}", "model": LONG, "max_length": 1024, "split": HOSTILE, "left_out": [f"{LONG} {HOSTILE}"],
    "notes": [LONG], "answer_field": HOSTILE, "sides": {"train": SIDE, "eval": SIDE},
}  # fmt: skip
SEEN = [{"side": "train", "pictures": [["gone.png"]], "text": f"masked (61 tokens): '{LONG}' {HOSTILE}"}] * 3
PAGES = ("first/report.html", "index.html", "data.html")


def test_no_flag_of_a_command_is_broken_between_lines(browser: Browser, runs: Path) -> None:
    """At widths that put the end of a line at each place of a flag."""
    for width in range(360, 480, 10):
        browser.open(runs / "first" / "report.html", width=width)
        flags = browser.ask(
            """(() => {
              const found = [];
              for (const command of document.querySelectorAll("pre.wrap")) {
                const walker = document.createTreeWalker(command, NodeFilter.SHOW_TEXT);
                for (let node; (node = walker.nextNode());)
                  for (const word of node.textContent.matchAll(/(?<!\\S)--?[a-z][a-z_-]*(?!\\S)/g)) {
                    const range = document.createRange();
                    range.setStart(node, word.index);
                    range.setEnd(node, word.index + word[0].length);
                    found.push([word[0], new Set([...range.getClientRects()].map(line => line.top)).size]);
                  }
              }
              return found;
            })()"""
        )
        assert len(flags) > 5 and [flag for flag, lines in flags if lines > 1] == [], width


@pytest.mark.parametrize("page", (*PAGES, f"{LONG[:60]}/report.html"))
def test_a_page_is_as_wide_as_its_window_and_runs_nothing_of_a_records(browser: Browser, runs: Path, page: str) -> None:
    for width, dark in product(WIDTHS, (False, True)):
        browser.open(runs / page, width=width, dark=dark)
        # Whatever can be opened is open.
        browser.ask("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert browser.ask("document.documentElement.scrollWidth") == width, (page, width, dark)
        assert browser.ask("document.title").endswith("· Trainyard")
        assert browser.ask("getComputedStyle(document.body).colorScheme") == "light dark"
        complaints = [
            event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
        ]
        assert complaints == []
        asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith("data:")] == [(runs / page).as_uri()]


def test_should_escaping_fail_the_policy_still_stops_a_script(browser: Browser, runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "escaped.html"
    text = (runs / PAGES[0]).read_text(encoding="utf-8")
    page.write_text(text.replace("</h1>", f"</h1>{HOSTILE}", 1), encoding="utf-8")
    browser.open(page)
    assert browser.ask("document.title").endswith("· Trainyard")
    assert [e for e in browser.events if e["method"] == "Log.entryAdded"]  # it was tried


def ratio(ink: list[float], behind: list[list[float]]) -> float:
    """WCAG 2.2's contrast ratio, of a colour on those behind it, the nearest first: 1 to 21."""
    ground = [255.0, 255.0, 255.0]
    for *colour, alpha in reversed(behind):
        ground = [alpha * c + (1 - alpha) * g for c, g in zip(colour, ground, strict=True)]
    *colour, alpha = ink
    text = [alpha * c + (1 - alpha) * g for c, g in zip(colour, ground, strict=True)]

    def luminance(rgb: list[float]) -> float:
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(text), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def test_the_ratio_is_wcags() -> None:
    assert ratio([0, 0, 0, 1], [[255, 255, 255, 1]]) == pytest.approx(21)
    assert ratio([118, 118, 118, 1], [[0, 0, 0, 0], [255, 255, 255, 1]]) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize(("page", "dark"), [*product(PAGES, (False, True))])
def test_everything_can_be_read_against_what_is_behind_it(browser: Browser, runs: Path, page: str, dark: bool) -> None:
    """4.5 to 1, for large text 3 to 1: WCAG 2.2, level AA."""
    browser.open(runs / page, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach(part => part.open = true)")
    texts = browser.ask(COLOURS)
    assert len(texts) > 30
    faint = {
        entry["text"]: round(found, 2)
        for entry in texts
        if (found := ratio(entry["ink"], entry["behind"])) < (3 if entry["large"] else 4.5)
    }
    assert faint == {}


CARDS = "[...document.querySelectorAll('.cards .card')].filter(card => card.checkVisibility())"
SHOWN = f"{CARDS}.map(card => card.classList[1])"
EVERY = "[...document.querySelectorAll('.every tbody tr')].filter(row => row.checkVisibility()).length"
ROWS = "[...document.querySelectorAll('tbody tr')].filter(row => row.checkVisibility()).length"


@pytest.mark.parametrize("script", [True, False])
def test_filters_are_reached_by_keyboard_and_work_without_a_script(browser: Browser, runs: Path, script: bool) -> None:
    browser.open(runs / PAGES[0], script=script)
    focus = "document.activeElement.id"
    for _ in range(40):
        browser.press("Tab")
        if browser.ask(focus) == "show-all":
            break
    assert browser.ask(focus) == "show-all"
    outline = "getComputedStyle(document.querySelector('#' + document.activeElement.id + '+label')).outlineStyle"
    assert browser.ask(outline) == "solid"
    kinds = browser.ask(SHOWN)
    assert set(kinds) == {"right", "wrong"}
    browser.press("ArrowRight")
    assert browser.ask(focus) == "show-wrong" and set(browser.ask(SHOWN)) == {"wrong"}
    browser.ask("document.querySelector('.every').open = true")
    assert browser.ask(EVERY) == kinds.count("wrong")
    browser.press("ArrowRight")
    assert browser.ask(focus) == "show-right" and set(browser.ask(SHOWN)) == {"right"}


def column(number: int) -> str:
    return f"[...document.querySelectorAll('tbody tr')].map(row => row.cells[{number}].textContent.trim())"


def test_a_table_is_sorted_by_its_headings_and_searched(browser: Browser, runs: Path) -> None:
    browser.open(runs / "index.html")
    names = browser.ask(column(0))
    assert [re.split(r"\W", name)[0] for name in sorted(names)] == [LONG[:60], "first", "second"]
    browser.ask("document.querySelectorAll('thead th button')[0].focus()")
    browser.press("Enter")
    assert browser.ask(column(0)) == sorted(names, reverse=True)
    assert browser.ask("document.querySelector('thead th').getAttribute('aria-sort')") == "descending"
    browser.press("Enter")
    assert browser.ask(column(0)) == sorted(names)
    browser.ask("document.querySelectorAll('thead th button')[2].click()")  # accuracy: what has none comes last
    assert browser.ask(column(2))[-1] == "-"
    search = "const box = document.querySelector('input[type=search]'); box.value = 'BROKEN';"
    browser.ask(f"{search} box.dispatchEvent(new Event('input'))")
    assert browser.ask(ROWS) == 1


@pytest.mark.parametrize("dark", [False, True])
def test_a_shade_says_that_a_table_goes_on_to_the_right(browser: Browser, runs: Path, dark: bool) -> None:
    browser.open(runs / "index.html", width=800, dark=dark)
    table = "document.querySelector('.scroll')"
    assert browser.ask(f"{table}.scrollWidth > {table}.clientWidth")
    place = browser.ask(f"(({{right, bottom}}) => [right, bottom])({table}.getBoundingClientRect())")

    def colours(x: int) -> tuple[int, ...]:
        # Below the last row's text, where nothing but what is behind it is seen.
        pixel = (
            Image.open(io.BytesIO(browser.picture())).convert("RGB").getpixel((int(place[0]) - x, int(place[1]) - 3))
        )
        assert isinstance(pixel, tuple)
        return pixel

    assert colours(2) != colours(60)
    browser.ask(f"{table}.scrollLeft = 10000")
    assert colours(2) == colours(60)


def test_on_a_telephone_a_run_is_a_card_that_names_its_values(browser: Browser, runs: Path) -> None:
    """A table of ten columns would be read through a slot; no value lies outside the window."""
    browser.open(runs / "index.html", width=390)
    cells = "[...document.querySelectorAll('.runs tbody td')]"
    assert browser.ask(f"{cells}.every(cell => cell.getBoundingClientRect().right <= 390)")
    label = "getComputedStyle(cell, '::before').content"
    headings = browser.ask("[...document.querySelectorAll('.runs thead th')].slice(1).map(th => th.textContent)")
    assert [*dict.fromkeys(browser.ask(f"{cells}.map(cell => {label})"))] == [f'"{heading}"' for heading in headings]
