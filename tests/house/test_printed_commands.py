"""Every command that the code holds in its words is one that is taken: its verb exists, and takes the variables and
flags that stand behind it.

They are found by walking all strings of the rooms, not by a list: `make VERB NAME=...`, `python -m ROOM VERB`,
`./trainyard VERB`, and calls of trainer/commands.py. tests/unit/local/test_next_commands.py types those that verbs
put together."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import sources
from paths import ROOT

import local.__main__
import slurm.__main__
import trainer.__main__
from k8s import __main__ as k8s_main
from launcher.command import VERBS
from local.scheduler import SCHEDULER
from planner.request.variables import BY_FLAG, BY_NAME, resumable
from trainer.config import SETTINGS
from trainer.translate import OPTIONS

ROOMS = (*sources.ROOMS, "examples")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M))
TAKES = {verb: names.split() for verb, names in re.findall(r"^override TAKES_(\S+) := (.*)$", MAKEFILE, re.M)}
OWN = re.findall(r"^override OWN := (.*)$", MAKEFILE, re.M)[0].split()
# What stands in an f-string for a value.
HOLE = "\N{WHITE SQUARE}"
MADE = re.compile(rf"\bmake ([a-z-]+)((?: +[A-Z_]+=(?:'[^']*'|\"[^\"]*\"|[^\s,;:)'\"`]*|{HOLE}))*)")
MODULE = re.compile(r"python -m ([a-z]+) ([a-z-]+)")
FLAGGED = re.compile(r"python -m (?:trainer|local|slurm|k8s) [a-z-]+(?: +(?:--[a-z_-]+|[^\s;:,)'\"`-][^\s;:,)'\"`]*))+")
FLAG = re.compile(r"--[a-z][a-z-]+")
SPACE = re.compile(r"\s*\n\s*")
PROGRAM = re.compile(r"\./trainyard ([a-z-]+)")
CLIENTS = ("scancel", "scontrol")
BY_ROOM = {
    "trainer": set(trainer.__main__.VERBS),
    "local": {*VERBS, *local.__main__.OWN},
    "slurm": {*VERBS, *slurm.__main__.OWN},
    "k8s": {*VERBS, *k8s_main.OWN},
}
# (room, verb) -> module:function, for the verbs that do not take the variables of the launch side alone.
OWN_OPTIONS = {("trainer", verb): act for verb, act in trainer.__main__.VERBS.items()} | {
    ("local", verb): found.act for verb, found in local.__main__.OWN.items() if found.alone
}


@cache
def texts() -> list[tuple[str, str]]:
    """The place of every string, and the string, with holes where an f-string has values."""
    return [found for path in sources.modules(*ROOMS) for found in texts_of(path)]


def texts_of(path: Path) -> Iterator[tuple[str, str]]:
    nodes, name = sources.nodes(path), path.relative_to(ROOT)
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = (str(p.value) if isinstance(p, ast.Constant) else HOLE for p in node.values)
            yield f"{name}:{node.lineno}", "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield f"{name}:{node.lineno}", node.value


def takes(verb: str) -> set[str]:
    """Variables that make takes with a verb."""
    of_a_run = {name for scheduler in ("slurm", "k8s", "local") for name in resumable(scheduler)}
    which = {"RUN", "OUTPUT", "SITE", "NAMESPACE", "PVC", *SCHEDULER.takes, "TO"}
    if verb in TAKES:
        return {*TAKES[verb], *OWN}
    if verb in ("status", "logs", "cancel", "list"):
        return which
    if verb == "resume":
        return which | of_a_run
    return {*BY_NAME, *OWN}


def problems() -> Iterator[str]:
    for place, text in texts():
        text = SPACE.sub(" ", text)
        for verb, rest in MADE.findall(text):
            names = re.findall(r"([A-Z_]+)=", rest)
            if verb not in TARGETS and names:
                yield f"{place}: make {verb}{rest}: no such target"
            elif verb in TARGETS and (odd := set(names) - takes(verb)):
                yield f"{place}: make {verb} does not take {', '.join(sorted(odd))}"
        for room, verb in MODULE.findall(text):
            if room in BY_ROOM and verb not in BY_ROOM[room]:
                yield f"{place}: python -m {room} has no verb {verb}"
        for verb in PROGRAM.findall(text):
            if verb not in TARGETS | BY_ROOM["trainer"] | BY_ROOM["local"] | {"completion"}:
                yield f"{place}: ./trainyard has no verb {verb}"


def test_every_command_in_the_words_of_the_code_is_taken() -> None:
    assert list(problems()) == []


def test_commands_are_found() -> None:
    found = [verb for _, text in texts() for verb, _ in MADE.findall(text) if verb in TARGETS]
    assert len(found) > 60 and {"env", "submit", "resume", "status", "logs", "claim", "shape"} <= set(found)


def calls() -> set[tuple[str, ...]]:
    """What the functions of trainer/commands.py are given, with holes for values."""
    found = set()
    for path in sources.modules(*ROOMS):
        for node in sources.nodes(path):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name in ("command", "training_command", "command_from_anywhere", "typed") and isinstance(node, ast.Call):
                words = [str(w.value) if isinstance(w, ast.Constant) else HOLE for w in node.args]
                words[:1] = ["trainer"] if name == "typed" else words[:1]
                if words and words[0] != HOLE:
                    found.add(tuple(words))
    return found


def is_taken(room: str, *rest: str) -> bool:
    if room not in BY_ROOM:  # another program's module, or the supervisor
        return room in ("wandb", "tensorboard.main", "accelerate.commands.launch", "trainer.supervise", *CLIENTS)
    return {word for word in rest[:1] if not word.startswith("-") and word != HOLE} <= BY_ROOM[room]


def flags_of(room: str, verb: str) -> set[str]:
    """The flags of a verb: the fields of the dataclass that its module hands to trainer.flags.parse, or else the
    trainer's settings, with those that the module itself takes out; on the launch side the table of variables."""
    if act := OWN_OPTIONS.get((room, verb)):
        nodes = sources.nodes(ROOT / f"{act.partition(':')[0].replace('.', '/')}.py")
        named = {n.args[1].id for n in nodes if is_call(n, "parse") and isinstance(n.args[1], ast.Name)}
        classes = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name in named]
        lines = [line.target for c in classes for line in c.body if isinstance(line, ast.AnnAssign)]
        own = {target.id for target in lines if isinstance(target, ast.Name)} or {*SETTINGS, *OPTIONS}
        taken_out = {n.value for n in nodes if isinstance(n, ast.Constant) and FLAG.fullmatch(str(n.value))}
        own |= {str(flag).removeprefix("--").replace("-", "_") for flag in taken_out} | {"help"}
        return own | variables() if room == "local" else own
    return variables() | {"help"}


def variables() -> set[str]:
    return {flag.removeprefix("--").replace("-", "_") for flag in BY_FLAG}


def is_call(node: ast.AST, name: str) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == name


def flags_in(words: str) -> set[str]:
    return {name.replace("-", "_") for name in re.findall(r"(?<=[ \[])--(?!name value)([a-z_-]+)", words)}


def test_every_flag_behind_a_printed_command_is_one_of_its_verb() -> None:
    found = [" ".join(words) for words in calls() if words[0] in BY_ROOM]
    found += [
        words.removeprefix("python -m ") for _, text in texts() for words in FLAGGED.findall(SPACE.sub(" ", text))
    ]
    asked = [(room, verb, flags_in(words)) for words in found for room, verb, *_ in [[*words.split(), ""]]]
    assert {"run", "data", "model"} <= set().union(*(flags for *_, flags in asked))
    odd = [(room, verb, sorted(flags - flags_of(room, verb))) for room, verb, flags in asked if verb != HOLE]
    assert [one for one in odd if one[-1]] == []


def test_a_verb_with_options_of_its_own_takes_no_others() -> None:
    assert flags_of("trainer", "shape") == {"model", "json", "help"}
    assert "learning_rate" in flags_of("trainer", "validate") and "gpus" not in flags_of("trainer", "validate")
    assert "gpus" in flags_of("slurm", "plan") and "question" not in flags_of("k8s", "render")


def test_every_command_that_is_put_together_is_taken() -> None:
    assert len(calls()) > 10
    assert [words for words in sorted(calls()) if not is_taken(*words)] == []
