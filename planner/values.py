"""Strict parsers of variables: a refusal names the given text, the allowed values and the remedy. A parser takes the
variable's name and its text and returns the value or raises ConfigError with one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated

from trainer.config import LORA_PRESETS, RANKS, TrainConfig, read_rank
from trainer.flags import TEXTS, Option, Range, option_of, options
from trainer.outcome import ConfigError
from trainer.text import nearest, shown

Parser = Callable[[str, str], object]

# Nominal GiB of a card, by the name that schedulers use. A100 means the smaller one: a plan that is too small runs,
# one that is too large does not; GPU_TYPE=a100 VRAM=80 overrides it.
GPU_GIB: dict[str, float] = {
    "a10": 24, "a10g": 24, "a16": 16, "a30": 24, "a40": 48, "a100": 40, "a100-40": 40, "a100-80": 80,
    "a2": 16, "a4000": 16, "a5000": 24, "a6000": 48, "b200": 180, "gh200": 96, "h100": 80, "h200": 141,
    "l4": 24, "l40": 48, "l40s": 48, "rtx3060": 12, "rtx3070": 8, "rtx3080": 10, "rtx3090": 24,
    "rtx4060": 8, "rtx4070": 12, "rtx4070ti": 12, "rtx4080": 16, "rtx4090": 24, "rtx5070": 12, "rtx5080": 16,
    "rtx5090": 32, "rtx6000ada": 48,
}  # fmt: skip
# Cards older than compute capability 8.0, without bfloat16, in which training computes.
NO_BF16 = ("gtx1080ti", "k80", "m40", "p4", "p40", "p100", "rtx2080ti", "rtx6000", "rtx8000", "t4", "v100")

RUNTIMES = ("none", "apptainer", "pyxis")
DURATIONS = "minutes (90), 90m, 12h, 2d, HH:MM:SS or D-HH[:MM[:SS]]"
GIB_UNIT = "(?i:G|GB|Gi|GiB)?"
MOST_HOST_GIB = 65536
SLICE = re.compile(r"(?<![0-9a-z])[1-9]g\.[0-9]+gb", re.IGNORECASE)  # in the name of a part of a card (MIG)
ONE_SLICE = "one run uses one slice of a card (MIG): its processes cannot talk to each other across slices"


def refuse(name: str, text: str, allowed: str) -> ConfigError:
    return ConfigError(name=name, given=text, allowed=allowed)


def taking(option: Option, hint: str = "") -> Parser:
    """A parser that takes what a setting of that type takes, in the trainer's words."""

    def parse(name: str, text: str) -> object:
        if (value := option.read(text)) is None:
            raise refuse(name, text, f"takes {option.allowed}{hint}")
        return value

    return parse


def setting(name: str) -> Parser:
    return taking(options(TrainConfig)[name])


def rank(name: str, text: str) -> int:
    """The rank of adapters: a number, or a preset's name."""
    if (found := read_rank(text)) is None:
        raise refuse(name, text, f"takes {RANKS}{nearest(text, tuple(LORA_PRESETS))}")
    return found


def whole(low: int, high: int, hint: str = "") -> Parser:
    return taking(option_of(Annotated[int, Range(low, high)]), hint)


def gib(name: str, text: str) -> float:
    """A number of GiB, written as `24`, `24G` or `24GiB`."""
    found = re.fullmatch(rf"({TEXTS[float][1]})\s*{GIB_UNIT}", text)
    if found and 1 <= float(found[1]) <= 1024:
        return float(found[1])
    raise refuse(name, text, "takes a number of GiB from 1 to 1024")


def host_gib(name: str, text: str) -> int:
    """Whole GiB, written as `32`, `32G`, `32Gi` or `32GiB`."""
    found = re.fullmatch(rf"([0-9]{{1,5}})\s*{GIB_UNIT}", text)
    if found and 1 <= int(found[1]) <= MOST_HOST_GIB:
        return int(found[1])
    raise refuse(name, text, f"takes a whole number of GiB from 1 to {MOST_HOST_GIB}, or none")


def matching(pattern: str, allowed: str) -> Parser:
    def parse(name: str, text: str) -> str:
        if len(text) <= 1024 and re.fullmatch(pattern, text):
            return text
        raise refuse(name, text, f"takes {allowed}")

    return parse


NO_WORDS: Mapping[str, str] = {}


def one_of(*allowed: str, meant: Mapping[str, str] = NO_WORDS) -> Parser:
    """`meant` are other words for some of those that are `allowed`."""

    def parse(name: str, text: str) -> str:
        if text in allowed:
            return text
        near = nearest(meant.get(text.lower(), text), allowed)
        raise refuse(name, text, f"takes one of {', '.join(allowed)}{near}")

    return parse


def accelerate_config(*allowed: str) -> Parser:
    """As `one_of`, for the name of a configuration. The refusal of a file says that name, or how to give a file."""

    def parse(name: str, text: str) -> str:
        stem = text.rpartition("/")[2].removesuffix(".yaml")
        hint = (
            "; a file of settings is CONFIG_FILE=" if text.endswith((".yaml", ".yml")) and stem not in allowed else ""
        )
        if text in allowed:
            return text
        raise refuse(name, text, f"takes one of {', '.join(allowed)}{nearest(stem, allowed) * (not hint)}{hint}")

    return parse


def minutes(name: str, text: str) -> int:
    """Whole minutes, rounded up."""
    seconds = 0
    if re.fullmatch(r"[0-9]{1,6}", text):
        seconds = int(text) * 60
    elif found := re.fullmatch(r"([0-9]{1,6})([mhd])", text):
        seconds = int(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]]
    elif found := (
        re.fullmatch(r"()([0-9]{1,3}):([0-5][0-9]):([0-5][0-9])", text)
        or re.fullmatch(r"([0-9]{1,3})-([0-9]{1,3})(?::([0-5][0-9])(?::([0-5][0-9]))?)?", text)
    ):
        days, hours, mins, secs = (int(part or 0) for part in found.groups())
        seconds = ((days * 24 + hours) * 60 + mins) * 60 + secs
    if 0 < seconds <= 366 * 86400:
        return -(-seconds // 60)
    raise refuse(name, text, f"takes a time of one minute to a year as {DURATIONS}")


def gpu_type(name: str, text: str) -> str:
    """The type as the scheduler spells it; a type that is not in GPU_GIB needs VRAM too."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        near = nearest(re.sub("nvidia|geforce|tesla|[^a-z0-9-]", "", text.lower()), tuple(GPU_GIB))
        raise refuse(name, text, f"takes letters, digits and ._-{near or ':'} known are {', '.join(GPU_GIB)}")
    if text.lower() in NO_BF16:
        raise refuse(
            name, text, "has no bfloat16, which training needs: ask for an Ampere card or newer (a10, l4, a100)"
        )
    return text


def runtime(name: str, text: str) -> str:
    reasons = {
        "docker": "escapes the allocation (the daemon starts the container, outside the job's limits): ",
        "singularity": "is apptainer's old name: ",
    }
    if text in RUNTIMES:
        return text
    raise refuse(name, text, f"{reasons.get(text, '')}takes one of {', '.join(RUNTIMES)}{nearest(text, RUNTIMES)}")


def identifier(limit: int) -> Parser:
    """A parser for a name that is valid for schedulers, labels and folders."""

    def parse(name: str, text: str) -> str:
        if len(text) <= limit and re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", text):
            return text
        rule = f"takes at most {limit} of a-z, 0-9 and -, beginning and ending with a letter or digit"
        raise refuse(name, text, f"{rule}: for example {slug(text, limit)}")

    return parse


scheduler_name = matching(
    r"[A-Za-z0-9_.,][A-Za-z0-9_.,:@+-]{0,254}", "letters, digits and _.,-:@+, of which the first is none of -:@+"
)


def text(name: str, text: str) -> str:
    """One line of printable text, for a person to read."""
    if text.isprintable() and len(text) <= 4096:
        return text
    raise refuse(name, text, "takes at most 4096 printable characters on one line")


def path(extra_refused: str = "") -> Parser:
    """A parser for a path or hub id: any printable text, also with spaces and quotes. It will be quoted, never
    interpreted."""

    def parse(name: str, text: str) -> str:
        if not text.isprintable() or len(text) > 1024:
            raise refuse(name, text, "takes a path of at most 1024 printable characters on one line")
        if text.startswith("-"):
            raise refuse(name, text, f"begins with -, which programs take for an option: write {shown('./' + text)}")
        if any(len(part.encode()) > 255 for part in text.split("/")):
            raise refuse(name, text, "holds a name of more than 255 bytes, which no file system takes: shorten it")
        if text != text.strip():
            raise refuse(name, text, "begins or ends with a space: remove it, or rename the file")
        if found := next((char for char in extra_refused if char in text), None):
            raise refuse(name, text, f"holds {found}, which Slurm reads as a pattern in log paths: use another folder")
        return text

    return parse


def model(name: str, text: str) -> str:
    """A path or hub id. The refusal of an address does not repeat it, because it may hold a token."""
    if re.match(r"[^/]*(://|@)", text):
        raise ConfigError(
            f"{name} is an address: give the hub id alone, owner/name, or a folder, as ./x@y if it has @", name=name
        )
    return str(path()(name, text))


def on_disk(image: str) -> bool:
    """Whether an image is a file or an unpacked folder, and not in a registry, whose names begin with a letter."""
    return image.endswith((".sif", ".sqsh")) or image.startswith(("/", "./", "../", "~/"))


def image(name: str, text: str) -> str:
    """A registry's reference (registry/name:tag@sha256:...), or the path of a .sif or .sqsh file or of a folder."""
    if on_disk(text):
        return str(path()(name, text))
    # The grammar of distribution/reference: an optional host, which is distinguished from a path by a dot, a port or
    # the name localhost, then path, tag and digest.
    label = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
    host = rf"(?:(?:{label}(?:\.{label})+(?::[0-9]{{1,5}})?|{label}:[0-9]{{1,5}}|localhost)/)?"
    part = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
    tail = r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
    if len(text) <= 512 and re.fullmatch(f"{host}{part}(?:/{part})*{tail}", text):
        return text
    allowed = (
        "takes registry/name:tag, the name in small letters, with @sha256:... if you like, a .sif or .sqsh file, "
        "or an unpacked image's folder as /folder or ./folder"
    )
    raise refuse(name, text, allowed)


def expand_home(text: str, environ: Mapping[str, str], *, name: str) -> str:
    """`~` and `~/x` in the home that `environ` names, `~ada/x` in ada's; any other text unchanged. Raises ConfigError
    about the variable `name` for a person whom this machine does not know."""
    whose = text.partition("/")[0]
    if not text.startswith("~"):
        return text
    if whose != "~":
        import pwd

        try:
            return pwd.getpwnam(whose[1:]).pw_dir + text[len(whose) :]
        except (KeyError, ValueError):
            raise ConfigError(
                f"this machine knows no {shown(whose[1:])}", name=name, given=text, advice="write the path out"
            ) from None
    home = environ.get("HOME", "")
    return home.rstrip("/") + text[len(whose) :] if home.startswith("/") else text


def slug(text: str, limit: int) -> str:
    """`text` made into an identifier: lower case, all other characters replaced by single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:limit].strip("-") or "run"
