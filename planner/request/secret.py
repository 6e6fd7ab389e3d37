"""Recognises secrets by the words of a name and by the form of a value, in everything that is rendered.

Scripts, manifests, run.json and logs are read by many, so a request that holds a secret is refused, and the refusal
repeats nothing that may be one. Words decide: MY_PAT and HF_TOKENS are refused, TOKENIZERS_PARALLELISM, KEYBOARD,
MAX_TOKENS=512 and HF_TOKEN_PATH=/x are not. Words may err: the refusal tells what to do with a value that is no
secret.
"""

from __future__ import annotations

import re

from trainer.outcome import ConfigError
from trainer.secret_shapes import ADDRESS, BEARER, TOKEN

# Patterns are kept as text: most requests need few of them, and compiling all would take a tenth of a `plan`. A name
# with such a word holds a secret,
WORDS = (
    r"TOKENS?|KEYS?|PATS?|PASS|PW|PWD|PASSW(OR)?DS?|PASSPHRASES?|PASSCODES?|SECRETS?|CREDENTIALS?|CREDS?|AUTH|BEARER|JWT"
    r"|AUTHORIZATION|COOKIES?|SIGNATURE|SIG|SAS|DSN"
    # also words that are written without a separator:
    r"|\w+(TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?)|(DB|PG|SSH|SQL|USER)(PASS|PWD)"
    r"|(API|ACCESS|AUTH|DEPLOY|ENCRYPTION|LICENSE|MASTER|PRIVATE|SECRET|SIGNING|SSH)KEYS?"
    r"|(ANTHROPIC|AWS|AZURE|GCP|GEMINI|GOOGLE|GROQ|HF|MISTRAL|NGC|NVIDIA|OPENAI|WANDB)KEYS?"
)
# but not one that such a word ends (how much of it, or what it is called), a key or token of the data,
ABOUT = "BUDGET|COLUMN|COUNT|FIELD|LENGTH|LIMIT|NAME|SIZE|TIMEOUT|TTL|TYPE"
OF_DATA = (
    "ACTION|ANSWER|BOS|CLS|END|EOS|FOREIGN|GROUP|HOT|IMAGE|INDEX|JOIN|LABEL|MASK|MAX|METRIC|MIN|NEW|NUM|PAD|PARTITION"
    "|PRIMARY|QUESTION|SEP|SORT|SPECIAL|START|STOP|TEXT|UNK"
)
COUNTED = r"TOKENS?|KEYS?"
# nor one with a value that is a switch, a small number, a signal or a token of a tokenizer's: <pad>.
PLAIN = (
    r"(?i:|[0-9]{1,2}|true|false|yes|no|on|off|none|(SIG)?(USR[12]|TERM|INT|HUP|QUIT|CONT|STOP)|<\|?[a-z_/]+\|?>"
    r"|\[[A-Z]{2,8}\])"
)
# A name for the place of a secret holds a path; so may the name of a secret itself, when the path is absolute.
WHERE = "DIR|FILE|HOME|PATH|ROOT|SOCK"
PLACE = r".*/.*|[\w-]*(\.\w+)+"
ABSOLUTE = r"~?(/[\w.-]+){2,}/?"

# A whole value that is secret: W&B's key, or a long value that mixes small letters, capitals and digits as no word
# does.
MIXED = r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9+_-][A-Za-z0-9+/_-]{15,}"
HEX = "[0-9a-f]{40}"
HUB_TOKEN = r"hf_(?![a-z]{1,20}(?:_[a-z]{1,20})*$)"
"""As short as it may be, but not names such as hf_transfer."""
DRAWN = rf"(?=.{{32}}){MIXED}={{0,2}}"
UUID = r"(?i:([A-Z]+-)*[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(/[0-9]+)*)"
RUNS = r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+"
PUBLIC = "CHECKSUM|COMMIT|DIGEST|HASH|REF|REV|REVISION|SHA|VERSION"
# Pairs of a name and a value in a text: A=x, --a x, a_b: x.
PAIRS = (
    r"(?<![\w-])([A-Za-z_][\w-]*)\s*=(?=\s*([^\s,;&]*))",
    r"(?<![\w-])--?([A-Za-z][\w-]*)(?:\s*=|\s)\s*(?=([^\s,;&-][^\s,;&]*))",
    r"(?i:(?<![\w./-])((?:proxy-)?authorization|[A-Za-z]\w*[_-][\w-]+)['\"]?:(?=\s*([^\s,;&]+)))",
)
LABEL_FIELDS = ("key", "topologyKey")  # of a taint, of a pod's spread

ADVICE = (
    "which scripts show to all: HF_TOKEN and WANDB_API_KEY belong into .env (on Kubernetes into the Secret made from "
    "it), any other into a file that only you can read; if it is no secret, name it otherwise or put it into a file"
)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable with that name and value must not be shown."""
    words = _words(name)
    if re.match(HUB_TOKEN, value) or any(re.search(shape, value) for shape in (TOKEN, ADDRESS, BEARER)):
        return True
    if _is_drawn(value) and not any(re.fullmatch(PUBLIC, word) for word in words):
        return True
    found = [word for i, word in enumerate(words) if re.fullmatch(WORDS, word) and not _of_data(words[:i], word)]
    if not found or re.fullmatch(ABOUT, words[-1]) or re.fullmatch(PLAIN, value):
        return False
    if re.fullmatch(PLACE if re.fullmatch(WHERE, words[-1]) else ABSOLUTE, value):
        return any(re.fullmatch(MIXED, part) and _is_random(part) for part in value.split("/"))
    # A number is a count or an index, unless it is a password.
    return not (re.fullmatch(r"[0-9]{1,9}", value) and all(re.fullmatch(COUNTED, word) for word in found))


def find_secret(text: str) -> str:
    """The kind of secret that `text` seems to hold, in words that do not repeat it; empty without one."""
    for name, value in (pair for shape in PAIRS for pair in re.findall(shape, text)):
        if value in ("", "=") and re.fullmatch(MIXED, name):
            return "it holds a token"  # base64 ends like this
        if is_secret(name, value):
            return "a name in it is a token" if is_secret("", name) else f"{name} holds a secret"
    if re.search(ADDRESS, text):
        return "an address in it holds a user or a password"
    return "it holds a token" if is_secret("", text) else ""


def refuse_secret(where: str, text: str) -> None:
    """Raises ConfigError, which names `where` and not the text, when `text` seems to hold a secret."""
    if found := find_secret(text):
        raise ConfigError(f"{where}: {found}, {ADVICE}", name=where)


def refuse_secrets(where: str, content: object, name: str = "") -> None:
    """As refuse_secret, for each text in mappings and lists. A mapping names its texts; LABEL_FIELDS hold a node's
    labels."""
    if isinstance(content, dict):
        for key, part in content.items():
            refuse_secret(where, str(key))
            refuse_secrets(where, part, "" if key in LABEL_FIELDS else str(key))
    elif isinstance(content, list):
        for part in content:
            refuse_secrets(where, part, name)
    else:
        refuse_secret(where, f"{name}={content}" if name else str(content))


def _is_drawn(value: str) -> bool:
    drawn = re.fullmatch(DRAWN, value) and not re.fullmatch(UUID, value) and _is_random(value)
    return bool(drawn or re.fullmatch(HEX, value))


def _is_random(value: str) -> bool:
    """Whether letters and digits alternate more than in words and dates: GemmaLora2026 has few runs, and a label such
    as qwen25VL-7B-LoRA-r64-lr2e4 has short parts."""
    runs = re.findall(RUNS, value)
    return sum(map(len, runs)) < 3 * len(runs) and max(map(len, re.split("[-_]", value))) > 10


def _of_data(before: list[str], word: str) -> bool:
    return bool(before and re.fullmatch(COUNTED, word) and re.fullmatch(OF_DATA, before[-1]))


def _words(name: str) -> list[str]:
    """The words of a name in capitals: HF_TOKEN2, hf-token and hfToken all give HF, TOKEN."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return [part.upper() for part in parts]
