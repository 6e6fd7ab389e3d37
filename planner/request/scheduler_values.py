"""Strict parsers, like those of values.py, for values that are passed to a scheduler and into the job's shell."""

from __future__ import annotations

import re

from planner.request.secret import refuse_secret
from planner.values import Parser, matching, refuse, slug
from trainer.outcome import ConfigError
from trainer.text import known_are, shown

MAIL_TYPES = (
    *("NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT"),
    *("TIME_LIMIT", "TIME_LIMIT_90", "TIME_LIMIT_80", "TIME_LIMIT_50", "ARRAY_TASKS"),
)
# Flags of sbatch beside those that are variables, and the values that they take: none, any, or those that match. No
# flag that moves the job's folder, log, environment, requeueing or tasks, on which the script relies.
_NO_VALUE, _VALUE = "", r"[A-Za-z0-9_.,:/@%+=*&|()\[\]-]{1,255}"
SBATCH_FLAGS = {
    **dict.fromkeys(("--acctg-freq", "--batch", "--bb", "--begin", "--cluster-constraint", "--comment"), _VALUE),
    **dict.fromkeys(("--core-spec", "--cpu-freq", "--deadline", "--delay-boot", "--dependency", "--extra"), _VALUE),
    **dict.fromkeys(("--gpu-bind", "--gpu-freq", "--hint", "--licenses", "--mcs-label", "--mem-bind"), _VALUE),
    **dict.fromkeys(("--mincpus", "--network", "--nice", "--nodelist", "--prefer", "--priority", "--profile"), _VALUE),
    **dict.fromkeys(("--propagate", "--segment", "--switches", "--thread-spec", "--threads-per-core"), _VALUE),
    **dict.fromkeys(("--time-min", "--tmp", "--tres-bind"), _VALUE),
    **dict.fromkeys(("--contiguous", "--hold", "--oversubscribe", "--reboot", "--spread-job"), _NO_VALUE),
    "--use-min-nodes": _NO_VALUE,
    "--exclusive": "(user|mcs|topo)?",
    "--gres": _VALUE,
    "--kill-on-invalid-dep": "yes|no",
    "--wait-all-nodes": "[01]",
}
# The flags of sbatch that a variable says; --gres is passed on where it asks for no GPU.
SAID_BY = {
    "--account": "ACCOUNT", "--array": "GRID", "--clusters": "CLUSTER", "--constraint": "CONSTRAINT",
    "--cpus-per-gpu": "CPUS", "--cpus-per-task": "CPUS", "--exclude": "EXCLUDE",
    "--export": "ENVIRONMENT", "--gpus": "GPUS", "--gpus-per-node": "GPUS", "--gpus-per-socket": "GPUS",
    "--gpus-per-task": "GPUS", "--gres": "GPUS", "--job-name": "NAME", "--mail-type": "MAIL_TYPE",
    "--mail-user": "MAIL_USER", "--mem": "MEM", "--mem-per-cpu": "MEM", "--mem-per-gpu": "MEM", "--nodes": "NODES",
    "--output": "OUTPUT", "--partition": "PARTITION", "--qos": "QOS", "--reservation": "RESERVATION", "--time": "TIME",
    "--wckey": "WCKEY",
}  # fmt: skip
# Variables that say the sum of a node, where the flag says a part of it.
A_NODES = {"--cpus-per-gpu": "CPUS", "--mem-per-cpu": "MEM", "--mem-per-gpu": "MEM"}
# The short flags, by their long form.
SHORT = {
    "-A": "--account", "-a": "--array", "-C": "--constraint", "-c": "--cpus-per-task", "-d": "--dependency",
    "-D": "--chdir", "-e": "--error", "-G": "--gpus", "-H": "--hold", "-i": "--input", "-J": "--job-name",
    "-k": "--no-kill", "-L": "--licenses", "-M": "--clusters", "-N": "--nodes", "-n": "--ntasks", "-o": "--output",
    "-p": "--partition", "-q": "--qos", "-s": "--oversubscribe", "-t": "--time", "-w": "--nodelist", "-W": "--wait",
    "-x": "--exclude",
}  # fmt: skip
GPU_GRES = ("gpu", "mps", "none", "shard")  # a whole GPU, a share of one, and no --gres at all
# The flags that would change how the script runs.
KEPT = (
    *("--chdir", "--error", "--export-file", "--get-user-env", "--input", "--no-kill", "--no-requeue", "--ntasks"),
    *("--ntasks-per-core", "--ntasks-per-gpu", "--ntasks-per-node", "--ntasks-per-socket", "--open-mode", "--requeue"),
    *("--signal", "--wait", "--wrap"),
)
# Names that a request may not set, and the reason.
OURS: tuple[tuple[str, str], ...] = (
    (
        r"(SLURMD?|SBATCH|SRUN|SQUEUE|SCONTROL|SINFO|SACCT|TRAINYARD|ACCELERATE|BASH|LD_PRELOAD|LD_AUDIT|PYTHONHOME|PYTHONPATH)(_.*)?"
        r"|PATH|HOME|PWD|SHELL|ENV|IFS|CDPATH|GLOBIGNORE|POSIXLY_CORRECT",
        "it would change how the job starts",
    ),
    (r"UID|EUID|PPID|BASHOPTS|SHELLOPTS", "bash lets nobody set it"),
    (r"(MASTER|PET|TORCHELASTIC)(_.*)?|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|JOB_COMPLETION_INDEX",
     "the launcher sets it, from GPUS and NODES"),
    (r"(CUDA|NVIDIA)_VISIBLE_DEVICES", "the scheduler says which GPUs a job has; for make run export it"),
    (r"CONFIG_FILE", "say CONFIG_FILE= itself, so that the plan is made from it too"),
)  # fmt: skip

# Words for an empty value, which a template may have left.
NULLS = ("null", "nil", "~")


def is_none(name: str, text: str) -> bool:
    """Whether the text is `none`. Raises ConfigError for null and similar words, which a template may have left."""
    if text.lower() in NULLS:
        raise refuse(name, text, f"write none, or leave {name} out")
    return text.lower() == "none"


def or_none(parser: Parser) -> Parser:
    """A parser that accepts `none`, which removes a site file's value; any other text goes to `parser`."""

    def parse(name: str, text: str) -> object:
        return None if is_none(name, text) else parser(name, text)

    return parse


def named(parser: Parser) -> Parser:
    """A parser for a name, without `none`; null and similar words are refused as names."""

    def parse(name: str, text: str) -> object:
        if text.lower() in NULLS:
            raise refuse(name, text, f"give a name, or leave {name} out")
        return parser(name, text)

    return parse


constraint = matching(r"[A-Za-z0-9_\[(][A-Za-z0-9_.,&|*()\[\]:+-]*", "features, joined by & or |: a100&ib")
cluster = matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "one cluster's name: sacctmgr show cluster lists them")
hosts = matching(r"[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*", "node names: n1,n[3-5]")
mail_user = matching(r"[A-Za-z0-9_][A-Za-z0-9_.+%-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?", "an address or a user's name")


def object_name(limit: int) -> Parser:
    """A parser for the name of an object in a Kubernetes cluster."""

    def parse(name: str, text: str) -> str:
        part = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
        if len(text) <= limit and re.fullmatch(rf"{part}(\.{part})*", text):
            return text
        rule = f"takes at most {limit} of a-z, 0-9, - and ., with a letter or digit at both ends and beside each dot"
        raise refuse(name, text, f"{rule}: for example {slug(text, limit)}")

    return parse


def quantity(name: str, text: str) -> str:
    """A size in Kubernetes' form. 200G and 200GB also mean 200Gi: a little more than requested hurts nobody."""
    if found := re.fullmatch(r"([1-9][0-9]{0,6}[MGT])(i|i?B)?", text):
        return f"{found[1]}i"
    raise refuse(name, text, "takes a size in Mi, Gi or Ti: 200Gi")


def mail_type(name: str, text: str) -> str:
    for part in text.split(","):
        if part not in MAIL_TYPES:
            raise refuse(name, text, f"{shown(part)} is unknown{known_are(part, MAIL_TYPES)}")
    return text


def modules(name: str, text: str) -> tuple[str, ...]:
    """Modules to load, in order; `none` for none."""
    found = () if is_none(name, text) else tuple(text.split(","))
    for part in found:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,127}", part):
            raise refuse(name, text, "takes modules with commas between: cuda/12.4,python/3.11; or none")
    return found


def extra_flags(name: str, text: str) -> tuple[str, ...]:
    """Flags of sbatch as typed, each `--name` or `--name=value`; `none` for none."""
    found = () if is_none(name, text) else tuple(re.split(r"[ ,]+(?=--|-[A-Za-z])", text))
    flags = [_long_form(part) for part in found]
    asked = [flag for flag, part in zip(flags, found, strict=True) if flag != "--gres" or _asks_for_gpus(part)]
    if said := {shown(flag): f"{SAID_BY[flag]}=" for flag in asked if flag in SAID_BY}:
        one = len(said) == 1
        words = f"{', '.join(said)} {'is' if one else 'are'} not passed on"
        sums = ", ".join(dict.fromkeys(f"{A_NODES[flag]} is a whole node's" for flag in asked if flag in A_NODES))
        variables = f"{', '.join(dict.fromkeys(said.values()))} {'says it' if one else 'say them'}"
        raise refuse(name, text, f"{words}: {variables}{sums and f' ({sums})'}")
    for flag, part in zip(flags, found, strict=True):
        if flag in KEPT:
            raise refuse(name, text, f"{shown(flag)} is not passed on: it would change how the job's script runs")
        if flag not in SBATCH_FLAGS:
            raise refuse(name, text, f"{shown(flag)} is not passed on{known_are(flag, SBATCH_FLAGS)}")
        if not re.fullmatch("--[a-z-]+(=.*)?", part, re.DOTALL):
            value = part.partition(" ")[2] if part.startswith("--") else part[2:].strip()
            raise refuse(name, text, f"write {shown(f'{flag}={value}' if value else flag)} in place of {shown(part)}")
        takes, (_, equals, value) = SBATCH_FLAGS[flag], part.partition("=")
        if equals and takes == _NO_VALUE:
            raise refuse(name, text, f"takes {flag} without a value")
        if not re.fullmatch(takes, value) or (equals and not value):
            allowed = "value, of letters, digits and _.,:/@%+=*&|()[]-" if takes == _VALUE else takes.strip("()?")
            raise refuse(name, text, f"takes {flag}={allowed}{', or nothing' if takes.endswith('?') else ''}")
    if twice := [flag for flag in flags if flags.count(flag) > 1]:
        raise refuse(name, text, f"says {twice[0]} twice")
    return found


def _long_form(part: str) -> str:
    """The flag that a part begins with, in its long form."""
    return SHORT.get(part[:2], part[:2]) if re.match("-[A-Za-z]", part) else re.split("[= ]", part, maxsplit=1)[0]


def _asks_for_gpus(gres: str) -> bool:
    """Whether `--gres=a:1,b:2` names a GPU or a share of one, or nothing that it could be passed on for."""
    listed = re.split("[= ]", gres, maxsplit=1)[-1].split(",")
    return any(part.split(":")[0].lower() in GPU_GRES for part in listed)


def binds(name: str, text: str) -> tuple[str, ...]:
    """SOURCE, SOURCE:TARGET or either with :ro, as typed; `none` for none."""
    found = () if is_none(name, text) else tuple(text.split(","))
    for part in found:
        if not part.isprintable() or not re.fullmatch(r"/[^:]*(:/[^:]*)?(:r[ow])?", part):
            allowed = "absolute paths with commas between: /scratch,/big/sets:/sets:ro; or none"
            raise refuse(name, text, f"takes {allowed}")
    return found


def environment(name: str, text: str) -> tuple[tuple[str, str], ...]:
    """(name, value) of the variables for the job's processes, sorted. A comma begins a new one only when NAME=
    follows."""
    found = {}
    for number, part in enumerate(re.split(r",(?=[A-Za-z_][A-Za-z0-9_]*=)", text), start=1):
        key, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", key):
            # The text is not repeated: it may be a token.
            allowed = "takes NAME=value with commas between: NCCL_DEBUG=INFO,HF_HOME=/scratch/hf"
            raise ConfigError(f"{name}: part {number} begins with no NAME=", allowed=f"it {allowed}", name=name)
        refuse_secret(name, part)
        if reason := next((reason for names, reason in OURS if re.fullmatch(names, key)), None):
            raise ConfigError(f"{name}: {key} is not to be set here: {reason}", name=name)
        if not value.isprintable() or len(value) > 1024:
            raise ConfigError(f"{name}: {key} takes at most 1024 printable characters on one line", name=name)
        found[key] = value
    return tuple(sorted(found.items()))
