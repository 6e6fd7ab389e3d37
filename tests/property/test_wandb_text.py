"""Whatever stands in names, settings and records, W&B gets it escaped, without tokens, and of bounded length."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from paths import ROOT
from wandb_server import Service

from trainer.tracking import wandb_text
from trainer.tracking.wandb_run import prepare_client
from trainer.tracking.wandb_text import (
    LONGEST,
    MOST_DEPTH,
    MOST_ENTRIES,
    NAME_CHARS,
    TAG_CHARS,
    TEXT_CHARS,
    sendable,
    short,
)

TOKEN = "hf_cAnary7fJ2kQ9xZ1Qq"
HOSTILE = st.text(
    alphabet=st.one_of(st.sampled_from("\x1b\x07\x9b\n\r\t\u202e\u2066ab,=|<'é"), st.characters(codec="utf-8")),
    max_size=60,
).flatmap(lambda text: st.sampled_from([text, f"{text} {TOKEN}", text * 300]))
VALUES = st.recursive(
    st.one_of(HOSTILE, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(HOSTILE, inner, max_size=4)),
    max_leaves=8,
)
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def texts(value: Any) -> Iterator[tuple[str, int]]:
    """Each text in `value`, with the most characters that it may have."""
    if isinstance(value, str):
        yield value, TEXT_CHARS
    for key, part in value.items() if isinstance(value, dict) else ():
        yield key, NAME_CHARS
        yield from texts(part)
    for part in value if isinstance(value, list) else ():
        yield from texts(part)


@quick
@given(facts=st.dictionaries(HOSTILE, VALUES, max_size=6))
def test_configuration_and_summary_are_escaped_and_bounded(facts: dict[str, Any]) -> None:
    for text, most in texts(sendable(facts)):
        assert text.isprintable() and len(text) <= most and TOKEN not in text, text


@pytest.mark.parametrize("before", range(0, 64, 7))
def test_no_token_is_cut_before_it_is_known(before: int) -> None:
    token = "hf_" + "cAnary7fJ2kQ9xZ1" * 2
    shown = short("x" * before + f" {token}" * 40, NAME_CHARS)
    assert len(shown) <= NAME_CHARS and "cAnary" not in shown


def test_plain_facts_arrive_as_they_are_and_endless_ones_end() -> None:
    facts = {"model": "google/gemma-3-4b-it", "lora_r": 8, "plan": {"gpus": 2, "notes": ["a", None, 0.5, True]}}
    assert sendable(facts) == facts
    nested: list[Any] = []
    for _ in range(2 * MOST_DEPTH):
        nested = [nested]
    assert json.dumps(sendable(nested)) == "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1)
    assert len(sendable(["x"] * 10**6)) == len(sendable({str(n): n for n in range(10**5)})) == MOST_ENTRIES
    assert sendable("x" * 10**7) == "x" * (TEXT_CHARS - 3) + "..."


@quick
@example(said="\x1b[2J" * 500 + ",,b\u202e")
@given(said=HOSTILE.map(lambda text: text.replace("\0", "")))
def test_names_in_the_environment_are_such_as_the_client_takes(said: str) -> None:
    from wandb.sdk.wandb_settings import Settings

    said = said.encode("utf-8", "ignore").decode()
    with patch.dict(os.environ, dict.fromkeys([*LONGEST, wandb_text.TAGS], said)):
        prepare_client()
        names = {name: os.environ[name] for name in LONGEST}
        tags = os.environ.get(wandb_text.TAGS, "")
        assert all(name.isprintable() and len(name) <= LONGEST[key] for key, name in names.items())
        assert TOKEN not in str(names) + tags
        found = Settings()
        if not set("/\\#?%:").intersection(names["WANDB_PROJECT"]):  # which the client refuses, by name
            found.update_from_env_vars(os.environ)
            assert all(tag.isprintable() and 1 <= len(tag) <= TAG_CHARS for tag in found.run_tags or ())


RUN = """
import sys
from trainer.tracking.wandb_run import WandbRun

facts = {"run_id": "r1", "output_dir": sys.argv[1], "logging_steps": 1, "evil\\x1b[2J": "\\u202e", "model": "m"}
run = WandbRun(facts, None)
run.log({"train/loss": 1.0}, 1)
run.finish({"eval/\\x1b]0;x\\x07": 0.5})
"""


@pytest.mark.slow
def test_a_token_in_the_checkouts_remote_and_what_a_terminal_would_act_on_do_not_reach_the_service(
    tmp_path: Path, service: Service
) -> None:
    remote = f"https://{TOKEN}:x-oauth-basic@github.com/ada/x"
    for words in (["init", "-q"], ["remote", "add", "origin", remote]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(["git", *commit], cwd=tmp_path, check=True)
    hostile = {"WANDB_RUN_GROUP": "g\x1b[2J\u202e", "WANDB_TAGS": f"a\x07,{'b' * 99}", "WANDB_NOTES": f"why {TOKEN}"}
    environ = {**os.environ, **service.environment, **hostile, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "run")], cwd=tmp_path, env=environ, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "may lack" not in done.stdout and "not logged" not in done.stdout
    seen = service.seen()
    first = seen["runs"][0]
    assert (first["name"], first["groupName"], first["notes"]) == ("r1", "g\\x1b[2J\\u202e", "why ***")
    assert first["tags"] == ["a\\x07", f"{'b' * 61}..."]
    config = {name: entry.get("value") for name, entry in json.loads(first["config"]).items()}
    assert (config["evil\\x1b[2J"], config["model"]) == ("\\u202e", "m")
    assert "eval/\\x1b]0;x\\x07" in seen["summary"]
    kept = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    contents = [path.read_bytes() for path in kept] + [base64.b64decode(sent) for sent in seen["files"].values()]
    assert contents and not [content for content in contents if TOKEN.encode() in content]
