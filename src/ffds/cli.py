"""The command line: each verb is one function; torch is imported by the verb that needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from ffds.errors import FfdsError, InputError, Interrupted, NonFiniteLossError

__all__ = ["main"]

EPILOG = """exit codes: 0 done, 2 input cannot be used, 3 loss not finite, 75 interrupted and saved, 1 a bug
RECIPE is a shipped name (ffds recipes) or a file; key=value changes one setting, e.g. trainer.seed=1"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    options = _options(arguments)
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0:
        return _follow(options)
    try:
        options.verb(options)
    except FfdsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "ffds":
            raise
        print(f"error: {error.name} is not installed: pip install 'ffds[train]'", file=sys.stderr)
        return InputError.exit_code
    return 0


def _follow(options: argparse.Namespace) -> int:
    """One of several processes but the first: no output, and no exit code that would beat the first one's."""
    with redirect_stdout(StringIO()):
        try:
            options.verb(options)
        except (Interrupted, NonFiniteLossError):
            return 0
        except FfdsError as error:
            return error.exit_code
    return 0


def train(options: argparse.Namespace) -> None:
    """Train one method."""
    resolved = _resolved(options)
    from ffds.runs import Run

    run = Run.of(resolved.recipe, options.out)
    done_before = run.done
    if not done_before:
        from ffds.training.train import train_recipe

        train_recipe(resolved.recipe, out=options.out)
    if options.json:
        _print_json(run.summary | {"path": str(run.path)})
        return
    _print_table(f"{resolved.recipe.name}, test set, percent", _results(run.summary))
    print(f"{'already done' if done_before else 'done'}: {run.path}")


def compare(options: argparse.Namespace) -> None:
    """Train methods × seeds and print one table."""
    # Every recipe is resolved before torch is imported, so that a slip is told at once.
    from ffds.recipes.load import load_recipe

    for method in options.methods:
        load_recipe(options.recipe, options.overrides, method=method)
    from ffds.comparison import SHORT, compare_recipes

    found = compare_recipes(
        options.recipe, options.overrides, options.methods, options.seeds, out=options.out
    )
    if options.json:
        _print_json([run.summary for runs in found.runs.values() for run in runs if run.done])
    else:
        _print_table(f"{found.recipe}, test set after the last epoch, percent", found.table(SHORT))
        print(f"written: {Path(options.out) / found.recipe / 'compare.md'} and compare.csv")
    if found.failures:
        raise next(iter(found.failures.values()))


def evaluate(options: argparse.Namespace) -> None:
    """Score a trained run again, on its own test set or on other data."""
    from ffds.runs import open_run

    run = open_run(options.run)
    from ffds.training.saved import evaluate_run

    scores, predictions = evaluate_run(run, options.overrides)
    if options.predictions is not None:
        predictions.write(Path(options.predictions))
    summary = scores.summary()
    if options.json:
        _print_json(summary | {"per_class": scores.per_class})
    else:
        rows = [["measure", "percent"], *([name, _cell(value)] for name, value in summary.items())]
        _print_table(f"{options.run}, test set", rows)


def recipes(options: argparse.Namespace) -> None:
    """List the shipped recipes."""
    from ffds.recipes import shipped_recipes

    found = shipped_recipes()
    if options.json:
        _print_json(found)
    else:
        _print_table("shipped recipes", [["name", "what it is"], *map(list, found.items())])


def show(options: argparse.Namespace) -> None:
    """Print the resolved recipe, the origin of each value, and its schedule in epochs."""
    from ffds.recipes.describe import described_schedule, leaves

    resolved = _resolved(options)
    schedule = described_schedule(resolved.recipe)
    if options.json:
        _print_json(
            {
                "recipe": resolved.recipe.model_dump(mode="json"),
                "config_hash": resolved.recipe.config_hash,
                "origin": dict(resolved.origin),
                "schedule": schedule,
            }
        )
        return
    rows = [[key, _plain(value), resolved.origin[key]] for key, value in leaves(resolved.recipe)]
    title = f"{resolved.recipe.name}, hash {resolved.recipe.config_hash[:8]}"
    _print_table(title, [["key", "value", "from"], *rows])
    _print_table("schedule", [["epochs", "what happens"], *map(list, schedule.items())])


def data_info(options: argparse.Namespace) -> None:
    """Print what a recipe's data are."""
    data = _resolved(options).recipe.data
    from ffds.data.open import open_dataset

    dataset = open_dataset(data)
    counts = dataset.class_counts
    facts: dict[str, Any] = {
        "name": dataset.name,
        "source": dataset.source,
        "classes": dataset.num_classes,
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation) if dataset.validation else 0,
        "test_images": len(dataset.test),
        "image_shape": list(dataset.train.images.shape[1:]),
        "imbalance_factor": dataset.imbalance_factor,
        "class_counts": counts,
        "skipped": list(dataset.skipped),
    }
    if options.json:
        _print_json(facts | {"class_names": list(dataset.class_names)})
        return
    rows = [[name.replace("_", " "), _plain(value)] for name, value in facts.items()]
    _print_table("data", [["fact", "value"], *rows])


def data_pack(options: argparse.Namespace) -> None:
    """Write a recipe's data as a Parquet pack."""
    data = _resolved(options).recipe.data
    from ffds.data.pack import write_pack

    for path in write_pack(data, Path(options.directory)):
        print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ffds",
        description="Long-tailed image classification.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_recipe(_add_out(_add(verbs, "train", train)))
    _add_compare(verbs)
    _add_eval(verbs)
    _add(verbs, "recipes", recipes)
    _add_recipe(_add(verbs, "show", show))
    data = verbs.add_parser(
        "data", help="Look at data, or pack them.", description="Look at data, or pack them."
    )
    data_verbs = data.add_subparsers(metavar="VERB", required=True)
    _add_recipe(_add(data_verbs, "info", data_info))
    pack = _add(data_verbs, "pack", data_pack, json_output=False)
    pack.add_argument("recipe", metavar="RECIPE", help="a shipped name or a file")
    pack.add_argument("directory", metavar="DIR", help="where to write the pack")
    _add_overrides(pack)
    return parser


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with key=value settings accepted anywhere behind the verb."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    stray = [text for text in rest if text.startswith("-") or "=" not in text]
    if stray or (rest and "overrides" not in options):
        parser.error(f"unrecognized arguments: {' '.join(stray or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _add(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], None], *, json_output: bool = True
) -> argparse.ArgumentParser:
    about = (verb.__doc__ or "").strip()
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=about,
        description=about,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=verb)
    if json_output:
        parser.add_argument("--json", action="store_true", help="print JSON for a program to read")
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a file")
    _add_overrides(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="settings that differ from the recipe"
    )


def _add_out(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--out", metavar="DIR", default="runs", help="directory of all runs (default: runs)")
    return parser


def _add_compare(verbs: Any) -> None:
    parser = _add_out(_add(verbs, "compare", compare))
    parser.add_argument(
        "--methods", type=_names, required=True, metavar="A,B,…", help="methods of Table 1, e.g. ce,d-ffds"
    )
    parser.add_argument("--seeds", type=_numbers, default=(0,), metavar="0,1,…", help="seeds (default: 0)")
    _add_recipe(parser)


def _add_eval(verbs: Any) -> None:
    parser = _add(verbs, "eval", evaluate)
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--predictions", metavar="FILE", help="also write one row per image, as Parquet")
    _add_overrides(parser)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"seeds are whole numbers with commas between, got {text!r}"
        ) from None


def _resolved(options: argparse.Namespace) -> Any:
    from ffds.recipes.load import load_recipe

    return load_recipe(options.recipe, options.overrides)


def _results(summary: dict[str, Any]) -> list[list[str]]:
    accuracy = summary["accuracy"]
    best = f"{_cell(accuracy['best_on_test'])} in epoch {accuracy['best_epoch']}"
    names = ("head", "middle", "tail", "balanced_accuracy", "macro_f1", "ece", "train_accuracy")
    return [
        ["measure", f"{summary['method']} seed {summary['seed']}"],
        ["accuracy, last epoch", _cell(accuracy["last"])],
        *([name.replace("_", " "), _cell(summary[name])] for name in names),
        ["best on test (chosen on the test set)", best],
    ]


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2))


def _print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, *body = rows
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
