"""A secret in a request is refused in one line that does not tell it; what only sounds like one is rendered."""

from __future__ import annotations

import os
import random
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import ROOT
from plans import make_plan

import k8s.__main__
import slurm.__main__
from launcher import cli
from launcher.records import run_record, write_record
from planner.request.secret import find_secret, is_secret
from trainer import log, terminal
from trainer.env_file import read_env_file, take_env_file
from trainer.outcome import ConfigError
from trainer.secret_shapes import hide_secrets
from trainer.tracking.wandb_run import words as wandb_words
from trainer.verbs import exit_code

CANARY = "cAnary7fJ2kQ9xZ1"
KEY = f"hf_{CANARY}{CANARY}"
IMAGE = "registry.example.org/team/trainyard:0.1.0"

SECRETS = [
    *(f"{name}={CANARY}" for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MY_PAT", "DB_PASS", "HF_TOKENS", "PASSPHRASE", "MYSQL_PWD",
        "apiKey", "HFTOKEN", "TOKEN2", "GITHUB_TOKEN", "HTTP_AUTH", "SENTRY_DSN", "SESSION_COOKIE", "sshkey",
        "SSHPASS", "MYAPP_PW", "STORAGE_SAS",
        "WANDB_API_KEY ", "DBPASSWORD",
    )),
    f"HTTPS_PROXY=user:{CANARY}@proxy:8080", f"HTTPS_PROXY=http://user:{CANARY}@proxy", f"X=hf_{CANARY}", f"X={KEY}",
    f"X=ghp_{CANARY}{CANARY}", f"X=AKIA{CANARY.upper()}", f"NCCL_DEBUG=INFO WANDB_API_KEY={CANARY}",
    f"X=Bearer {CANARY}", f"X=https://h/x?token={CANARY}", f"X={CANARY}{CANARY}{CANARY}", f"{CANARY}", f"{CANARY}==",
    f"hf_{CANARY}=", f"A=1,hf_{CANARY}",
    *(f"{name}={CANARY}" for name in (
        "HFKEY", "WANDBKEY", "OPENAIKEY", "USERPWD", "PASS_FILE", "HF_TOKEN_FILE", "KEY_PATH", "ACCESS_KEY_COLUMN_KEY",
    )),
    f"ARGS=--token {CANARY}", f"ARGS=-v --password {CANARY}", f"ARGS=--api-key={CANARY}", f"X=Authorization: {CANARY}",
    f"X=api_key: {CANARY}", f"X=--hf-token  {CANARY} --x", f"X=proxy-authorization:{CANARY}",
    f"CLIENT_SECRET=/{CANARY}/{CANARY}",
]  # fmt: skip
SHAPES = [
    f"gsk_{CANARY}", f"nvapi-{CANARY}", f"dckr_pat_{CANARY}", f"glsa_{CANARY}_1a2b", f"SG.{CANARY}.{CANARY}",
    f"dop_v1_{'0a1b' * 16}", f"r8_{CANARY}{CANARY}", f"ya29.{CANARY}", f"tskey-auth-{CANARY}", f"wandb_v1_{CANARY}",
    f"https://hooks.slack.com/services/T0/B0/{CANARY}", f"https://discord.com/api/webhooks/123/{CANARY}",
    f"sk_live_{CANARY}", f"hvs.{CANARY}",
]  # fmt: skip
HARMLESS = (
    "TOKENIZERS_PARALLELISM=true,MAX_TOKENS=512,KEYBOARD=us,HF_TOKEN_PATH=/me/token,HF_HUB_DISABLE_IMPLICIT_TOKEN=1,"
    "NCCL_IB_PKEY=0x7fff,NCCL_SOCKET_IFNAME=^lo,docker0,http_proxy=http://proxy:8080,CUBLAS_WORKSPACE_CONFIG=:4096:8,"
    "SSH_AUTH_SOCK=/tmp/agent,GIT_COMMIT=0123456789abcdef0123456789abcdef01234567,COMPASS=north,NUM_KEYS=12,BYPASS=x,"
    "NCCL_TOPO_FILE=/a/b:c@d,GOOGLE_APPLICATION_CREDENTIALS=/home/me/gcp.json,SSL_KEY=~/tls/key.pem,PASS_FILE=pass.txt,"
    f"CODE_VERSION={'0123456789' * 4},KEY_COLUMN=answer,ACTION_KEY=button,SORT_KEY=name,PAD_TOKEN=<pad>,EOS_TOKEN=</s>,"
    "TOKEN_BUDGET=512k,PASS=2,SIG=USR1,TAG=GemmaLoraHighRankLongContextRun2026November29,"
    "TRACE_ID=4b2f3c1e-1b2a-3c4d-5e6f-7a8b9c0d1e2f,CARD=GPU-4b2f3c1e-1b2a-3c4d-5e6f-7a8b9c0d1e2f,"
    "CARDS=MIG-4b2f3c1e-1b2a-3c4d-5e6f-7a8b9c0d1e2f,MASK_TOKEN=[MASK],MIG=MIG-GPU-4b2f3c1e-1b2a-3c4d-5e6f-7a8b9c0d1e2f/1/0,"
    "AT=10:30@home,BACKEND=hf_transfer,REMOTE=ssh://git@github.com/me/x,BEST=loss:0.31@step100,"
    "LABEL=qwen25VL-7B-Instruct-LoRA-r64-bs16-lr2e4,MAX_TOKENS=4k,ARGS=--key-column answer --max-tokens 512 --keys"
)


def told(capsys: pytest.CaptureFixture[str], module: str, *words: str) -> tuple[int, str]:
    """Exit code, and all that was written to stdout and stderr."""
    main = {"slurm": slurm.__main__.main, "k8s": k8s.__main__.main}[module]
    image = ["--image", IMAGE] if module == "k8s" and "--image" not in words else []
    code = main([*words, *image], {"HOME": "/home/ada"})
    shown = capsys.readouterr()
    return code, shown.out + shown.err


@pytest.mark.parametrize("module", ["slurm", "k8s"])
@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_in_environment_is_refused_and_not_said_back(
    text: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # `status` takes no ENVIRONMENT, and says of other variables what they were.
    for verb in ("render", "plan", "submit", "status"):
        code, said = told(capsys, module, verb, "--environment", text)
        assert (code, said.count("\n"), CANARY in said) == (78, 1, False), said
        assert said.startswith("trainyard: ENVIRONMENT")


@pytest.mark.parametrize("module", ["slurm", "k8s"])
def test_what_only_sounds_like_a_secret_is_rendered(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = told(capsys, module, "render", "--environment", HARMLESS)
    assert code == 0, said
    assert "MAX_TOKENS" in said and "HF_TOKEN_PATH" in said and "^lo,docker0" in said


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--data", f"https://u:{CANARY}@h/x"),
        ("--data", f"/x/{KEY}"),
        ("--model", f"https://u:{CANARY}@h"),
        ("--image", f"u:{CANARY}@registry.example.org/x:1"),
        ("--output", f"/x?token={CANARY}"),
        ("--grid", f"SEED=1,2 MODEL=https://{CANARY}@h/x"),
        ("--name", KEY),
        ("--gpus", KEY),
        ("--config-file", f"s3://u:{CANARY}@h"),
    ],
)
@pytest.mark.parametrize("module", ["slurm", "k8s"])
def test_a_secret_in_any_other_variable_is_refused_by_the_variables_name(
    flag: str, text: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = told(capsys, module, "render", flag, text)
    assert (code, said.count("\n"), CANARY in said) == (78, 1, False), said
    assert said.startswith(f"trainyard: {flag[2:].upper().replace('-', '_')}: ")
    assert ".env" in said


def test_a_gpu_by_its_uuid_is_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    card = "GPU-4b2f3c1e-1b2a-3c4d-5e6f-7a8b9c0d1e2f"
    code, said = told(capsys, "slurm", "render", "--environment", f"CUDA_VISIBLE_DEVICES={card}")
    assert (code, "is not to be set here" in said, "secret" in said) == (78, True, False), said


def test_a_refusal_says_what_to_do_with_what_is_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = told(capsys, "slurm", "render", "--environment", "GREETING_KEY=hello")
    assert said.endswith("; if it is no secret, name it otherwise or put it into a file\n")


@pytest.mark.parametrize("text", SHAPES)
def test_a_token_is_known_by_its_shape_and_hidden(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = told(capsys, "slurm", "render", "--environment", f"X={text}")
    assert (code, CANARY in said, text in said) == (78, False, False), said
    assert CANARY not in (hidden := hide_secrets(f"said {text} there")) and text not in hidden


def test_what_is_drawn_by_chance_is_known() -> None:
    drawn = random.Random(1)
    for letters in (string.ascii_letters + string.digits, "0123456789abcdef"):
        values = ["".join(drawn.choices(letters, k=40)) for _ in range(2000)]
        assert sum(is_secret("X", value) for value in values) > 1980


@pytest.mark.parametrize("words", [["render", f"{KEY}"], ["render", f"--{KEY}", "1"], [KEY], ["render", f"--{KEY}"]])
def test_a_stray_token_is_not_said_back(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, said = told(capsys, "slurm", *words)
    assert (code, CANARY in said) == (78, False)


def test_flags_of_sbatch_modules_and_binds_are_looked_at_too(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, text in (
        ("--extra-flags", f"--comment=token={CANARY}"),
        ("--extra-flags", f"--comment={KEY}"),
        ("--modules", f"{KEY}/1"),
        ("--binds", f"/{KEY}"),
        ("--mail-user", KEY),
    ):
        code, said = told(capsys, "slurm", "render", flag, text)
        assert (code, CANARY in said) == (78, False), said


@pytest.mark.parametrize("module", ["slurm", "k8s"])
def test_a_secret_in_the_site_file_is_refused(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"environment: {{MY_PAT: {CANARY}}}", f"environment: {{X: {KEY}}}", f"image: u:{CANARY}@h.org/x:1"]
    if module == "k8s":
        lines += [f"annotations: {{example.org/my-pat: {CANARY}}}", f"annotations: {{example.org/note: {KEY}}}"]
        lines += [
            f"tolerations: [{{key: k, value: {KEY}}}]",
            f"tolerations: [{{key: {KEY}, operator: Exists}}]",
            f"volumes: [{{claim: a, mount: /{KEY}}}]",
            f"priority_class: gsk_{CANARY}",
            f"gpu_selectors: {{a100: {{my-token: {CANARY}}}}}",
            f"image_pull_secrets: [a, {KEY}]",
            f"secret: {KEY}",
        ]
    lines += [f"gpu_types: {{{KEY}: 80}}", f"{KEY}: 1"]
    for line in lines:
        (tmp_path / "site.yaml").write_text(f"{line}\n")
        code, said = told(capsys, module, "render", "--site", str(tmp_path / "site.yaml"))
        assert (code, CANARY in said) == (78, False), said
        assert "site.yaml" in said


def test_what_a_site_file_names_is_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.yaml").write_text(
        "secret: my-secret\nimage_pull_secrets: [team-token]\npvc: a\nvolumes: {claim: keys, mount: /keys}\n"
        "tolerations: [{key: auth.example.org/key, value: some-team}]\n"
        f"annotations: {{example.org/commit: {'0123456789' * 4}, note: 'a b: c'}}\n"
    )
    code, said = told(capsys, "k8s", "render", "--site", str(tmp_path / "site.yaml"))
    assert code == 0, said


def test_the_settings_file_that_a_manifest_carries_holds_none(checkout: Path) -> None:
    (checkout / "train.yaml").write_text(f"# {KEY}\nmax_steps: 20\n")
    words = [sys.executable, "-m", "k8s", "render", "--image", IMAGE, "--config-file", "train.yaml"]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, CANARY in done.stderr) == (78, "", False)
    assert done.stderr.startswith("trainyard: CONFIG_FILE=train.yaml line 1: it holds a token, ")


@pytest.mark.parametrize("line", [f"{CANARY}==", f"hf_{CANARY}=x", f"MY PAT {CANARY}", f"MY_PAT={CANARY}"])
def test_env_says_no_line_back(line: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=r"\.env line 1: ") as caught:
        read_env_file(tmp_path / ".env")
    assert CANARY not in str(caught.value)


def test_make_hands_nothing_secret_through(tmp_path: Path) -> None:
    """As it is typed: the value goes through make's own words too."""
    environ = {**os.environ, "PYTHON": sys.executable}
    words = ["make", "--no-print-directory", "render", f"ENVIRONMENT=MY_PAT={CANARY}"]
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert CANARY not in done.stdout + done.stderr


def test_shapes_of_tokens_are_hidden_in_whatever_is_said() -> None:
    assert hide_secrets(f"git said: https://u:{CANARY}@h/x, {KEY}") == "git said: https***h/x, ***"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Give a basic description", "Give a basic description"),
        ("a bearer instrument, basic learning_rate=0.1, Basic Instructions", None),
        ("a basic understanding-of-everything", None),
        ("user:pw@home", "***home"),
        ("at 10:30@home, 12:30pm@lab, (9:41:07@home), 2026-11-29T10:30:00@lab", None),
        ("16:9@60, loss:0.31@step100, top:5@k, mailto:ada@example.org, ssh://git@github.com/me/x", None),
        ("sk-learn-gradient-boosting-baseline, xai-explainability-benchmark, pplx-70b-online-chat-preview", None),
        ("ada:1030@home 10:secret@home x:12a@home ssh://ada:pw@h sftp://ada:pw@h", "***home ***home ***home ***h ***h"),
        ("1030:passw0rd@home 12:30x@home", "***home ***home"),
        ("hf://ada@h", "hf***h"),
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("{'authorization': 'Basic dTpw'}", "{'authorization': '***'}"),
        (f"bearer {CANARY}!", "***!"),
        ("basic dXNlcjpwYXNz==", "***"),
    ],
)
def test_plain_words_are_shown_and_no_letter_more_than_the_secret_is_hidden(said: str, shown: str | None) -> None:
    assert hide_secrets(said) == (said if shown is None else shown)


def test_a_mebibyte_that_begins_like_an_address_at_every_part_is_looked_through_in_a_second() -> None:
    text = "".join(f"k{number}:{number}," for number in range(1 << 17))[: 1 << 20]
    assert len(text) == 1 << 20
    began = time.process_time()
    assert hide_secrets(text) == text
    assert time.process_time() - began < 1


WORDS = st.sampled_from(["MY", "APP", "Db", "x2", "PROD"])
SECRET_WORDS = st.sampled_from(["TOKEN", "pass", "Secret", "API_KEY", "PAT", "passphrase", "CREDENTIALS", "PASSWORD"])
NAMES = st.tuples(st.lists(WORDS, max_size=2), SECRET_WORDS, st.lists(st.sampled_from(["ID", "OLD", "1"]), max_size=1))
PLACES = st.sampled_from(
    ["{n}={v}", "A=1,{n}={v}", "A=1 {n}={v}", "{n} = {v}", "A=x;{n}={v}", "A={n}={v}", "A=--x {n}={v} b", "{n}={v},B=2"]
)
FLAGS = st.sampled_from(["--environment", "--data", "--model", "--output", "--image", "--extra-flags", "--name"])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=NAMES, place=PLACES, flag=FLAGS, module=st.sampled_from(["slurm", "k8s"]))
def test_wherever_a_secret_stands_no_output_holds_it(
    capsys: pytest.CaptureFixture[str], parts: tuple[list[str], str, list[str]], place: str, flag: str, module: str
) -> None:
    before, word, after = parts
    text = place.format(n="_".join([*before, word, *after]), v=CANARY)
    code, said = told(capsys, module, "render", flag, text)
    assert (code, CANARY in said) == (78, False), said


@settings(max_examples=50, deadline=None)
@given(name=st.text(max_size=20), value=st.text(max_size=40))
def test_any_name_and_value_is_judged_without_an_error(name: str, value: str) -> None:
    is_secret(name, value)
    find_secret(f"{name}={value}")
    assert CANARY not in hide_secrets(f"{value} https://u:{CANARY}@h")


def test_what_a_library_says_of_a_token_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_: object) -> int:
        raise OSError(f"401 for https://u:{CANARY}@h/x with {KEY}, Authorization: Bearer {CANARY}{CANARY}")

    assert exit_code(fails, []) == 1
    cli.say(f"git said {KEY}")
    log.say(f"one\nhub said {KEY}")
    log.complain(f"hub said {KEY}")
    assert wandb_words(RuntimeError(f"https://{CANARY}@api.wandb.ai: {KEY}")) == "https***api.wandb.ai: ***"
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err
    assert said.err.splitlines()[0] == "trainyard: 401 for https***h/x with ***, Authorization: ***"
    assert said.out == "one\nhub said ***\n"


def test_a_secret_is_hidden_before_a_terminal_breaks_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "size", lambda: (30, 24))
    terminal.say(f"the hub answered with Bearer {CANARY} and no more than that")
    assert capsys.readouterr().out == "the hub answered with *** and\n  no more than that\n"


@pytest.mark.parametrize(("module", "verb"), [("slurm", "plan"), ("slurm", "resume"), ("local", "run")])
def test_each_verb_says_that_others_can_read_env(module: str, verb: str, checkout: Path) -> None:
    (checkout / ".env").write_text("HF_TOKEN=hf_x\n")
    (checkout / ".env").chmod(0o644)
    words = [sys.executable, "-m", module, verb, *(["--data", "nowhere"] if verb == "run" else [])]
    (checkout / "runs" / "r").mkdir(parents=True)
    write_record(checkout / "runs" / "r", run_record(make_plan(run_id="r", project_dir=str(checkout))))
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False)
    said = f"trainyard: {checkout}/.env holds HF_TOKEN, and others on this machine can read it: chmod 600 "
    assert done.stderr.count(said) == 1, done.stderr
    (checkout / ".env").chmod(0o600)
    assert said not in subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False).stderr


def test_a_tool_of_the_trainer_says_it_once_and_a_rank_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINYARD_ATTEMPT_DIR", raising=False)
    monkeypatch.setenv("HF_TOKEN", "x")
    (tmp_path / ".env").write_text("HF_TOKEN=hf_x\n")
    (tmp_path / ".env").chmod(0o644)
    take_env_file()
    said = capsys.readouterr().err
    assert said == "trainyard: .env holds HF_TOKEN, and others on this machine can read it: chmod 600 .env\n"
    monkeypatch.setenv("TRAINYARD_ATTEMPT_DIR", str(tmp_path))
    take_env_file()
    assert capsys.readouterr().err == ""
