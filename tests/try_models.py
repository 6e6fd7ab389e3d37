"""usage: python tests/try_models.py [TYPE ...] [--write]

Takes a tiny model with random weights of each image-text-to-text type of the installed transformers the whole way: two
steps of training in 4 bits, scores, infer, merge, the code on its card, and the adapter on its base with plain PEFT.
One line a type; --write puts the table into docs/model-types.md, where the results of types that are not named stay.
Takes half a minute a type.

Those whose processors need torchvision or timm go through a second process that has them (tests/helpers/
torchvision_here.py); --torchvision makes this the one.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import traceback
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "model-types.md"
ROW = re.compile(r"^\| `([\w.-]+)` \| (.*?) \| (.*) \|$", re.M)
STEPS_BACK = {
    "by the model's own": "the model's own head",
    "get no adapter": "linears without an adapter",
    "features of pictures": "every picture through the tower every time",
    "behind a prompt each": "actions scored behind a prompt each",
}
"""What a run says, and what it means in the table."""
WANTING = "needs torchvision"
VIDEOS = "needs torchvision, for its part for videos"
"""What a card says of such a processor; the page says it of all."""


def walk(kind: str, folder: Path) -> tuple[str, str]:
    """("trains", how), ("refused", why) or ("not built here", why)."""
    from toy_models import NeedsTorchvision, NotBuildable, write_toy

    from trainer.model.refusal import what_to_install

    try:
        write_toy(kind, folder / "model")
    except NeedsTorchvision as error:
        return WANTING, str(error)
    except NotBuildable as error:
        return "not built here", str(error)
    except ImportError as error:  # its tower may want timm, which the other process has
        lacking = what_to_install(error)
        return (WANTING if "timm" in lacking and "torchvision" not in sys.modules else "not built here"), lacking
    except Exception as error:  # whatever a configuration's class makes of small numbers
        return "not built here", f"{type(error).__name__}: {' '.join(str(error).split())[:140]}"
    return taken(folder)


def taken(folder: Path) -> tuple[str, str]:
    """The model in `folder`/model the whole way: ("trains", how) or ("refused", why); ("fails", why) is a fault of
    ours."""
    from training import reload_adapter

    from examples.demo.frames import write_dataset
    from trainer.__main__ import main
    from trainer.train import main as train

    model, run, data = folder / "model", folder / "run", folder / "walks"
    write_dataset(data, episodes=2, eval_episodes=1)
    settings = {
        "model": model, "data": data, "output_dir": run, "run_id": "toy", "device": "cpu", "max_steps": 2, "lora_r": 4,
        "lora_alpha": 8, "eval_samples": 1, "score_samples": 2, "micro_batch_size": 2, "logging_steps": 1,
        "max_length": 4096,
    }  # fmt: skip
    picture = next(iter(sorted((data / "frames").glob("*.png"))))
    said = ""
    for argv in (
        [f"--{name}={value}" for name, value in settings.items()],
        ["infer", "--run", str(run), *[str(picture)] * 4, "--answer", "--json"],
        ["merge", "--run", str(run), "--max_drop", "1"],
    ):
        code, printed = quietly(train if argv[0].startswith("--") else main, argv)
        said += printed
        if code:
            last = [line for line in printed.strip().splitlines() if line][-1]
            return ("refused" if code == 78 else "fails"), last.partition("/model")[2].lstrip(": ") or last
    quietly(reload_adapter, str(model), str(run), str(folder / "peft.json"), False)
    if not json.loads((folder / "peft.json").read_text())["same"]:
        return "fails", "plain PEFT does not find the adapter's weights"
    (left,) = re.findall(r"neither in 4 bits nor adapted +([\d.]+%)", said)
    back = [words for mark, words in STEPS_BACK.items() if mark in said]
    back += carded(run, [str(picture)] * 4, data, said)
    back += ["with torchvision"] * ("torchvision" in sys.modules)
    return "trains", "; ".join([f"{left} left alone", *back])


def cut(words: str) -> str:
    """The beginning of an error, for a cell of a table."""
    return textwrap.shorten(words.replace("`", "").replace("|", "/"), 80, placeholder=" ...")


def carded(run: Path, frames: list[str], data: Path, said: str) -> list[str]:
    """What is to be said of the code on a run's card: nothing when it answers as `infer`, which is in `said`, does."""
    from card_code import filled, run_card

    code = filled(run / "adapter" / "README.md", frames, data / "eval.jsonl")
    failed, printed = quietly(run_card, str(run), code, str(run / "answer"))
    if failed:
        last = printed.strip().splitlines()[-1]
        of_videos = "torchvision" in last or "video processor" in last
        return [] if of_videos and VIDEOS in code else [f"its card's code fails ({cut(last)})"]
    (line,) = (line for line in said.splitlines() if line.startswith("{") and '"answer"' in line)
    answered = (run / "answer").read_bytes().decode()  # an answer of random weights may have a bare \r
    return [] if whole(answered) == whole(json.loads(line)["answer"]) else ["its card's code answers otherwise"]


def whole(answer: str) -> str:
    """An answer without what is left of broken characters. Random weights write single bytes of them on both sides of
    a special token; whether these are decoded together depends on when that token is left out."""
    return answer.replace("\N{REPLACEMENT CHARACTER}", "")


def quietly(work: Any, *arguments: Any) -> tuple[int, str]:
    """(exit code, what was printed)."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = work(*arguments) or 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 1
    return code, printed.getvalue()


def forked(kind: str) -> tuple[str, str]:
    """`walk` in a process of its own: a model leaves things behind in the libraries."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child = os.fork()
        if not child:
            with (folder / "log").open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                try:
                    (folder / "found").write_text(json.dumps(walk(kind, folder)))
                except BaseException:
                    traceback.print_exc()
            os._exit(0)
        os.waitpid(child, 0)
        if (folder / "found").exists():
            found: list[str] = json.loads((folder / "found").read_text())
            return found[0], found[1]
        last = (folder / "log").read_text().strip().splitlines() or ["it ended without a word"]
        return "fails", last[-1][:160]


def known(page: str) -> dict[str, tuple[str, str]]:
    """The table of a page."""
    return {kind: (result, how) for kind, result, how in ROW.findall(page)}


def written(page: str, found: dict[str, tuple[str, str]]) -> str:
    """The page with these results in its table."""
    lines = (f"| `{kind}` | {result} | {how.replace('|', '/')} |" for kind, (result, how) in sorted(found.items()))
    rows = "\n".join(lines)
    head, _, _ = page.partition("| type |")
    return f"{head}| type | result | how, or why not |\n|---|---|---|\n{rows}\n"


def main(argv: list[str]) -> int:
    sys.path[:0] = [str(TESTS.parent), str(TESTS / "helpers")]
    os.environ.update({"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"})
    if "--torchvision" in argv:
        from torchvision_here import provide

        provide()
    import transformers
    from training import PRELOADED
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES

    for name in PRELOADED:  # so that no child loads them anew
        importlib.import_module(name)

    transformers.logging.set_verbosity_error()
    kinds = [word for word in argv if not word.startswith("--")] or list(TYPES)
    found: dict[str, tuple[str, str]] = {}
    wanting = []
    for kind in kinds:
        result = forked(kind)
        if result[0] == WANTING and "--torchvision" not in argv:
            wanting.append(kind)
            continue
        found[kind] = result
        print(kind, *found[kind], sep="  ", flush=True)
        if "--write" in argv:
            # Of the page as it is now: two of these programs may be at work.
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(written(page, {**known(page), kind: result}), encoding="utf-8")
    failed = any(found[kind][0] == "fails" for kind in kinds if kind not in wanting)
    if wanting:
        command = [sys.executable, __file__, *wanting, "--torchvision", *(word for word in argv if word == "--write")]
        failed |= subprocess.run(command, check=False).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
