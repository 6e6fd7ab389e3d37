"""What a finished run can be used for: its card, asking it, merging it. One short run serves all."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from card_code import code_of, filled, run_card
from paths import ROOT
from training import run_forked, train_forked

from trainer.__main__ import main
from trainer.commands import command
from trainer.evaluation.metrics import interval
from trainer.results.card import base_name
from trainer.results.trained import shared_texts

pytestmark = pytest.mark.slow  # one run of a quarter of a minute, and what follows from it
Entry = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Its generation_config knows another end than its template writes, as that of a base that is not tuned yet."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("base") / "model")
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    eos, _ = settings["eos_token_id"]
    path.write_text(json.dumps({**settings, "eos_token_id": eos}))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path, walks: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    ended = train_forked(folder, model=base, data=walks, max_steps=80, micro_batch_size=16, lora_r=32, lora_alpha=64)
    assert ended.codes == (0,), ended.output
    return folder / "run"


@pytest.fixture(scope="module")
def merged(run: Path) -> tuple[Path, Entry]:
    """Folder of the merged weights, and what merge printed."""
    ended = run_forked(run.parent / "merge", main, ["merge", "--run", str(run), "--json"])
    assert ended.codes == (0,), ended.output
    return run / "merged", report_in(ended.output)


def report_in(output: str) -> Entry:
    entry: Entry = json.loads(output[output.index("\n{\n") if "\n{\n" in output else output.index("{\n") :])
    return entry


def answers(folder: Path, words: list[str], stdin: str = "") -> tuple[int, list[Entry]]:
    """Exit code of infer, and the objects that it printed on a line each."""
    ended = run_forked(folder, infer_from, words, stdin)
    return ended.codes[0], [json.loads(line) for line in ended.output.splitlines() if line.startswith('{"')]


def infer_from(words: list[str], stdin: str) -> int:
    reading, writing = os.pipe()
    os.write(writing, stdin.encode())
    os.close(writing)
    os.dup2(reading, 0)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    return main(["infer", *words])


def infer_in(folder: str, words: list[str]) -> int:
    os.chdir(folder)
    return main(["infer", *words])


def predicted(run: Path) -> list[Entry]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]


def test_the_card_says_what_was_trained_on_what_and_how_good_it_is(run: Path, walks: Path) -> None:
    card = (run / "adapter" / "README.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    after, before, data = metrics["after"], metrics["before"], metrics["data"]
    records = len((walks / "eval.jsonl").read_text().splitlines())
    assert (
        f"| likeliest allowed action | {records} | {after['majority_accuracy']:.1%} ({after['majority']}) | "
        f"{before['accuracy']:.1%} ({interval(before['accuracy'], records)}) | "
        f"{after['accuracy']:.1%} ({interval(after['accuracy'], records)}) | {after['macro_f1']:.3f} | - |"
    ) in card
    written = metrics["generated_after"]
    assert f"| {written['macro_f1']:.3f} | {written['valid_json']:.1%} |" in card and written["valid_json"] > 0.9
    assert f"{data['train']} records to train on, {records} held out (eval.jsonl)" in card
    assert f"`{data['sha256']}`" in card and len(data["sha256"]) == 64
    assert "| `learning_rate` | 0.002 |" in card and "| `lora_r` | 32 |" in card
    assert re.search(r"torch [\d.]+.*, transformers 5", card) and re.search(r": 0\.\d+ GiB \(resident", card)


def test_no_card_and_no_usage_file_names_a_place_on_this_machine(run: Path, merged: tuple[Path, Entry]) -> None:
    for folder in (run / "adapter", merged[0]):
        for path in folder.glob("*"):
            if path.suffix in (".md", ".json") and path.name != "adapter_config.json":
                assert not re.search(r"(?<![\w<])/(tmp|home|root|var|usr|work)\b", path.read_text()), path
    assert base_name("google/gemma-3-4b-it") == "google/gemma-3-4b-it"
    assert base_name("/data/models/gemma/") == base_name("./gemma") == "gemma"


def test_the_code_on_both_cards_runs_and_answers_as_infer_does(
    run: Path, merged: tuple[Path, Entry], walks: Path, tmp_path: Path
) -> None:
    line = json.loads((walks / "eval.jsonl").read_text().splitlines()[0])
    frames = [str(walks / name) for name in line["frames"]]
    for folder in (run / "adapter", merged[0]):
        _, (wanted,) = answers(tmp_path / f"ask-{folder.name}", ["--run", str(folder), "--answer", "--json", *frames])
        code = filled(folder / "README.md", frames, walks / "eval.jsonl")
        assert f"max_new_tokens={json.loads((folder / 'trainyard.json').read_text())['answer_tokens']}," in code
        ended = run_forked(tmp_path / folder.name, run_card, str(run), code, str(tmp_path / "answer"))
        assert ended.codes == (0,), ended.output
        assert (tmp_path / "answer").read_text() == wanted["answer"]
        assert json.loads(wanted["answer"])["button"] == wanted["action"]


def test_the_card_opens_pictures_as_training_did(run: Path, tmp_path: Path) -> None:
    """Transparent, turned, of 16 bits, with a palette; alone and in a grid."""
    from PIL import Image

    from trainer.data.grid import load_picture

    clear = Image.new("RGBA", (40, 24), (200, 0, 0, 0))
    clear.paste((10, 90, 200, 128), (4, 4, 20, 20))
    turned = Image.Exif()
    turned[0x0112] = 3
    clear.save(tmp_path / "clear.png")
    clear.save(tmp_path / "turned.png", exif=turned)
    clear.convert("PA").save(tmp_path / "palette.tiff")
    Image.new("I;16", (40, 24), 0x8123).save(tmp_path / "deep.png", exif=turned)
    Image.new("I;16", (40, 24), 0x0123).save(tmp_path / "twelve.png")
    paths = [str(tmp_path / name) for name in ("clear.png", "turned.png", "twelve.png", "deep.png")]
    code = code_of(run / "adapter" / "README.md")
    opening = code[code.index("def grey_bits") : code.index("image = open_grid")]
    names: dict[str, Any] = {}
    exec("import numpy as np\nfrom PIL import Image, ImageDraw, ImageOps\n" + opening, names)
    assert names["open_grid"](paths).tobytes() == load_picture(paths).tobytes()
    for path in (*paths, str(tmp_path / "palette.tiff")):
        assert names["open_image"](path).tobytes() == load_picture([path]).tobytes(), path


def test_answers_stop_where_training_ended_them(run: Path, merged: tuple[Path, Entry], walks: Path) -> None:
    known = {json.loads(line)["output"] for line in (walks / "train.jsonl").read_text().splitlines()}
    written = [line["answer"] for line in predicted(run) if "answer" in line]
    assert len(written) == 8 and set(written) <= known
    usage = json.loads((run / "adapter" / "trainyard.json").read_text())
    settings = json.loads((merged[0] / "generation_config.json").read_text())
    assert settings["eos_token_id"] == usage["end"]["stop"] and len(usage["end"]["stop"]) == 2
    assert settings["max_new_tokens"] == usage["answer_tokens"]


def infer_command(run: Path) -> str:
    """As the report prints it."""
    page = re.sub(r'<span class="flag">(.*?)</span>', r"\1", (run / "report.html").read_text())
    (found,) = re.findall(r"<pre class=\"wrap\">(cd .*? -m trainer infer .*?)</pre>", html.unescape(page), re.S)
    return str(found)


def test_the_command_in_the_report_runs_as_it_is_printed(run: Path, tmp_path: Path) -> None:
    command = infer_command(run)
    assert " --records " not in command and command.count(".png") == 4
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["action"] == predicted(run)[0]["prediction"]
    page = html.unescape((run / "report.html").read_text())
    (code,) = re.findall(r"<pre>(from peft .*?)</pre>", page, re.S)
    ended = run_forked(tmp_path / "log", run_card, str(tmp_path), code, str(tmp_path / "answer"))
    assert ended.codes == (0,), ended.output


def test_a_template_without_an_end_trains_a_model_that_stops(base: Path, walks: Path, tmp_path: Path) -> None:
    """On records that have no context in common, so the report's command asks about one that is kept for it."""
    model = shutil.copytree(base, tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    assert template.count("{{ '<end_of_turn>\\n' }}") == 1
    (model / "chat_template.jinja").write_text(template.replace("{{ '<end_of_turn>\\n' }}", ""))
    lines = [json.loads(line) for line in (walks / "train.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line.update(context=f"step {number}", frames=[f"{walks}/{name}" for name in line["frames"]])
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = train_forked(tmp_path, model=model, data=data, max_steps=60, micro_batch_size=16, lora_r=32, lora_alpha=64)
    assert ended.codes == (0,), ended.output
    assert "data: the chat template puts no end of turn behind an answer: <eos> is learned there" in ended.output
    known = {json.loads(line)["output"] for line in (walks / "train.jsonl").read_text().splitlines()}
    written = [line["answer"] for line in predicted(tmp_path / "run") if "answer" in line]
    assert len(written) == 8 and set(written) <= known
    command = infer_command(tmp_path / "run")
    assert command.endswith(f" --records {tmp_path}/run/example.jsonl")
    done = subprocess.run(command, shell=True, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["action"] == predicted(tmp_path / "run")[0]["prediction"]
    assert "infer --run FOLDER --records FILE" in (tmp_path / "run" / "adapter" / "README.md").read_text()


def test_infer_answers_as_the_held_out_scoring_did(run: Path, walks: Path, tmp_path: Path) -> None:
    lines = (walks / "eval.jsonl").read_text().splitlines(keepends=True)[:6]
    bare = [json.dumps({k: v for k, v in json.loads(line).items() if k != "output"}) + "\n" for line in lines]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(bare).replace("frames/", f"{walks}/frames/"))
    code, found = answers(tmp_path / "file", ["--run", str(run), "--records", str(asked)])
    assert code == 0
    for entry, line in zip(found, predicted(run), strict=False):
        assert entry["action"] == line["prediction"]
        assert entry["probabilities"] == pytest.approx(line["probabilities"], abs=1e-5)
    assert len(found) == 6

    # One that an answer was written out for.
    place = next(place for place, line in enumerate(predicted(run)) if "answer" in line)
    entry, line = json.loads((walks / "eval.jsonl").read_text().splitlines()[place]), predicted(run)[place]
    words = ["--run", str(run / "adapter"), "--answer", *(str(walks / name) for name in entry["frames"]), "--json"]
    code, (one,) = answers(tmp_path / "one", words)
    assert code == 0 and one["probabilities"] == pytest.approx(line["probabilities"], abs=1e-5)
    assert one["answer"] == line["answer"]

    # One of the four frames is taken as a ready grid, which is said.
    ended = run_forked(tmp_path / "single", infer_from, [*words[:3], *words[6:]], "")
    note = "trainyard: one picture is taken as a ready grid; training drew grids of four frames: give the four, oldest"
    assert ended.codes == (0,) and note in ended.output
    assert json.loads((run / "adapter" / "trainyard.json").read_text())["pictures"] == [1]


def test_a_question_may_have_several_lines_and_no_context(run: Path, walks: Path, tmp_path: Path) -> None:
    shutil.copy(next(walks.glob("frames/*.png")), tmp_path / "here.png")
    entry = {"image": "here.png", "context": "", "question": "Which\nway?"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(entry) + "\n")
    _, (wanted,) = answers(tmp_path / "file", ["--run", str(run), "--records", str(tmp_path / "asked.jsonl")])
    words = ["--run", str(run), "--context", "", "--question", entry["question"], "--json", "./here.png"]
    ended = run_forked(tmp_path / "log", infer_in, str(tmp_path), words)
    assert ended.codes == (0,) and json.loads(ended.output.splitlines()[-1]) == wanted


def test_a_pipe_is_answered_line_by_line_and_a_bad_line_stops_nothing(run: Path, walks: Path, tmp_path: Path) -> None:
    image = str(next(walks.glob("frames/*.png")))
    message = {"messages": [{"role": "user", "content": "Which <image>?"}], "images": [image]}
    lines = [json.dumps(message), "{", json.dumps({**message, "images": ["gone.png"]}), json.dumps(message)]
    code, found = answers(tmp_path, ["--run", str(run), "--records", "-"], "\n".join(lines) + "\n")
    assert code == 1
    assert found[1:3] == [
        {"error": "line 2 is not JSON (Expecting property name enclosed in double quotes at column 2)"},
        {"error": "line 3: gone.png is not there"},
    ]
    assert found[0] == found[3] and sum(found[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "RUN"], "infer takes pictures or a file of records (--records), got neither: "),
        (["--run", "no/such", "x.png"], "no/such holds no trained model (trainyard.json is not there): give a"),
        (["--run", "RUN", "x" * 300], f"the images cannot be used: {'x' * 300} is not there"),
        (["--run", "RUN", "x.png"], "the images cannot be used: x.png is not there"),
        (["--run", "RUN", "/tmp"], "the images cannot be used: /tmp is no file"),
        (["--run", "RUN", "FRAME", "--base", "/none"],
         "MODEL=/none: is not there: give a model folder, or a hub id; --base says where the adapter's base is"),
        (["--run", "RUN", "a.png", "b.png"], "2 images: training used a grid of four frames; give the four, oldest"),
        (["--run", "RUN", "--records", "no.jsonl"], "records no.jsonl cannot be read (No such file or directory)"),
        (["--run", "RUN", "x.png", "--questoin", "?"], "unknown '--questoin', did you mean question? known are run"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_line(
    words: list[str], message: str, run: Path, walks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": str(run), "FRAME": str(next(walks.glob("frames/*.png")))}
    assert main(["infer", *(places.get(word, word) for word in words)]) == 78
    assert capsys.readouterr().err.startswith(f"trainyard: {message}")


def test_a_context_that_no_record_has_is_empty_and_one_that_differs_must_be_said(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    for rows, context in (
        (({"messages": []}, {"conversations": []}), ""),
        (({"context": "look"}, {"context": "look"}), "look"),
        (({"context": "look"}, {"context": "run"}), None),
        (({"context": "look"}, {"messages": []}), None),
    ):
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert shared_texts(str(data)) == {"context": context, "question": None}


def test_records_that_begin_alike_are_asked_with_their_system_text(
    walks: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (walks / "train.jsonl").read_text().splitlines()[:40]]
    said = [{"role": "system", "content": "Play well."}, {"role": "user", "content": "Which way?"}]
    rows = [{"messages": [*said, {"role": "assistant", "content": line["output"]}], "frames": line["frames"],
             "metadata": line["metadata"]} for line in lines]  # fmt: skip
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows).replace("frames/", f"{walks}/frames/"))
    ended = train_forked(tmp_path, model=tiny_model, data=data, max_steps=2, micro_batch_size=4, eval_samples=2)
    assert ended.codes == (0,), ended.output
    usage = tmp_path / "run" / "adapter" / "trainyard.json"
    assert json.loads(usage.read_text())["system"] == "Play well."

    (tmp_path / "asked.jsonl").write_text(data.read_text().splitlines(keepends=True)[0])
    asked = ["--run", str(tmp_path / "run"), "--records", str(tmp_path / "asked.jsonl")]
    _, (wanted,) = answers(tmp_path / "file", asked)
    frames = [str(walks / name) for name in lines[0]["frames"]]
    words = ["--run", str(tmp_path / "run"), "--question", "Which way?", *frames]
    assert answers(tmp_path / "one", [*words, "--json"]) == (0, [wanted])
    assert answers(tmp_path / "other", [*words, "--json", "--system", "Play badly."])[1] != [wanted]
    usage.write_text(json.dumps({**json.loads(usage.read_text()), "system": None}))
    assert main(["infer", *words]) == 78
    way = command("trainer", "infer", "--run", tmp_path / "run", *frames, "--system", "You play a game.")
    assert capsys.readouterr().err == f"trainyard: the training records have no system in common: {way}\n"


def load_plainly(folder: str, out: str) -> None:
    """The merged folder with transformers alone; its config and the kinds of its parameters to `out`."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)
    kinds = sorted({str(p.dtype) for p in model.parameters()})
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    told = {"class": type(model).__name__, "kinds": kinds, "tied": tied}
    Path(out).write_text(json.dumps(told | {"quantized": hasattr(model.config, "quantization_config")}))


def test_the_merged_model_loads_plainly_and_answers_as_the_adapter_did(
    run: Path, merged: tuple[Path, Entry], walks: Path, tmp_path: Path
) -> None:
    folder, report = merged
    after = json.loads((run / "metrics.json").read_text())["after"]
    records = after["samples"]
    assert report["before"]["accuracy"] == report["after"]["accuracy"] == after["accuracy"]
    assert after["accuracy"] > after["majority_accuracy"]
    assert (report["same"], report["records"], report["drop"], report["out"]) == (records, records, 0, str(folder))
    ended = run_forked(tmp_path, load_plainly, str(folder), str(tmp_path / "out.json"))
    assert ended.codes == (0,), ended.output
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "class": "Gemma3ForConditionalGeneration", "kinds": ["torch.float32"], "tied": True, "quantized": False,
    }  # fmt: skip
    asked = walks / "eval.jsonl"
    code, found = answers(tmp_path / "ask", ["--run", str(folder), "--records", str(asked)])
    assert code == 0
    assert [entry["action"] for entry in found] == [line["prediction"] for line in predicted(run)]


def test_a_merge_that_loses_answers_ends_with_1_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("merged", "checkpoints", "wandb"))
    record = json.loads((copy / "metrics.json").read_text())
    record["data"]["sha256"] = "of other records"
    (copy / "metrics.json").write_text(json.dumps(record))
    ended = run_forked(tmp_path / "log", merge_spoiled, str(copy))
    assert ended.codes == (1,), ended.output
    assert f"trainyard: {record['config']['data']} has changed since the run: " in ended.output
    assert re.search(
        r"trainyard: merged, \d+\.\d\d% of the answers are lost, 1\.00% are allowed: nothing is kept", ended.output
    )
    assert not [path.name for path in copy.iterdir() if "merged" in path.name]


def merge_spoiled(run: str) -> int:
    """Merge, with weights that are damaged on their way to the disk."""
    from peft import LoraModel

    merge_and_unload = LoraModel.merge_and_unload

    def damaged(self: Any) -> Any:
        model = merge_and_unload(self)
        for parameter in model.get_decoder().layers.parameters():
            parameter.data.mul_(-1)
        return model

    LoraModel.merge_and_unload = damaged  # type: ignore[method-assign]
    return main(["merge", "--run", run])


def test_a_folder_that_is_there_is_not_merged_into(
    run: Path, merged: tuple[Path, Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", "--run", str(run)]) == 78
    assert capsys.readouterr().err == (
        f"trainyard: {run}/merged is there already: "
        f"{command('trainer', 'merge', '--run', run, '--out', f'{run}/merged-2')} makes another\n"
    )
    assert main(["merge", "--run", str(run / "adapter"), "--out", str(run / "x")]) == 78
    assert "is no finished run (metrics.json cannot be read)" in capsys.readouterr().err
    assert not (run / "x").exists()


def test_another_family_with_its_tower_trained_merges_and_answers_alike(
    tiny_qwen: Path, walks: Path, tmp_path: Path
) -> None:
    ended = train_forked(tmp_path, model=tiny_qwen, data=walks, vision="lora")
    assert ended.codes == (0,), ended.output
    ended = run_forked(tmp_path / "merge", main, ["merge", "--run", str(tmp_path / "run"), "--json"])
    assert ended.codes == (0,), ended.output
    report = report_in(ended.output)
    assert report["same"] == report["records"] == len((walks / "eval.jsonl").read_text().splitlines())
    for folder in (tmp_path / "run" / "adapter", Path(report["out"])):
        # Plain AutoProcessor, with torchvision, asks for it.
        assert json.loads((folder / "processor_config.json").read_text())["video_processor"]
    words = ["--run", report["out"], "--records", str(walks / "eval.jsonl")]
    code, found = answers(tmp_path / "ask", words)
    assert code == 0
    assert [entry["action"] for entry in found] == [line["prediction"] for line in predicted(tmp_path / "run")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, "'tpu' is no device or quantization"),
        ({"quantization": "int8"}, "'int8' is no device or quantization"),
        ({"choices": {"actions": ["up", "down"], "rest": [[1]]}}, "2 actions, tokens of 1"),
        ({"choices": {"actions": ["up", 3], "rest": [[1], [2]]}}, "choices.actions is of another kind"),
        ({"choices": {"actions": ["up"], "rest": [[-1]]}}, "choices.rest is of another kind"),
        ({"answer_tokens": "9); import os; os.system('id') #"}, "answer_tokens is of another kind"),
        ({"answer_tokens": 10**9}, "1000000000 answer_tokens, or an action without tokens"),
        ({"end": {"stop": ["1"], "before": "", "behind": "", "added": ""}}, "end.stop is of another kind"),
        ({"end": {"stop": [1], "before": 5, "behind": "", "added": ""}}, "end.before is of another kind"),
        ({"frames": True}, "frames is of another kind"),
        ({"system": ["x"]}, "system is of another kind"),
        ({"columns": None}, "columns is of another kind"),
    ],
)
def test_a_usage_file_that_training_did_not_write_is_one_line(
    change: Entry, message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(run / "adapter", tmp_path / "adapter")
    usage = json.loads((folder / "trainyard.json").read_text())
    if "choices" in change:
        change = {"choices": {**usage["choices"], **change["choices"]}}
    (folder / "trainyard.json").write_text(json.dumps({**usage, **change}))
    assert main(["infer", "--run", str(folder), "x.png"]) == 78
    assert capsys.readouterr().err == f"trainyard: {folder}/trainyard.json is not what training wrote ({message})\n"


def test_a_base_named_from_the_checkout_is_found_from_elsewhere(
    run: Path, walks: Path, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    named = json.loads((adapter / "adapter_config.json").read_text())
    named["base_model_name_or_path"] = os.path.relpath(tiny_model, ROOT)
    (adapter / "adapter_config.json").write_text(json.dumps(named))
    words = ["--run", str(adapter), str(next(walks.glob("frames/*.png")))]
    (elsewhere := tmp_path.joinpath(*Path(__file__).resolve().parts[1:])).mkdir(parents=True)  # as deep as the checkout
    # Of this name there is something here, too.
    (elsewhere / os.path.relpath(tiny_model, ROOT)).resolve().mkdir(parents=True)
    ended = run_forked(tmp_path / "log", infer_in, str(elsewhere), words)
    assert ended.codes == (0,), ended.output


def test_a_damaged_adapter_is_one_line(
    run: Path, walks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(next(walks.glob("frames/*.png")))
    for text in ("{", "{}", "[]", '{"base_model_name_or_path": null}'):
        folder = shutil.copytree(run / "adapter", tmp_path / "adapter", dirs_exist_ok=True)
        (folder / "adapter_config.json").write_text(text)
        assert main(["infer", "--run", str(folder), image]) == 78
        assert capsys.readouterr().err.startswith(f"trainyard: {folder}/adapter_config.json names no base (")
    for damage in ("gone", "cut short"):
        folder = tmp_path / damage
        shutil.copytree(run / "adapter", folder)
        weights = folder / "adapter_model.safetensors"
        if damage == "gone":
            weights.unlink()
        else:
            weights.write_bytes(weights.read_bytes()[:1000])
        ended = run_forked(tmp_path / f"{damage} log", main, ["infer", "--run", str(folder), image])
        assert ended.codes == (78,)
        assert f"trainyard: the adapter in {folder} cannot be put on its base (" in ended.output
        assert "Traceback" not in ended.output
