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

from benchmarks.augmentation import augmentation
from benchmarks.epoch import epoch
from benchmarks.loading import loading
from benchmarks.losses import losses
from benchmarks.memory import memory
from benchmarks.opening import opening
from benchmarks.ranks import ranks
from benchmarks.result import Result, page, table
from benchmarks.setting import FULL, QUICK, Setting, found_root
from benchmarks.step import step
from ffds.environment import commit, hardware, versions
from ffds.files import write_json, write_text

__all__ = ["main"]

RESULTS = Path(__file__).parents[1] / "results" / "bench.json"
MIN_WIDTH = 120
"""Of the table; a file or pipe would get 80 columns."""
NAMES = ("augmentation", "losses", "memory", "step", "ranks", "loading", "opening", "epoch")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    setting = Setting(QUICK, None) if options.quick else Setting(FULL, found_root(options.data_root))
    measures: dict[str, Callable[[], list[Result]]] = {
        "augmentation": lambda: augmentation(setting),
        "losses": lambda: losses(setting),
        "memory": lambda: memory(setting),
        "step": lambda: step(setting),
        "ranks": lambda: ranks(setting, options.pairs),
        "loading": lambda: loading(setting, options.pairs),
        "opening": lambda: opening(setting, options.pairs),
        "epoch": lambda: epoch(setting, options.pairs),
    }
    file = options.out or (None if options.quick else RESULTS)
    # What an earlier run measured stays, with its own provenance, until it is measured again.
    kept = json.loads(file.read_text(encoding="utf-8")) if options.only and file and file.exists() else []
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
    names = {result.name for result in results}
    older = [entry for entry in kept if entry["name"] not in names]
    entries = [*older, *(result.entry() | provenance for result in results)]
    write_json(path, entries)
    write_text(path.with_suffix(".md"), page(entries))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and memory beside the conventional way."
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("../shared/data"),
        metavar="DIR",
        help="holds cifar10-if10, or the original files of CIFAR-10; synthetic images without "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=5,
        metavar="N",
        help="epochs of each side that count (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=NAMES,
        metavar="NAME",
        help=f"some of {', '.join(NAMES)}; the others stay as they were measured",
    )
    parser.add_argument("--quick", action="store_true", help="tiny synthetic sizes, to try the script")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"default: results/{RESULTS.name}, with --quick nowhere",
    )
    return parser


if __name__ == "__main__":
    main()
