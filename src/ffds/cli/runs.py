"""The verbs about run directories: runs list, runs clean."""

from __future__ import annotations

import argparse
from typing import Any

from ffds.cli.options import add_out, add_verb, cell, mebibytes, print_result
from ffds.errors import InputError

__all__ = ["add_verbs", "clean", "show"]


def show(options: argparse.Namespace) -> None:
    """List all runs, finished or not, with what they take on the disk."""
    from ffds.reports.inventory import stored_runs

    runs = stored_runs(options.out)
    rows = [["run", "state", "accuracy", "size"]]
    for run in runs:
        name = "/".join(run.path.parts[-3:])
        rows.append([name, run.progress, cell(run.accuracy), mebibytes(run.bytes)])
    title = f"{len(runs)} runs below {options.out}, {mebibytes(sum(run.bytes for run in runs))}"
    damaged = [f"damaged: {run.path}: {run.error}" for run in runs if run.error]
    print_result(options, [run.json() for run in runs], {title: rows}, *damaged)


def clean(options: argparse.Namespace) -> None:
    """Remove checkpoints that are not needed any more; without --yes only say which."""
    from ffds.reports.inventory import remove, spare

    found = spare(options.out, options.unfinished)
    removed = [remove(one) for one in found] if options.yes else [False] * len(found)
    rows = [["what", "why", "size"], *([str(one.path), one.why, mebibytes(one.bytes)] for one in found)]
    total = sum(one.bytes for one in found)
    freed = sum(one.bytes for one, gone in zip(found, removed, strict=True) if gone)
    content = {
        "removed_bytes": freed,
        "spare_bytes": total,
        "entries": [
            {"path": str(one.path), "why": one.why, "bytes": one.bytes, "removed": gone}
            for one, gone in zip(found, removed, strict=True)
        ],
    }
    if not found:
        print_result(options, content, {}, f"nothing to remove below {options.out}")
        return
    last = f"nothing is removed yet: the same command with --yes frees {mebibytes(total)}"
    if options.yes:
        last = f"{mebibytes(freed)} removed"
    print_result(options, content, {f"spare below {options.out}": rows}, last)
    if options.yes and not all(removed):
        left = removed.count(False)
        raise InputError(
            "not everything could be removed", where=options.out, got=f"{left} of {len(found)} left"
        )


def add_verbs(verbs: Any) -> None:
    """Add runs with its own verbs."""
    about = "List runs, or free what they do not need any more."
    family = verbs.add_parser("runs", help=about, description=about)
    own = family.add_subparsers(metavar="VERB", required=True)
    add_out(add_verb(own, "list", show))
    parser = add_out(add_verb(own, "clean", clean))
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    about = "also whole runs that are not done and were not written to for so many days"
    parser.add_argument("--unfinished", type=float, metavar="DAYS", help=about)
