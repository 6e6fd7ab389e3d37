"""Commands of the form `python -m ROOM VERB ...`: one table of verbs, and the handling of errors."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from trainer.outcome import (
    BAD_CONFIG,
    FAILED,
    FINISHED,
    ConfigError,
    SickNode,
    is_out_of_memory,
    is_panic,
    lacking_words,
    panic_words,
)
from trainer.secret_shapes import told
from trainer.text import known_are


def dispatch(usage: str, verbs: Mapping[str, str], argv: Sequence[str]) -> int:
    """Run the verb that `argv` begins with; returns its exit code.

    `verbs` holds module:function by name. Each function takes the words that follow, and is imported only when it is
    called, since some import torch.
    """

    def act(argv: list[str]) -> int:
        verb, *rest = argv or [""]
        if verb in ("", "-h", "--help"):
            print(usage.strip())
            return FINISHED if verb else BAD_CONFIG
        if verb not in verbs:
            raise ConfigError(f"unknown verb {verb!r}{known_are(verb, verbs)}")
        try:
            return int(load(verbs[verb])(rest))
        except ConfigError as error:
            from trainer.commands import name_as_typed

            raise error.but(name=name_as_typed(error.name, argv)) from error.__cause__
        except ModuleNotFoundError as error:
            raise _elsewhere(error, usage.split()[3], argv) from error

    return exit_code(act, argv)


def load(act: str) -> Callable[..., Any]:
    """The function that `module:function` names; its module is imported now."""
    module, _, name = act.partition(":")
    return getattr(import_module(module), name)


def _elsewhere(error: ModuleNotFoundError, room: str, argv: Sequence[str]) -> Exception:
    """The error that tells what to do when this Python lacks a library; `error` itself when a module of Trainyard is
    missing."""
    from trainer.commands import CHECKOUT, python, training_command

    lacking = (error.name or "").partition(".")[0]
    if not lacking or (CHECKOUT / lacking).is_dir():
        return error
    there = training_command(room, *argv)
    same = there.split()[0] == python().split()[0]
    advice = "make env makes an environment that has it" if same else there
    return ConfigError(f"{argv[0]} needs {lacking}, which this Python ({sys.executable}) does not have: {advice}")


def exit_code(act: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """The result of `act`; for an error that a user can act on, prints one line and returns the matching exit code."""
    try:
        try:
            return act(list(argv))
        finally:
            sys.stdout.flush()
    except BaseException as error:
        if is_panic(error):
            print(f"trainyard: {told(panic_words(error))}", file=sys.stderr)
            return BAD_CONFIG
        if not isinstance(error, (ConfigError, SickNode, OSError, KeyboardInterrupt)):
            if not is_out_of_memory(error):
                raise
            print(f"trainyard: {told(lacking_words(error))}", file=sys.stderr)
            return FAILED
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return FAILED
        print(f"trainyard: {told(str(error)) or 'interrupted'}", file=sys.stderr)
        return BAD_CONFIG if isinstance(error, ConfigError) else FAILED


def nobody_reads() -> bool:
    """Whether the program that read our stdout has ended, as in `... | head`. If so, unwritten output is dropped,
    since Python would complain about it when it closes stdout."""
    stdout = sys.stdout.fileno()
    asked = select.poll()
    asked.register(stdout, 0)  # a pipe without a reader is an error of the pipe
    if gone := bool(asked.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone
