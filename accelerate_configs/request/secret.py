"""What looks like a secret: told by the words of a name and by the shape of a value, for everything that is rendered.

Scripts, manifests, run.json and logs are read by many, so a request that holds a secret is refused, and nothing that
may be one is said back. It is a matter of words: MY_PAT and HF_TOKENS are refused, TOKENIZERS_PARALLELISM, KEYBOARD,
MAX_TOKENS=512 and HF_TOKEN_PATH=/x are not.
"""

from __future__ import annotations

import re

from trainer.outcome import ConfigError

WORDS = re.compile(
    r"TOKENS?|KEYS?|PATS?|PASS|PW|PWD|PASSW(OR)?DS?|PASSPHRASES?|PASSCODES?|SECRETS?|CREDENTIALS?|CREDS?|AUTH|BEARER|JWT"
    r"|COOKIES?|SIGNATURE|SIG|SAS|DSN"
    # Written without a line between.
    r"|\w+(TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?)"
    r"|(DB|PG|SSH|SQL|USER)PASS|(API|ACCESS|AUTH|DEPLOY|ENCRYPTION|LICENSE|MASTER|PRIVATE|SECRET|SIGNING|SSH)KEYS?"
)
# A name that ends so says where something is or how much of it, not what it is.
ABOUT = re.compile("COUNT|DIR|FILE|HOME|LENGTH|LIMIT|NAME|PATH|ROOT|SIZE|SOCK|TIMEOUT|TTL|TYPE")
COUNTED = re.compile(r"TOKENS?|KEYS?")
SWITCH = re.compile(r"|0|1|true|false|yes|no|on|off|none", re.IGNORECASE)

ADDRESS = re.compile(r"://[^/@\s]*@|(?<![^\s=,;\"'])[^\s/:@=,;\"']+:[^\s/@]+@(?!sha(?:256|512):)[\w\[]")
TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_(?:(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{16,}|[a-z0-9]{30,})|gh[oprsu]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|sk-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|local-[0-9a-f]{40}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY)"
)
BEARER = re.compile(r"\b(?:bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
# As a whole value: W&B's key, or a long one that mixes small letters, capitals and digits as no word does.
MIXED = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9+_-][A-Za-z0-9+/_-]{15,}")
DRAWN = re.compile(rf"[0-9a-f]{{40}}|(?=.{{32}}){MIXED.pattern}={{0,2}}")
PUBLIC = re.compile("COMMIT|DIGEST|HASH|REF|REVISION|SHA")
PAIR = re.compile(r"(?<![\w-])([A-Za-z_][\w-]*)\s*=(?=\s*([^\s,;&]*))")

ADVICE = (
    "which scripts show to all: HF_TOKEN and WANDB_API_KEY belong into .env (on Kubernetes into the Secret made from "
    "it), any other into a file that only you can read"
)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of that name, with that value, is to be shown to nobody."""
    words = _words(name)
    if value.startswith("hf_") or TOKEN.search(value) or ADDRESS.search(value) or BEARER.search(value):
        return True
    if DRAWN.fullmatch(value) and not any(map(PUBLIC.fullmatch, words)):
        return True
    found = [word for word in words if WORDS.fullmatch(word)]
    if not found or ABOUT.fullmatch(words[-1]) or SWITCH.fullmatch(value):
        return False
    # A number is how many there are, or which one; a password may be one.
    return not (re.fullmatch(r"[0-9]{1,9}", value) and all(COUNTED.fullmatch(word) for word in found))


def find_secret(text: str) -> str:
    """What in `text` looks like a secret, in words that do not tell it; nothing where nothing does."""
    for name, value in PAIR.findall(text):
        if value in ("", "=") and MIXED.fullmatch(name):
            return "it holds a token"  # in base64, which ends so
        if is_secret(name, value):
            return "a name in it is a token" if is_secret("", name) else f"{name} holds a secret"
    if ADDRESS.search(text):
        return "an address in it holds a user or a password"
    return "it holds a token" if is_secret("", text) else ""


def refuse_secret(where: str, text: str) -> None:
    """Raises ConfigError, which names `where` and not the text, when `text` holds what looks like a secret."""
    if found := find_secret(text):
        raise ConfigError(f"{where}: {found}, {ADVICE}")


def hide_secrets(text: str) -> str:
    """`text` to be shown, without what looks like a secret by its shape."""
    for shape in (ADDRESS, TOKEN, BEARER):
        text = shape.sub("***", text)
    return text


def _words(name: str) -> list[str]:
    """HF_TOKEN2, hf-token and hfToken are all HF, TOKEN."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return [part.upper() for part in parts]
