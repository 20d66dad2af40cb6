"""The verbs that regenerate the paper's results: table, figure."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from pathlib import Path
from typing import Any

from ffds.cli.options import (
    add_jobs,
    add_out,
    add_overrides,
    add_verb,
    names,
    numbers,
    path,
    print_lines,
    print_result,
    requested_jobs,
)
from ffds.errors import InputError, note
from ffds.files import check_directory, make_directory, write_text

__all__ = ["FIGURES", "TABLES", "add_verbs", "figure", "table"]

TABLES = ("1a", "1b", "1c", "2b", "runs")
FIGURES = ("1", "2a", "2b", "3", "4", "5a", "5b")


def table(options: argparse.Namespace) -> None:
    """Put measured runs beside the paper's numbers, training first what is missing."""
    if options.save is not None:
        check_directory(options.save, "--save DIR")
    if options.table == "runs":
        _runs(options)
        return
    from ffds.paper.reproduce import reproduced
    from ffds.paper.table_plan import planned_table
    from ffds.paper.tables import caption, cell_records, footnotes, rows, write_table

    plan = planned_table(
        options.table, columns=options.columns, methods=options.methods, overrides=options.overrides
    )
    train, jobs = not options.no_train, requested_jobs(options)
    filled = reproduced(plan, seeds=options.seeds, out=options.out, runs=options.runs, train=train, jobs=jobs)
    written = [] if options.save is None else write_table(filled, Path(options.save))
    lines = [textwrap.fill(caption(filled), shutil.get_terminal_size().columns), *footnotes(filled)]
    tables = {column: rows(filled, column) for column in filled.columns}
    print_result(options, cell_records(filled), tables, *lines, *(f"written: {path}" for path in written))
    for failure in filled.failures:
        raise failure.error


def figure(options: argparse.Namespace) -> None:
    """Draw a figure of the paper from finished runs, training first what is missing."""
    from ffds.paper.figures import Request, draw_figure
    from ffds.plotting import save_figure

    recipe = options.recipe or ("ictext-lt-18" if options.figure == "4" else "cifar100-lt-100")
    train, jobs = not options.no_train, requested_jobs(options)
    request = Request(recipe, tuple(options.overrides), options.seed, options.out, train=train, jobs=jobs)
    check_directory(options.save, "--save DIR")
    drawing = draw_figure(options.figure, request)
    if drawing.remark:
        note(f"note: {drawing.remark}")
    name = f"figure-{options.figure}"
    print_lines(save_figure(drawing.figure, drawing.rows, options.save, name, drawing.description))


def add_verbs(verbs: Any) -> None:
    """Add table and figure."""
    parser = add_out(add_verb(verbs, "table", table))
    add = parser.add_argument
    about = "1a methods, 1b groups, 1c modules, 2b curves, or runs: every finished run in one line"
    add("table", metavar="TABLE", choices=TABLES, help=about)
    add("--columns", type=names, default=(), metavar="RECIPE,…", help="datasets (default: the paper's)")
    add("--methods", type=names, default=(), metavar="A,B,…", help="rows of 1a and of runs (default: all)")
    seeds = "seeds (default: 0 where it trains, else all that were measured)"
    add("--seeds", type=numbers, metavar="0,1,…", help=seeds)
    add("--runs", type=path, metavar="FILE", help="read this runs.csv, train nothing")
    add("--save", type=path, metavar="DIR", help="also write Markdown, LaTeX and CSV there")
    _add_training(parser)

    parser = add_out(add_verb(verbs, "figure", figure, json_output=False))
    add = parser.add_argument
    add("figure", metavar="FIGURE", choices=FIGURES, help=", ".join(FIGURES))
    add("--recipe", metavar="RECIPE", help="dataset (default: cifar100-lt-100, for figure 4 ictext-lt-18)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the runs (default: 0)")
    place = "where SVG, PDF, PNG and CSV go (default: figures)"
    add("--save", type=path, metavar="DIR", default="figures", help=place)
    _add_training(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-train", action="store_true", help="take finished runs only")
    add_jobs(parser)
    add_overrides(parser)


def _runs(options: argparse.Namespace) -> None:
    """Every finished run, or those of some recipes, methods and seeds."""
    from ffds.paper.tables import runs_rows
    from ffds.reports.run_records import read_csv, records, runs_csv

    if options.overrides:
        raise InputError("table runs lists what there is", got=" ".join(options.overrides))
    lines = records(options.out) if options.runs is None else read_csv(options.runs)
    chosen = [
        line
        for line in lines
        if line.recipe in (options.columns or [line.recipe])
        and line.method in (options.methods or [line.method])
        and line.seed in (options.seeds or [line.seed])
    ]
    if options.save is not None:
        directory = make_directory(Path(options.save), "the table", "--save DIR")
        write_text(directory / "runs.csv", runs_csv(chosen))
    content = [line.columns for line in chosen]
    print_result(options, content, {"finished runs, test set, percent": runs_rows(chosen)})
