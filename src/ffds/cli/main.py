"""From the arguments of the process to one verb and its exit code."""

from __future__ import annotations

import argparse
import errno
import os
import select
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import NoReturn

from ffds.cli import data, images, inference, paper, recipes, sweep, training
from ffds.cli.options import HELP
from ffds.environment import is_first_rank
from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError, memory_may_run_out, tell
from ffds.training.signals import stop_at_once

__all__ = ["main", "parsed", "parser"]

_EXTRAS = {"optuna": "sweep", "distributed": "jobs"}
"""Packages that the extra `train` does not bring."""

_STDOUT = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    _open_standard_streams()
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? for ±
    code = 0
    try:
        try:
            code = _exit_code(arguments)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        if not _stdout_is_broken():
            raise
        _forget_stdout()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _forget_stdout()
        tell(f"error: {InputError('the disk is full', where=error.filename or 'standard output')}")
        code = InputError.exit_code
    return code


def _exit_code(arguments: Sequence[str] | None) -> int:
    """Run one command; of several ranks only the first one prints results and errors."""
    options = parsed(arguments)
    first = is_first_rank()
    try:
        quiet = nullcontext() if first else redirect_stdout(StringIO())
        with memory_may_run_out(), quiet, stop_at_once():
            options.verb(options)
    except FfdsError as error:
        if first:
            tell(f"error: {error}")
        # Where all ranks stop together, the code of the first rank has to count.
        together = isinstance(error, Interrupted | NonFiniteLossError)
        return 0 if together and not first else error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "ffds":
            raise
        extra = _EXTRAS.get(package, "train")
        tell(f"error: {error.name} is not installed: pip install 'ffds[{extra}]'")
        return InputError.exit_code
    return 0


def _open_standard_streams() -> None:
    """Open what the caller has closed: else the next file opened, a checkpoint, gets all that is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115
            os.set_inheritable(number, True)


def _forget_stdout() -> None:
    # Python flushes standard output once more when it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def _stdout_is_broken() -> bool:
    """Whether the reader of standard output has left; else the pipe to another process broke."""
    broken = select.poll()
    broken.register(_STDOUT, 0)
    return bool(broken.poll(0))


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments as all other errors are reported."""

    def error(self, message: str) -> NoReturn:
        tell(f"{self.format_usage()}{self.prog}: error: {InputError(message)}")
        raise SystemExit(InputError.exit_code)


def parser() -> argparse.ArgumentParser:
    """Every verb with its arguments."""
    whole = _Parser(prog="ffds", description="Long-tailed image classification.", **HELP)
    verbs = whole.add_subparsers(metavar="VERB", required=True)
    for family in (images, training, inference, sweep, paper, recipes, data):
        family.add_verbs(verbs)
    return whole


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; key=value settings may stand anywhere behind the verb."""
    whole = parser()
    options, rest = whole.parse_known_args(arguments)
    stray = [text for text in rest if text.startswith("-") or "=" not in text]
    if stray or (rest and "overrides" not in options):
        whole.error(f"unrecognized arguments: {' '.join(stray or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options
