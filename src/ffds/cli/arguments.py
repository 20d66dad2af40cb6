"""What the arguments of several verbs have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = [
    "EPILOG",
    "add_out",
    "add_overrides",
    "add_recipe",
    "add_verb",
    "names",
    "numbers",
    "resolved_recipe",
]

EPILOG = """exit codes: 0 done, 2 input cannot be used, 3 loss not finite, 75 interrupted and saved, 1 a bug
RECIPE is a shipped name (ffds recipes) or a file; key=value changes one setting, e.g. trainer.seed=1"""


def add_verb(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], None], *, json_output: bool = True
) -> argparse.ArgumentParser:
    """The parser of one verb, described by the first line of its function."""
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


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """RECIPE and key=value."""
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a file")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """key=value, any number of them."""
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="settings that differ from the recipe"
    )


def add_out(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """--out DIR; returns the parser."""
    parser.add_argument("--out", metavar="DIR", default="runs", help="directory of all runs (default: runs)")
    return parser


def names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"seeds are whole numbers with commas between, got {text!r}"
        ) from None


def resolved_recipe(options: argparse.Namespace) -> Any:
    """The recipe that the arguments ask for, with the origin of each value."""
    from ffds.recipes.load import load_recipe

    return load_recipe(options.recipe, options.overrides)
