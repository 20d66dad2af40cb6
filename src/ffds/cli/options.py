"""Arguments, checks and output that several verbs share."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ffds.errors import printable

__all__ = ["HELP", "add_jobs", "add_out", "add_overrides", "add_quiet", "add_recipe", "add_tta", "add_verb"]
__all__ += [
    "cell",
    "is_setting",
    "mebibytes",
    "names",
    "numbers",
    "path",
    "plain",
    "print_lines",
    "print_result",
]
__all__ += ["requested_jobs"]
__all__ += ["resolved_recipe"]

_EPILOG = """exit codes: 0 done, 2 input cannot be used, 3 loss not finite, 75 interrupted and saved, 1 a bug
RECIPE is a shipped name (ffds recipes) or a file; key=value changes one setting, e.g. trainer.seed=1"""
HELP: dict[str, Any] = {"epilog": _EPILOG, "formatter_class": argparse.RawDescriptionHelpFormatter}
SHORT_NAME = 24
"""Names up to this many letters stay in one line of a table."""


def add_verb(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], None], *, json_output: bool = True
) -> argparse.ArgumentParser:
    """The parser of one verb, described by the first line of its function."""
    about = (verb.__doc__ or "").strip()
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about, **HELP)
    parser.set_defaults(verb=verb, parser=parser)
    add_quiet(parser, default=argparse.SUPPRESS)
    if json_output:
        parser.add_argument("--json", action="store_true", help="print JSON for a program to read")
    return parser


def add_quiet(parser: argparse.ArgumentParser, **default: Any) -> None:
    """-q, --quiet: before the verb or behind it."""
    about = "say nothing about progress: only results, warnings and errors"
    parser.add_argument("-q", "--quiet", action="store_true", help=about, **default)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """RECIPE and key=value."""
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a file")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """key=value, any number of them."""
    about = "settings that differ from the recipe"
    parser.add_argument("overrides", metavar="key=value", nargs="*", help=about)


def add_out(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """--out DIR; returns the parser."""
    about = "directory of all runs (default: runs)"
    parser.add_argument("--out", type=path, metavar="DIR", default="runs", help=about)
    return parser


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """--jobs N, --devices A,B,… and --scheduler ADDRESS."""
    jobs = "runs at a time, each in a process with its share of the cores; on the CPU the number of threads "
    jobs += "decides the last digits (default: one for each device, else 1)"
    parser.add_argument("--jobs", type=int, metavar="N", help=jobs)
    devices = "GPU numbers, given out to the jobs in turn (default: each job takes what its recipe asks for)"
    parser.add_argument("--devices", type=numbers, default=(), metavar="A,B,…", help=devices)
    scheduler = "of a Dask cluster that trains the runs, e.g. tcp://HOST:8786; its workers see --out DIR"
    parser.add_argument("--scheduler", metavar="ADDRESS", help=scheduler)


def add_tta(parser: argparse.ArgumentParser) -> None:
    """--tta flip|crops."""
    about = "also look at each image mirrored (flip), or at its centre and corners (crops); the mean of the "
    about += "probabilities counts"
    parser.add_argument("--tta", choices=("none", "flip", "crops"), default="none", help=about)


def names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def is_setting(text: str) -> bool:
    """Whether an argument that may be a path is ``key=value`` of a recipe."""
    return bool(re.match(r"[a-z_]+(\.[a-z_]+)*=", text)) and not os.path.lexists(text)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"not whole numbers with commas between: {text!r}") from None


def path(text: str) -> str:
    """A path that the file system can look up, also with the names of a run directory below it."""
    try:
        os.lstat(os.path.join(os.path.abspath(text), *["x" * 100] * 3))  # noqa: PTH100, PTH118
    except (FileNotFoundError, NotADirectoryError):
        pass  # what there has to be, the verb knows
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"no usable path: {reason}: {text}") from None
    return text


def requested_jobs(options: argparse.Namespace) -> Any:
    """The `ffds.jobs.options.Jobs` that the arguments ask for."""
    from ffds.jobs.options import Jobs

    return Jobs.asked(options.jobs, options.devices, options.scheduler)


def resolved_recipe(options: argparse.Namespace) -> Any:
    """The recipe that the arguments ask for, with the origin of each value."""
    from ffds.recipes.load import load_recipe

    return load_recipe(options.recipe, options.overrides)


def cell(value: float | None) -> str:
    """A percentage with two digits after the point."""
    return "n/a" if value is None else f"{value:.2f}"


def mebibytes(size: int) -> str:
    """A number of bytes in MiB."""
    return f"{size / 2**20:,.1f} MiB"


def plain(value: object) -> str:
    """A setting as a person would write it."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def print_result(
    options: argparse.Namespace, content: object, tables: Mapping[str, Sequence[Sequence[str]]], *lines: str
) -> None:
    """Print the content as JSON where ``--json`` asks for it, else tables by title and lines of text."""
    if options.json:
        print(json.dumps(content, indent=2))
        return
    for title, rows in tables.items():
        _print_table(title, rows)
    print_lines(lines)


def print_lines(lines: Iterable[object]) -> None:
    """Print one line each on standard output, whatever is in it."""
    for line in lines:
        print(printable(str(line)))


def _print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first row is its header."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, *body = rows
    shown = Text(printable(title))
    table = Table(title=shown, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    short = max(len(row[0]) for row in rows) <= SHORT_NAME
    for number, name in enumerate(header):
        # A short name that is broken over two lines cannot be found or copied.
        table.add_column(Text(printable(name)), overflow="fold", no_wrap=short and number == 0)
    for row in body:
        table.add_row(*(Text(printable(text)) for text in row))
    console = Console()
    with console.capture() as printed:
        console.print(table)
    # Printed by rich itself, it would end the process where the reader of a pipe has left.
    print(printed.get(), end="")
