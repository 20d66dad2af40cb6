"""The verbs that train and score: train, compare, eval."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ffds.cli.options import (
    add_jobs,
    add_out,
    add_overrides,
    add_recipe,
    add_verb,
    cell,
    names,
    numbers,
    print_json,
    print_table,
    resolved_recipe,
    wanted_jobs,
)
from ffds.files import check_directory, check_file

__all__ = ["add_verbs", "compare", "evaluate", "train"]


def train(options: argparse.Namespace) -> None:
    """Train one method."""
    resolved = resolved_recipe(options)
    from ffds.run_directory import Run

    run = Run.of(resolved.recipe, options.out)
    done_before = run.done
    if not done_before:
        from ffds.training.train import train_recipe

        train_recipe(resolved.recipe, out=options.out)
    if options.json:
        print_json(run.summary | {"path": str(run.path)})
        return
    from ffds.data.sources.registry import titled

    recipe = resolved.recipe
    print_table(f"{titled(recipe.data.name, recipe.name)}, test set, percent", _results(run.summary))
    print(f"{'already done' if done_before else 'done'}: {run.path}")


def compare(options: argparse.Namespace) -> None:
    """Train methods × seeds and print one table."""
    # Every recipe is resolved before torch is imported, so that a slip is told at once.
    from ffds.recipes.load import planned_recipe

    for method in options.methods:
        planned_recipe(options.recipe, options.overrides, method=method)
    check_directory(options.out, "--out DIR")
    jobs = wanted_jobs(options)
    from ffds.reports.comparison import SHORT, compare_recipes

    found = compare_recipes(
        options.recipe, options.overrides, options.methods, options.seeds, out=options.out, jobs=jobs
    )
    if options.json:
        print_json([run.summary for runs in found.runs.values() for run in runs if run.done])
    else:
        print_table(f"{found.title}, test set after the last epoch, percent", found.table(SHORT))
        print(f"written: {Path(options.out) / found.recipe / 'compare.md'} and compare.csv")
    if found.failures:
        raise next(iter(found.failures.values()))


def evaluate(options: argparse.Namespace) -> None:
    """Score a trained run again, on its own test set or on other data."""
    from ffds.run_directory import open_run

    run = open_run(options.run)
    if options.predictions is not None:
        check_file(options.predictions, "--predictions FILE")
    from ffds.inference.load import evaluate_run

    scores, predictions = evaluate_run(run, options.overrides)
    if options.predictions is not None:
        Path(options.predictions).parent.mkdir(parents=True, exist_ok=True)
        predictions.write(Path(options.predictions))
    summary, images = scores.summary(), len(predictions.index)
    if options.json:
        print_json(summary | {"images": images, "per_class": scores.per_class})
    else:
        rows = [["measure", "percent"], *([name, cell(value)] for name, value in summary.items())]
        print_table(f"{options.run}, test set of {images:,} images", rows)


def add_verbs(verbs: Any) -> None:
    """Add train, compare and eval."""
    add_recipe(add_out(add_verb(verbs, "train", train)))
    _add_compare(verbs)
    _add_eval(verbs)


def _add_compare(verbs: Any) -> None:
    parser = add_out(add_verb(verbs, "compare", compare))
    parser.add_argument(
        "--methods", type=names, required=True, metavar="A,B,…", help="methods of Table 1, e.g. ce,d-ffds"
    )
    parser.add_argument("--seeds", type=numbers, default=(0,), metavar="0,1,…", help="seeds (default: 0)")
    add_jobs(parser)
    add_recipe(parser)


def _add_eval(verbs: Any) -> None:
    parser = add_verb(verbs, "eval", evaluate)
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--predictions", metavar="FILE", help="also write one row per image, as Parquet")
    add_overrides(parser)


def _results(summary: dict[str, Any]) -> list[list[str]]:
    """Measure and value; the accuracy has two rows."""
    from ffds.evaluation.measures import measures_in

    accuracy = summary["accuracy"]
    names = [measure.name for measure in measures_in("comparison") if measure.name != "accuracy"]
    return [
        ["measure", f"{summary['method']} seed {summary['seed']}"],
        ["accuracy, last epoch", cell(accuracy["last"])],
        *([name.replace("_", " "), cell(summary.get(name))] for name in (*names, "train_accuracy")),
        [
            "best on test (chosen on the test set)",
            f"{cell(accuracy['best_on_test'])} in epoch {accuracy['best_epoch']}",
        ],
    ]
