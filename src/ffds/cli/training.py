"""The verbs that train and score: train, compare, eval, report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffds.cli.options import (
    add_jobs,
    add_out,
    add_recipe,
    add_tta,
    add_verb,
    cell,
    is_setting,
    names,
    numbers,
    path,
    print_lines,
    print_result,
    requested_jobs,
    resolved_recipe,
)
from ffds.errors import InputError, one_line, tell
from ffds.files import check_directory, check_file, make_directory

if TYPE_CHECKING:
    from ffds.data.dataset import Dataset
    from ffds.run_directory import Run

__all__ = ["add_verbs", "compare", "evaluate", "report", "train"]

_PREDICTIONS = ("", ".parquet", ".csv")
"""Suffixes of a file of predictions; without one it is Parquet."""


def train(options: argparse.Namespace) -> None:
    """Train one method."""
    recipe = resolved_recipe(options).recipe
    from ffds.data.content import knowing_images
    from ffds.data.sources.registry import titled
    from ffds.run_directory import Run

    recipe = knowing_images(recipe)
    run = Run.of(recipe, options.out)
    done_before = run.done
    if not (done_before and run.knows_images(recipe)):
        from ffds.training.train import train_recipe

        train_recipe(recipe, out=options.out, when_done=_draw_page)
    summary, title = run.summary, f"{titled(recipe.data.name, recipe.name)}, test set, percent"
    done = f"{'already done' if done_before else 'done'}: {run.path}"
    page = [f"page: {run.page}"] if run.page.is_file() else []
    rows, content = _results(summary), summary | {"path": str(run.path)}
    print_result(options, content, {title: rows}, *_legend(rows), done, *page)


def compare(options: argparse.Namespace) -> None:
    """Train methods × seeds and print one table."""
    # Every recipe is resolved before torch is imported, so that an error in one is reported at once.
    from ffds.recipes.load import planned_recipe

    for method in options.methods:
        planned_recipe(options.recipe, options.overrides, method=method)
    check_directory(options.out, "--out DIR")
    jobs = requested_jobs(options)
    from ffds.reports.comparison import SHORT, compare_recipes

    asked = (options.recipe, options.overrides, options.methods, options.seeds)
    comparison = compare_recipes(*asked, out=options.out, jobs=jobs)
    summaries = [run.summary for run in comparison.finished]
    title = f"{comparison.title}, test set after the last epoch, percent"
    written = f"written: {Path(options.out) / comparison.recipe / 'compare.md'} and compare.csv"
    rows = comparison.table(SHORT)
    print_result(options, summaries, {title: rows}, *_legend(rows), written)
    for error in comparison.failures.values():
        raise error


def evaluate(options: argparse.Namespace) -> None:
    """Score trained runs again, on their own test sets or on other data."""
    runs = [text for text in options.runs if not is_setting(text)]
    options.overrides = [*(text for text in options.runs if is_setting(text)), *options.overrides]
    if not runs:
        raise InputError("eval needs a run directory", got=" ".join(options.runs))
    if options.predictions is not None and len(runs) > 1:
        what, fix = "the predictions of several runs do not fit in one file", "name one run"
        raise InputError(what, where="--predictions FILE", got=f"{len(runs)} runs", fix=fix)
    if len(runs) == 1:
        content, rows, title = _scored(runs[0], options)
        print_result(options, content, {title: rows}, *_legend(rows))
        return
    found: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    for run in runs:
        try:
            found[run] = {"run": run, **_scored(run, options)[0]}
        except InputError as error:
            found[run] = {"run": run, "error": str(error)}
            failures.append(f"{run}: {error}")
    from ffds.evaluation.measures import measures_in

    measures = measures_in("comparison")
    rows = [["run", "images", *(measure.title for measure in measures)]]
    for run, one in found.items():
        if "error" not in one:
            rows.append([run, f"{one['images']:,}", *(cell(one[measure.name]) for measure in measures)])
    table = {"test set, percent": rows} if len(failures) < len(found) else {}
    print_result(options, list(found.values()), table, *(_legend(rows) if table else ()))
    if failures:
        raise InputError.joined(failures)


def _scored(path: str, options: argparse.Namespace) -> tuple[dict[str, Any], list[list[str]], str]:
    """What one run scores: for JSON, as rows of a table, and the title of that."""
    from ffds.run_directory import open_run

    run = open_run(path)
    if options.predictions is not None:
        check_file(options.predictions, "--predictions FILE")
        if Path(options.predictions).suffix.lower() not in _PREDICTIONS:
            what, allowed = "predictions have no such format", "FILE.parquet, FILE.csv"
            raise InputError(what, where="--predictions FILE", got=options.predictions, allowed=allowed)
    from ffds.inference.load import evaluate_run

    changes = {"adjusted": options.adjusted, "prior": options.prior, "augmentation": options.tta}
    scores, predictions = evaluate_run(run, options.overrides, **changes)
    if options.predictions is not None:
        file = Path(options.predictions)
        make_directory(file.parent, "the predictions", "--predictions FILE")
        predictions.write(file)
    summary, images = dict(scores.measures), len(predictions.index)
    rows = [["measure", "percent"]]
    rows += [[name.replace("_", " "), cell(value)] for name, value in summary.items()]
    names = list(predictions.class_names or ())
    content = summary | {"images": images, "per_class": scores.per_class, "class_names": names}
    return content, rows, f"{path}, test set of {images:,} images"


def report(options: argparse.Namespace) -> None:
    """Write report.html, the page of a finished run or of several side by side."""
    if options.save is not None:
        check_file(options.save, "--save FILE")
    from ffds.reports.report import report as write_report

    print_lines([f"page: {write_report(*options.runs, save=options.save)}"])


def _draw_page(run: Run, dataset: Dataset) -> None:
    """Write the page of a run that has just been trained; if that fails, the run is done all the same."""
    from ffds.reports.report import report as write_report

    try:
        write_report(run, test=dataset.test)
    except Exception as error:  # whatever it is, hours of training are done and saved
        reason = one_line(str(error).split("\n")[0]) or type(error).__name__
        tell(f"warning: the page was not written ({reason}); ffds report {run.path} tries again")


def add_verbs(verbs: Any) -> None:
    """Add train, compare, eval and report."""
    add_recipe(add_out(add_verb(verbs, "train", train)))

    parser = add_out(add_verb(verbs, "compare", compare))
    about = "methods of Table 1, e.g. ce,d-ffds"
    parser.add_argument("--methods", type=names, required=True, metavar="A,B,…", help=about)
    parser.add_argument("--seeds", type=numbers, default=(0,), metavar="0,1,…", help="seeds (default: 0)")
    add_jobs(parser)
    add_recipe(parser)

    parser = add_verb(verbs, "eval", evaluate)
    about = "run directories, and settings of their data: data.KEY=value"
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help=about)
    about = "also write one row per image: .parquet, .csv"
    parser.add_argument("--predictions", type=path, metavar="FILE", help=about)
    about = "weigh the probabilities for other shares of the classes: uniform, train or FILE"
    parser.add_argument("--prior", metavar="P", help=about)
    about = "apply what ffds adjust has saved beside the run"
    parser.add_argument("--adjusted", action="store_true", help=about)
    add_tta(parser)
    parser.set_defaults(overrides=[])

    parser = add_verb(verbs, "report", report, json_output=False)
    about = "run directories; several, tested on the same images, are compared with the first"
    parser.add_argument("runs", type=path, metavar="RUN", nargs="+", help=about)
    about = "the page (default: report.html in the run, of several in the directory that holds all)"
    parser.add_argument("--save", type=path, metavar="FILE", help=about)


def _legend(rows: list[list[str]]) -> list[str]:
    """What the groups of classes in a table are."""
    from ffds.evaluation.groups import described_groups

    return described_groups({*rows[0], *(row[0] for row in rows)})


def _results(summary: dict[str, Any]) -> list[list[str]]:
    """Header and one row a measure; the accuracy has two."""
    from ffds.evaluation.measures import measures_in

    accuracy = summary["accuracy"]
    best = f"{cell(accuracy['best_on_test'])} in epoch {accuracy['best_epoch']}"
    names = [measure.name for measure in measures_in("comparison") if measure.name != "accuracy"]
    chosen, validation = summary.get("kept"), summary.get("validation") or {}
    kept = [[f"accuracy, epoch {chosen['epoch']}, which is kept", cell(accuracy["kept"])]] if chosen else []
    by = dict.fromkeys(("accuracy", chosen["by"] if chosen else "balanced_accuracy")) if validation else ()
    held = [[f"validation {name.replace('_', ' ')}", cell(validation[name])] for name in by]
    return [
        ["measure", f"{summary['method']} seed {summary['seed']}"],
        *held,
        ["accuracy, last epoch", cell(accuracy["last"])],
        *kept,
        *([name.replace("_", " "), cell(summary.get(name))] for name in (*names, "train_accuracy")),
        ["best on test (chosen on the test set)", best],
    ]
