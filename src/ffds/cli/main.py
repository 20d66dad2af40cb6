"""From the arguments of the process to one verb and its exit code."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO, TextIOWrapper

from ffds.cli import data, paper, recipes, sweep, training
from ffds.cli.options import EPILOG
from ffds.environment import is_first_rank
from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError

__all__ = ["main", "parsed", "parser"]

_EXTRAS = {"optuna": "sweep"}
"""Packages that the extra `train` does not bring."""

_STDOUT = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? for ±
    code = 0
    try:
        try:
            code = _ended(arguments)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        if not _reader_left():
            raise
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return code


def _ended(arguments: Sequence[str] | None) -> int:
    """The exit code of one command."""
    options = parsed(arguments)
    if not is_first_rank():
        return _follow(options)
    try:
        options.verb(options)
    except FfdsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "ffds":
            raise
        extra = _EXTRAS.get(package, "train")
        print(f"error: {error.name} is not installed: pip install 'ffds[{extra}]'", file=sys.stderr)
        return InputError.exit_code
    return 0


def _reader_left() -> bool:
    """Whether it is standard output that broke, and not the pipe to another process."""
    broken = select.poll()
    broken.register(_STDOUT, 0)
    return bool(broken.poll(0))


def _follow(options: argparse.Namespace) -> int:
    """One of several processes but the first: no output, and no exit code that would beat the first one's."""
    with redirect_stdout(StringIO()):
        try:
            options.verb(options)
        except (Interrupted, NonFiniteLossError):
            return 0
        except FfdsError as error:
            return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """Every verb with its arguments."""
    whole = argparse.ArgumentParser(
        prog="ffds",
        description="Long-tailed image classification.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = whole.add_subparsers(metavar="VERB", required=True)
    for room in (training, sweep, paper, recipes, data):
        room.add_verbs(verbs)
    return whole


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with key=value settings accepted anywhere behind the verb."""
    whole = parser()
    options, rest = whole.parse_known_args(arguments)
    stray = [text for text in rest if text.startswith("-") or "=" not in text]
    if stray or (rest and "overrides" not in options):
        whole.error(f"unrecognized arguments: {' '.join(stray or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options
