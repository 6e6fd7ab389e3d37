"""A language model without pictures goes the same way: trained, scored, asked, merged, loaded as its card says."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_families import write_tiny_llama
from training import run_forked, train_forked

from trainer.data.endings import answer_end, render_answer
from trainer.outcome import ConfigError

DIRECTIONS = ("left", "right", "up")


def write_records(path: Path) -> None:
    rows = [
        {"messages": [
            {"role": "system", "content": "Answer in JSON."},
            {"role": "user", "content": f"{n}: the chest is {DIRECTIONS[n % 3]} of \"you\".\nWhich way?"},
            {"role": "assistant", "content": json.dumps({"button": DIRECTIONS[n % 3]})},
        ]}
        for n in range(40)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def ask_and_merge(run: str, records: str, out: str) -> None:
    """infer, merge, and the code of both cards: {what: what came of it} into `out`."""
    import contextlib
    import io

    from trainer.__main__ import main

    found: dict[str, Any] = {}
    for name, argv in (("infer", ["infer", "--run", run, "--records", records]), ("merge", ["merge", "--run", run])):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            found[name] = [main(argv), printed.getvalue()]
    os.chdir(run)  # the cards' folders are named as they are seen from here
    for folder in (f"{run}/adapter", f"{run}/merged"):
        (code,) = re.findall(r"```python\n(.*?)```", Path(folder, "README.md").read_text(), re.S)
        said: list[str] = []
        exec(code.replace('"context, empty line, question"', '"Which way?"'), {"print": said.append})
        found[Path(folder).name] = len(said)
    Path(out).write_text(json.dumps(found))


@pytest.mark.slow
def test_it_trains_and_is_asked_and_merged(tmp_path: Path, tiny_llama: Path) -> None:
    data = tmp_path / "d.jsonl"
    write_records(data)
    ended = train_forked(tmp_path, model=tiny_llama, data=data, text_only=True, max_steps=2)
    assert ended.codes == (0,), ended.output
    for line in (
        f"  {'4-bit linears in the language model':<38} 14\n",
        f"  {'another picture':<38} none: the first record has no picture\n",
        f"  {'later words of an answer':<38} move no earlier loss\n",
    ):
        assert line in ended.output
    assert "Which way?<|im_end|>\\n<|im_start|>assistant\\n" in ended.output, "words stand in the prompt as they are"
    answers = tmp_path / "found.json"
    asked = run_forked(tmp_path / "asked", ask_and_merge, str(tmp_path / "run"), str(data), str(answers))
    assert asked.codes == (0,), asked.output
    found = json.loads(answers.read_text())
    assert found["infer"][0] == found["merge"][0] == 0
    assert {json.loads(line)["action"] for line in found["infer"][1].splitlines()} <= {*DIRECTIONS}
    assert found["adapter"] == found["merged"] == 1, "the card's own code answers"


@pytest.mark.parametrize("several", [False, True])
def test_a_template_in_the_tokenizers_file_alone_is_the_processors_too(
    several: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """Plain transformers looks for it in the processor's files, and the plan finds it in either."""
    from trainer.model.base import load_processor

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    named = [{"name": name, "template": template} for name in ("default", "tool_use")]
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": named if several else template}))
    shown = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Now?"}]}]
    plain = render_answer(load_processor(str(tiny_model)), shown, "yes")
    processor = load_processor(str(folder))
    assert render_answer(processor, shown, "yes") == plain
    processor.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == template


def test_a_processor_whose_class_keeps_no_template_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As GIT's: beside the adapter it would be saved without one, and the code on the card would fail."""
    from trainer.model.base import load_processor

    class Forgetful:
        tokenizer = SimpleNamespace(chat_template="{{ messages }}")

    monkeypatch.setattr("trainer.model.processor.processor_of", lambda _: Forgetful())
    with pytest.raises(ConfigError, match="has no chat template"):
        load_processor(str(tmp_path))


def test_a_template_that_takes_text_gets_text(tmp_path: Path) -> None:
    """Given parts, it would raise or print them as Python does."""
    from trainer.model.base import load_processor

    write_tiny_llama(tmp_path)
    processor = load_processor(str(tmp_path))
    shown = [
        {"role": "system", "content": [{"type": "text", "text": 'Say "yes"\nor no.'}]},
        {"role": "user", "content": [{"type": "text", "text": "Now?"}]},
    ]
    assert render_answer(processor, shown, "yes") == (
        '<|im_start|>system\nSay "yes"\nor no.<|im_end|>\n<|im_start|>user\nNow?<|im_end|>\n<|im_start|>assistant\n',
        "yes<|im_end|>\n",
    )
    assert answer_end(processor).stop == (processor.tokenizer.eos_token_id,)
    with pytest.raises(ValueError, match="takes no pictures"):
        processor(text=["a"], images=[["picture"]])
