"""Recognises secret tokens and addresses by their form, whatever they are called, and shows text without them. Errors
of libraries, services and other programs may repeat a token: their messages pass through `told`."""

from __future__ import annotations

import re

from trainer.text import printable

# Patterns as text, not compiled: most programs print nothing that must be searched.
# user:password@host, with a scheme or without. ssh's addresses name a user and no more. A time (10:30@home), a ratio, a
# measured value (loss:0.3@step9) and a digest (@sha256:) are none.
ADDRESS = (
    r"(?<!ssh)(?<!sftp)://[^/@\s]*@|(?:sftp|ssh)://[^/@\s:]*:[^/@\s]*@"
    r"|(?<![^\s=,;\"'])(?!mailto:|[(\[]?(?:\d{4}-\d\d-\d\dT)?\d{1,4}(?::\d{1,4}){1,2}(?:[ap]m)?@)"
    r"[^\s/:@=,;\"']{1,128}:(?!\d{1,2}@|\d{1,4}\.\d{1,8}@)[^\s/@]{1,128}@(?!sha(?:256|512):)(?=[\w\[])"
)
# Tokens with a form that their issuers defined.
TOKEN = (
    r"(?<![A-Za-z0-9])(?:"
    r"hf_(?:(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{16,}|[a-z0-9]{30,})|gh[oprsu]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|sk-(?=[\w-]*\w{12})(?=[\w-]*[A-Z0-9])[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|local-[0-9a-f]{40}"
    r"|(?:gsk|r8|[rs]k_live|[rs]k_test)_[A-Za-z0-9]{16,}|(?:nvapi|tskey)-[\w-]{16,}|(?:xai|pplx)-[A-Za-z0-9]{20,}|do[opr]_v1_[0-9a-f]{16,}"
    r"|(?:dckr_pat|glsa|wandb_v1)_[\w-]{16,}|SG\.[\w-]{8,}\.[\w-]{8,}|ya29\.[\w-]{8,}|hvs\.[\w-]{16,}"
    r"|hooks\.slack\.com/(?:services|workflows)/\w[\w/-]+|discord(?:app)?\.com/api/webhooks/\w[\w/-]+"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY)"
)
# Behind `Authorization` whatever stands there; elsewhere what is no plain word: "a basic description" hides nothing.
BEARER = (
    r"(?i:(?:(?<=authorization[:=])|(?<=authorization: )|(?<=authorization['\"]: ['\"]))"
    r"(?:bearer|basic)\s{1,8}[\w.~+/=-]+)"
    r"|\b(?i:bearer|basic)\s{1,8}(?=[\w.~+/-]*(?:[0-9]|[a-z][A-Z]))"
    r"(?:[\w.~+/-]{16,}=*|[\w.~+/-]{6,}={1,2}(?![^\s,;'\"]))"
)


def hide_secrets(text: str) -> str:
    """`text` without anything that looks like a secret."""
    for shape in (ADDRESS, TOKEN, BEARER):
        text = re.sub(shape, "***", text)
    return text


def told(text: str) -> str:
    """`text` of others on one line, without secrets and without characters that a terminal would act on."""
    return printable(hide_secrets(text))
