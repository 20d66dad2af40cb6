"""What the scripts of this folder are asked for on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from benchmarks.setting import FULL, QUICK, Setting, found_root

__all__ = ["add_data_root", "add_only", "file_of", "script_parser", "setting_of"]


def script_parser(module: str, description: str | None, results: Path) -> argparse.ArgumentParser:
    """With ``--quick`` and ``--out``, which each of them has.

    Args:
        module: name for ``python -m``.
        description: first lines of the help.
        results: file that a full measurement is written to.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"default: results/{results.name}, with --quick nowhere"
    )
    return parser


def add_only(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Measure some; the others stay in the file as they were measured."""
    names = list(names)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"some of {', '.join(names)}; the others stay as they were measured",
    )


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Where the images of CIFAR-10 are."""
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("../shared/data"),
        metavar="DIR",
        help="holds cifar10-if10, or the original files of CIFAR-10; synthetic images without "
        "(default: %(default)s)",
    )


def file_of(options: argparse.Namespace, results: Path) -> Path | None:
    """Where the numbers are written; None: nowhere."""
    found: Path | None = options.out or (None if options.quick else results)
    return found


def setting_of(options: argparse.Namespace) -> Setting:
    """On what and how large."""
    return Setting(QUICK, None) if options.quick else Setting(FULL, found_root(options.data_root))
