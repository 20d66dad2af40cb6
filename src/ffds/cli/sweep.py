"""The verb that searches settings: sweep."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffds.cli.options import add_jobs, add_out, add_recipe, add_verb, print_result, requested_jobs

if TYPE_CHECKING:
    from ffds.sweep.results import SweepResult

__all__ = ["add_verbs", "sweep"]


def sweep(options: argparse.Namespace) -> None:
    """Search the settings of FFDS on held-out training images."""
    # An error in the recipe is reported before torch is imported.
    from ffds.sweep.space import searched_recipe

    searched_recipe(options.recipe, options.overrides)
    jobs = requested_jobs(options)
    from ffds.errors import InputError, NonFiniteLossError
    from ffds.sweep.search import sweep as search

    result = search(
        options.recipe,
        options.overrides,
        trials=options.trials,
        study=options.study,
        storage=options.storage,
        out=options.out,
        jobs=jobs,
    )
    written = _written(result)
    content = result.records() | {"files": list(map(str, written))}
    title = f"{result.recipe.name}, balanced accuracy on validation images, percent"
    print_result(options, content, {title: result.table()}, *_remarks(result), *_places(written))
    if unfinished := result.having("unfinished"):
        what = f"{len(unfinished)} of {len(result.trials)} trials are unfinished"
        raise InputError(what, got=unfinished[-1].cause, fix="the same command tries them again")
    if result.best is None and (failed := result.having("failed")):
        raise NonFiniteLossError(f"no trial finished, {len(failed)} failed: {failed[-1].cause}")


def add_verbs(verbs: Any) -> None:
    """Add sweep."""
    parser = add_out(add_verb(verbs, "sweep", sweep))
    add = parser.add_argument
    add("--trials", type=int, default=50, metavar="N", help="trials of the whole study (default: 50)")
    add("--study", metavar="NAME", help="name of the study (default: one for these settings and images)")
    url = "where the study lies, e.g. postgresql+psycopg://HOST/DATABASE (default: a file below --out)"
    add("--storage", metavar="URL", help=url)
    add_jobs(parser)
    add_recipe(parser)


def _written(result: SweepResult) -> list[Path]:
    """Write the best recipe and the plots, beside the study."""
    if not result.write_best():
        return []
    from ffds.sweep.plots import save_plots

    return [result.best_path, *save_plots(result)]


def _remarks(result: SweepResult) -> list[str]:
    """What became of the trials that are not in the table."""
    kinds = "failed", "unfinished"
    failed = [f"{kind}: trial {one.number}: {one.cause}" for kind in kinds for one in result.having(kind)]
    return [textwrap.fill(f"{len(result.trials)} trials: {result.tally}; the test set was not used"), *failed]


def _places(files: list[Path]) -> list[str]:
    """The files, those of one figure in a line."""
    endings: dict[Path, list[str]] = {}
    for path in files:
        endings.setdefault(path.with_suffix(""), []).append(path.suffix)
    return [f"written: {stem}{', '.join(suffixes)}" for stem, suffixes in endings.items()]
