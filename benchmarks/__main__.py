"""``python -m benchmarks``: measure, print a table, write ``results/bench.json``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.arguments import add_data_root, add_only, file_of, script_parser, setting_of
from benchmarks.augmentation import augmentation
from benchmarks.epoch import epoch, precision
from benchmarks.loading import loading
from benchmarks.losses import losses
from benchmarks.memory import memory
from benchmarks.opening import opening
from benchmarks.ranks import ranks
from benchmarks.result import Result, page, table
from benchmarks.step import step
from ffds.environment import commit, hardware, versions
from ffds.files import write_json, write_text

__all__ = ["main"]

RESULTS = Path(__file__).parents[1] / "results" / "bench.json"
MIN_WIDTH = 120
"""Of the table; a file or pipe would get 80 columns."""
NAMES = ("augmentation", "losses", "memory", "step", "ranks", "loading", "opening", "epoch", "precision")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    setting = setting_of(options)
    measures: dict[str, Callable[[], list[Result]]] = {
        "augmentation": lambda: augmentation(setting),
        "losses": lambda: losses(setting),
        "memory": lambda: memory(setting),
        "step": lambda: step(setting),
        "ranks": lambda: ranks(setting, options.pairs),
        "loading": lambda: loading(setting, options.pairs),
        "opening": lambda: opening(setting, options.pairs),
        "epoch": lambda: epoch(setting, options.pairs),
        "precision": lambda: precision(setting, options.pairs),
    }
    file = file_of(options, RESULTS)
    earlier = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else []
    # What was measured on another machine stays, and what this one does not measure anew.
    kept = [entry for entry in earlier if options.only or entry["hardware"] != hardware()]
    results: list[Result] = []
    for name in options.only or measures:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        found = measures[name]()
        # The targets are for the full sizes.
        results += [replace(result, target=None) for result in found] if options.quick else found
        if file is not None:
            # After each, so that an interruption keeps what was measured.
            _write(file, kept, results, given)
    Console(width=max(Console().width, MIN_WIDTH)).print(table(results))
    if file is not None:
        print(f"written: {file}")


def _write(path: Path, kept: list[dict[str, Any]], results: list[Result], arguments: list[str]) -> None:
    # The yardstick's pictures are Pillow's.
    provenance = {
        "hardware": hardware(),
        "versions": versions() | {name: metadata.version(name) for name in ("pillow", "timm")},
        "commit": commit(),
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = [result.entry() | provenance for result in results]
    again = {(entry["hardware"], entry["name"]) for entry in measured}
    entries = [*(entry for entry in kept if (entry["hardware"], entry["name"]) not in again), *measured]
    write_json(path, entries)
    write_text(path.with_suffix(".md"), page(entries))


def _parser() -> argparse.ArgumentParser:
    parser = script_parser("benchmarks", "Speed and memory beside the conventional way.", RESULTS)
    add_only(parser, NAMES)
    add_data_root(parser)
    parser.add_argument(
        "--pairs",
        type=int,
        default=5,
        metavar="N",
        help="epochs of each side that count (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
