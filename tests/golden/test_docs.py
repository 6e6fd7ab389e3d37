"""README and docs show what the commands really print. `make golden` rewrites them."""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import sources
import tomllib
import warm
import yaml
from paths import ROOT
from pretend_gpus import put_nvidia_smi

import local.__main__
import local.target as hardware
import trainer.__main__
from launcher.command import VERBS as VERBS_OF_ALL
from launcher.progress import RUNNING, Job, RunStatus, status_text
from local.measure.batch_size import own_words
from local.measure.hardware import show
from local.scheduler import SCHEDULER
from planner.choose import choose
from planner.request.resolve import resolve
from planner.request.variables import BY_NAME, parse_given, read_given
from planner.values import GPU_GIB
from trainer.config import TrainConfig
from trainer.flags import parse
from trainer.node.machine import read_machine
from trainer.outcome import ConfigError
from trainer.progress_file import Progress
from trainer.settings import resolve_settings
from trainer.text import GIB
from trainer.tools import infer, merge, setup_wandb

README = ROOT / "README.md"
DOCS = (README, *sorted((ROOT / "docs").glob("*.md")))
# Also what people read who change the project: no output is shown there, but commands and links are.
PAGES = (
    *DOCS,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / folder / "README.md" for folder in ("accelerate_configs", "benchmarks", "docker")),
    *(ROOT / folder / "README.md" for folder in ("examples", "examples/records")),
)
BLOCK = re.compile(r"<!-- (output|error) of: (.*?) -->\n```\n(\$ [^\n]*)\n(.*?)```\n", re.S)
PART = re.compile(r"<!-- part of: (.*?) -->\n```\n(\$ [^\n]*)\n(.*?)```\n", re.S)
TABLE = re.compile(r"<!-- made by the planner -->\n(.*?)\n\n", re.S)
HARDWARE = re.compile(r"<!-- what hardware prints -->\n```\n\$ make hardware\n(.*?)```\n", re.S)
EVERY_CARD = re.compile(r"<!-- made by the planner: every card -->\n(.*?)\n\n", re.S)
TUTORIAL = re.compile(r"<!-- made by the planner: the tutorial's cards -->\n(.*?)\n\n", re.S)
PROVOKED = re.compile(r"<!-- provoked in: (.*?) -->\n```\ntrainyard: (?:n\d: )?(.*)\n```\n")
STATUS = re.compile(r"<!-- what status prints -->\n```\n\$ make status RUN=first\n(.*?)```\n", re.S)
ELSEWHERE = "/home/you/trainyard"
README_LINES = 200


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def compare(page: Path, shown: str, made: str) -> None:
    """That a page shows what was made just now; `make golden` writes it into the page instead."""
    if os.environ.get("TRAINYARD_REWRITE_GOLDEN"):
        assert text_of(page).count(shown) == 1
        page.write_text(text_of(page).replace(shown, made), encoding="utf-8")
        return
    assert shown == made


def printed(kind: str, words: str) -> str:
    backend = "k8s" if " --to k8s" in words else "slurm"
    environ = {name: text for name, text in os.environ.items() if not name.startswith(warm.OF_PYTHON)}
    done = warm.run(backend, *shlex.split(words.replace(" --to k8s", "")), cwd=ROOT, environ=environ)
    assert done.returncode == (78 if kind == "error" else 0)
    text = done.stderr if kind == "error" else done.stdout
    return text.replace(str(ROOT), ELSEWHERE)


def blocks() -> list[tuple[Path, str, str, str, str]]:
    return [(page, *block) for page in DOCS for block in BLOCK.findall(text_of(page))]


def test_there_are_blocks_to_check() -> None:
    assert sorted((name_of(page), words.split()[0]) for page, _, words, _, _ in blocks()) == [
        ("docs/plan.md", "plan"),
        ("docs/plan.md", "plan"),
        ("docs/slurm.md", "render"),
        ("docs/sweeps.md", "plan"),
    ]


@pytest.mark.parametrize(("page", "kind", "words", "command", "shown"), blocks(), ids=lambda part: str(part)[:40])
def test_a_page_shows_what_is_printed(page: Path, kind: str, words: str, command: str, shown: str) -> None:
    compare(page, f"{command}\n{shown}```", f"{command}\n{printed(kind, words)}```")


def parts() -> list[tuple[str, str, str]]:
    return [part for page in DOCS for part in PART.findall(text_of(page))]


def test_what_a_page_shows_a_part_of_is_printed() -> None:
    """A line of three dots stands for what is left out."""
    for words, _, shown in parts():
        text = printed("output", words)
        assert [chunk for chunk in re.split(r"^\.\.\.\n", shown, flags=re.M) if chunk not in text] == []
    assert parts()


def test_the_status_that_is_shown_is_that_of_a_run_that_trains() -> None:
    page, now = ROOT / "docs" / "watching.md", 1_800_000_000.0
    progress = Progress(
        phase="training", written_at=now - 8, step=500, of=1500, loss=0.3126, learning_rate=1.69e-4,
        token_accuracy=0.899, action_accuracy=0.914, step_at=now - 8, seconds_per_step=4.2,
    )  # fmt: skip
    job = Job(job_id="4711", state=RUNNING, ended=False, nodes="n1", elapsed="40:12", limit="12:00:00")
    place = f"{ELSEWHERE}/runs/first"
    run = RunStatus(
        run_id="first", jobs=[job], progress=progress, place=place, made=[], finished=False, report_advice=""
    )
    command = "$ make status RUN=first\n"
    (shown,) = STATUS.findall(text_of(page))
    compare(page, f"{command}{shown}```", f"{command}{status_text(run, 'RUN=first', now)}\n```")


def test_the_hardware_that_is_shown_is_what_is_printed_on_such_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "this-machine.md"
    monkeypatch.setenv("PATH", f"{put_nvidia_smi(tmp_path, 'two-kinds')}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "read_env_file", lambda _: {})
    here = replace(read_machine({}), cores=16, memory_gib=62, free_gib=54.3, limited=False)
    monkeypatch.setattr(hardware, "read_machine", lambda *_, **__: here)
    assert show(SCHEDULER, {}, {}, tmp_path) == 0
    (shown,) = HARDWARE.findall(text_of(page))
    compare(page, f"$ make hardware\n{shown}```", f"$ make hardware\n{capsys.readouterr().out}```")


def test_the_command_shown_is_the_one_that_was_run() -> None:
    for words, command in [(block[2], block[3]) for block in blocks()] + [part[:2] for part in parts()]:
        verb, *flags = shlex.split(words)
        pairs = zip(flags[::2], flags[1::2], strict=True)
        asked = [f"{flag.removeprefix('--').upper().replace('-', '_')}={value}" for flag, value in pairs]
        shown = shlex.split(command.removeprefix("$ make "))
        assert (shown[0], sorted(shown[1:])) == (verb, sorted(asked))


def test_a_page_is_linked_to_pages_and_headings_that_are_there() -> None:
    missing = []
    for page in PAGES:
        prose = re.sub(r"`[^`]*`", "", text_of(page))
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", prose):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                missing.append((name_of(page), link))
    assert missing == []


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {(ROOT / link).resolve() for link in re.findall(r"\]\((docs/[^)#]+)\)", text_of(README))}
    assert set(DOCS[1:]) - linked == set()


@pytest.mark.parametrize(
    "place",
    ["plan.md#where-the-batch-size-is-decided", "plan.md#why-zero-3-was-not-chosen", "architecture.md#a-stop",
     "add-a-setting.md"],
)  # fmt: skip
def test_what_a_newcomer_asks_is_one_step_from_the_readme(place: str) -> None:
    assert f"](docs/{place})" in (ROOT / "README.md").read_text()


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= README_LINES


def test_every_make_target_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    named = {word for page in DOCS for word in re.findall(r"(?:`|\$ |^)make ([a-z-]+)", text_of(page), re.M)}
    assert named - targets == set()


# A card by its name in GPU_TYPE, and how many of them.
CARDS = (
    ("rtx3070", 1), ("rtx4070ti", 1), ("rtx4080", 1), ("rtx4090", 1), ("rtx4090", 2), ("l40s", 1), ("a100", 1),
    ("a100", 4), ("a100-80", 1), ("h100", 1),
)  # fmt: skip
CARD_MODELS = ("google/gemma-3-4b-it", "google/gemma-3-27b-it")
EVERY_CARDS_MODELS = ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it")
# What the source tutorial gives these cards: micro-batch x accumulation for Gemma 3 4B.
TUTORIALS_CARDS = (("rtx3070", "1 x 8"), ("rtx4070ti", "2 x 4"), ("rtx4090", "4 x 2"), ("a100", "8 x 1"))


def card_table(folder: Path) -> str:
    """What the planner chooses for usual cards, or what it says instead."""
    head = ["card", "GPUs", "GiB a GPU", *(model.rpartition("/")[2] for model in CARD_MODELS)]
    rows = [
        [card, str(gpus), f"{GPU_GIB[card]:g}", *(chosen(card, gpus, m, folder) for m in CARD_MODELS)]
        for card, gpus in CARDS
    ]
    return markdown_table(head, rows)


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def table_of_every_card(folder: Path) -> str:
    """A row for each size that a card comes in: one card, then two for the smallest model."""
    sizes = sorted(set(GPU_GIB.values()))
    head = ["GiB", "cards", *(model.rpartition("/")[2] for model in EVERY_CARDS_MODELS), "gemma-3-4b-it on two"]
    rows = []
    for size in sizes:
        names = [name for name, gib in GPU_GIB.items() if gib == size]
        cells = [chosen(names[0], 1, model, folder) for model in EVERY_CARDS_MODELS]
        rows.append([f"{size:g}", ", ".join(names), *cells, chosen(names[0], 2, CARD_MODELS[0], folder)])
    return markdown_table(head, rows)


def table_of_the_tutorials_cards(folder: Path) -> str:
    rows = [
        [card, f"{GPU_GIB[card]:g}", theirs, chosen(card, 1, CARD_MODELS[0], folder)]
        for card, theirs in TUTORIALS_CARDS
    ]
    return markdown_table(["card", "GiB", "the tutorial says", "the plan"], rows)


def chosen(card: str, gpus: int, model: str, folder: Path) -> str:
    given = {"GPU_TYPE": card, "GPUS": str(gpus), "MODEL": model}
    spec = resolve(given, project_dir=folder, environ={}, run_suffix="x")
    try:
        candidate = choose(spec).chosen
    except ConfigError as error:
        return f"refused: {str(error).rpartition(': ')[2]}"
    batch = f"{candidate.micro_batch_size} x {candidate.gradient_accumulation_steps}"
    return f"`{candidate.label}`, {batch}, {candidate.estimate.peak_bytes / GIB:.1f} GiB{', tight' * candidate.tight}"


def test_the_table_of_cards_is_what_the_planner_chooses(tmp_path: Path) -> None:
    (shown,) = TABLE.findall(text_of(README))
    compare(README, shown, card_table(tmp_path))


@pytest.mark.parametrize(
    ("page", "marked", "table"),
    [("plan.md", EVERY_CARD, table_of_every_card), ("from-the-tutorial.md", TUTORIAL, table_of_the_tutorials_cards)],
)
def test_the_tables_of_every_card_are_what_the_planner_chooses(
    page: str, marked: re.Pattern[str], table: Callable[[Path], str], tmp_path: Path
) -> None:
    path = ROOT / "docs" / page
    (shown,) = marked.findall(text_of(path))
    compare(path, shown, table(tmp_path))


COMMAND = re.compile(r"(?:^\$ |^|`)(make|python -m trainer|python -m local)(?: (.*?))?(?:`|$)", re.M)
PLANNED = ("run", "docker-run", "sweep", "find-batch-size")
SETTINGS = ("config", "validate", "profile-memory")
VERBS = {"python -m trainer": trainer.__main__.VERBS, "python -m local": {**VERBS_OF_ALL, **local.__main__.OWN}}
OPTIONS = {"infer": infer.Question, "merge": merge.Request, "setup-wandb": setup_wandb.Request}


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Every command of make and the trainer that a document names, up to where the shell or three dots take over."""
    found = set()
    for page in PAGES:
        text = re.sub(r" \\\n +", " ", text_of(page))
        for program, rest in COMMAND.findall(text):
            typed = re.split(r" (?:\.\.\.|[|>]|&&)", rest)[0]
            found.add((program, tuple(word for word in shlex.split(typed, comments=True) if not word.endswith("..."))))
    return sorted(found)


@pytest.mark.parametrize(("program", "typed"), commands(), ids=lambda part: " ".join(part) if part else "")
def test_a_command_that_is_shown_is_understood(program: str, typed: tuple[str, ...]) -> None:
    if program == "make":
        given = dict(word.split("=", 1) for word in typed if "=" in word)
        own = re.search(r"^override OWN := (.*)$", (ROOT / "Makefile").read_text(), re.M)
        assert own and set(given) <= {*BY_NAME, *own[1].split()}
        parse_given({name: value for name, value in given.items() if value and name in BY_NAME})
        return
    verb, *words = typed or ("--help",)
    assert verb in (*VERBS[program], "--help")
    if verb in PLANNED:
        parse_given(read_given(own_words(words)[0], {}))
    elif verb in SETTINGS and words != ["--help"]:
        resolve_settings(words[1:] if verb == "validate" else words, {})
    elif verb in OPTIONS and words:
        parse(words, OPTIONS[verb], "", words=[])


def test_commands_are_found() -> None:
    assert len(commands()) > 40


def test_an_error_that_is_shown_is_provoked_by_a_test() -> None:
    """In these words, but for the numbers and the node."""
    shown = [found for page in DOCS for found in PROVOKED.findall(text_of(page))]
    assert len(shown) == 3
    for test, line in shown:
        assert re.sub(r"\d+", "0", line) in re.sub(r"\d+", "0", (ROOT / test).read_text(encoding="utf-8"))


def refusal_text(call: ast.Call) -> str:
    """The line that a ConfigError makes of its fields, three dots for what is put into it."""
    fields = {keyword.arg: keyword.value for keyword in call.keywords}
    parts = [*call.args, *(fields[name] for name in ("allowed", "advice") if name in fields)]
    value = [f"{constant(fields['name'])}={constant(fields['given'])}"] if {"name", "given"} <= set(fields) else []
    return ": ".join([*value, *map(constant, parts)])


def constant(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "..."


def constants() -> list[str]:
    """Every text in the code of the rooms, three dots for what is put into it."""
    texts = []
    for path in sources.modules(*sources.ROOMS):
        for node in sources.nodes(path):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ConfigError":
                texts.append(refusal_text(node))
    return texts


def test_every_message_that_is_explained_is_printed_by_the_code() -> None:
    page = text_of(ROOT / "docs" / "troubleshooting.md")
    messages = re.findall(r"^\| `([^`]+)`", page, re.M)
    code = sorted({*constants(), *text_of(ROOT / "Makefile").splitlines()})

    def is_said(message: str) -> bool:
        """In one text, or with its name, its problem and its advice (the fields of ConfigError) in one each."""
        fields_of = re.sub(r"^[A-Z_]+=\S+: ", "", message).split(": ")
        return in_one_text(message) or all(map(in_one_text, fields_of))

    def in_one_text(message: str) -> bool:
        chunks = [chunk.strip() for chunk in message.split("...") if chunk.strip(" ,:()")]
        wanted = re.compile(".*".join(map(re.escape, chunks)), re.S)
        return any(chunks[0] in text and wanted.search(text) for text in code)

    assert [message for message in messages if not is_said(message)] == []
    assert len(messages) > 40


def test_the_pages_count_settings_and_pins_as_they_are() -> None:
    page = text_of(ROOT / "docs" / "evaluation.md")
    said = re.search(r"(\d+) libraries as pinned\nsettings +pass  (\d+) settings", page)
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    assert said and (int(said[1]), int(said[2])) == (len(pinned), len(fields(TrainConfig)))


@pytest.mark.parametrize(
    ("page", "said", "bed"),
    [
        ("slurm.md", "31 states that `make status` explains", "test_slurm_states.py"),
        ("kubernetes.md", "31 states are provoked", "test_pod_states.py"),
    ],
)
def test_a_page_counts_the_states_that_are_provoked(page: str, said: str, bed: str) -> None:
    assert said in text_of(ROOT / "docs" / page)
    tree = ast.parse(text_of(ROOT / "tests" / "beds" / bed))
    (states,) = [
        node.value.elts
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "STATES" and isinstance(node.value, ast.List)
    ]
    assert said.split()[0] == str(len(states))


def test_the_workflow_runs_what_is_there() -> None:
    """On every Python that pyproject.toml promises for the launch side, from its least one on."""
    text = text_of(ROOT / ".github" / "workflows" / "tests.yml")
    targets = set(re.findall(r"^([a-z-]+):.*## ", text_of(ROOT / "Makefile"), re.M))
    assert set(re.findall(r"run: make ([a-z-]+)", text)) <= targets
    assert [name for name in re.findall(r"tests/[\w/]+\.py", text) if not (ROOT / name).is_file()] == []
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    (pythons,) = re.findall(r"python: \[(.*)\]", text)
    assert project["requires-python"] == f">={yaml.safe_load(f'[{pythons}]')[0]}"
    assert {f"pytest=={version}" for version in re.findall(r"pytest==([\d.]+)", text)} <= {
        *project["optional-dependencies"]["dev"]
    }


def test_every_one_of_the_tutorials_things_has_a_row() -> None:
    """Each of the 74 once, with what it is here; and where it is something else, the reason."""
    page = text_of(ROOT / "docs" / "from-the-tutorial.md")
    rows = re.findall(r"^\| ([\d, ]+) \| (.+?) \| (.+?) \| (.*?) ?\|$", page, re.M)
    numbers = [int(number) for row in rows for number in row[0].split(", ")]
    assert numbers == list(range(1, 75))
    assert "It describes 74 things" in page
    assert [row for row in rows if not (row[1].strip() and row[2].strip())] == []
