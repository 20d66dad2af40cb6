"""From the arguments of the process to one verb and its exit code."""

from __future__ import annotations

import argparse
import errno
import os
import re
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from ffds.cli import data, images, inference, paper, recipes, runs, sweep, training
from ffds.cli.options import HELP, add_quiet
from ffds.environment import is_first_rank, versions
from ffds.errors import (
    QUIET,
    FfdsError,
    InputError,
    Interrupted,
    NonFiniteLossError,
    memory_may_run_out,
    nearest,
    tell,
)
from ffds.training.signals import stop_at_once

__all__ = ["main", "parsed", "parser"]

_EXTRAS = {"optuna": "sweep", "distributed": "jobs", "peft": "adapt"}
_EXTRAS |= dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export")
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
        hidden = nullcontext() if first else redirect_stdout(StringIO())
        with _quiet(options.quiet), memory_may_run_out(), hidden, stop_at_once():
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


@contextmanager
def _quiet(asked: bool) -> Iterator[None]:
    """Have this command, and the processes it starts, tell of no progress, if that is asked for."""
    before = os.environ.get(QUIET)
    if asked:
        os.environ[QUIET] = "1"
    try:
        yield
    finally:
        os.environ.pop(QUIET, None)
        if before is not None:
            os.environ[QUIET] = before


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments as all other errors are reported, with the nearest name that exists."""

    def error(self, message: str, fix: str = "") -> NoReturn:
        if chosen := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            fix = nearest(chosen[1], re.findall(r"[\w-]+", chosen[2]))
        tell(f"{self.format_usage()}{self.prog}: error: {InputError(message, fix=fix)}")
        raise SystemExit(InputError.exit_code)


class _Version(argparse.Action):
    """Print the version and end: it is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"ffds {versions().get('ffds', 'unknown, not installed')}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Every verb with its arguments."""
    whole = _Parser(prog="ffds", description="Long-tailed image classification.", **HELP)
    whole.add_argument("--version", action=_Version, nargs=0, help="print the version")
    add_quiet(whole)
    verbs = whole.add_subparsers(metavar="VERB", required=True)
    for family in (images, training, inference, sweep, paper, recipes, data, runs):
        family.add_verbs(verbs)
    return whole


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; key=value settings may stand anywhere behind the verb."""
    options, rest = parser().parse_known_args(arguments)
    if isinstance(getattr(options, "runs", None), list):  # more of them, behind an option
        options.runs += [text for text in rest if not text.startswith("-")]
        rest = [text for text in rest if text.startswith("-")]
    stray = [text for text in rest if text.startswith("-") or "=" not in text]
    if stray or (rest and "overrides" not in options):
        wrong = stray or rest
        options.parser.error(f"unrecognized arguments: {' '.join(wrong)}", _meant(options, wrong[0]))
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _meant(options: argparse.Namespace, given: str) -> str:
    """What an unknown option may have meant: a setting, which has no dashes, or another option."""
    name, _, value = given.lstrip("-").partition("=")
    if "overrides" in options and given.startswith("-"):
        with suppress(ModuleNotFoundError):
            from ffds.recipes.schema import SECTIONS

            keys = [f"{part}.{key}" for part, section in SECTIONS.items() for key in section.model_fields]
            word = name.replace("-", "_")
            if found := [key for key in keys if word in (key, key.partition(".")[2])]:
                settings = " or ".join(f"{key}={value or 'VALUE'}" for key in found)
                return f"a setting has no dashes: {settings}"
    return nearest(f"--{name}", options.parser._option_string_actions)
