"""The verbs about data: data info, data pack."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ffds.cli.arguments import add_overrides, add_recipe, add_verb, resolved_recipe
from ffds.cli.output import plain, print_json, print_table

__all__ = ["add_verbs", "info", "pack"]


def info(options: argparse.Namespace) -> None:
    """Print what a recipe's data are."""
    data = resolved_recipe(options).recipe.data
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
        print_json(facts | {"class_names": list(dataset.class_names)})
        return
    rows = [[name.replace("_", " "), plain(value)] for name, value in facts.items()]
    print_table("data", [["fact", "value"], *rows])


def pack(options: argparse.Namespace) -> None:
    """Write a recipe's data as a Parquet pack."""
    data = resolved_recipe(options).recipe.data
    from ffds.data.pack import write_pack

    for path in write_pack(data, Path(options.directory)):
        print(path)


def add_verbs(verbs: Any) -> None:
    """Add data with its own verbs."""
    about = "Look at data, or pack them."
    parser = verbs.add_parser("data", help=about, description=about)
    own = parser.add_subparsers(metavar="VERB", required=True)
    add_recipe(add_verb(own, "info", info))
    _add_pack(own)


def _add_pack(verbs: Any) -> None:
    parser = add_verb(verbs, "pack", pack, json_output=False)
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a file")
    parser.add_argument("directory", metavar="DIR", help="where to write the pack")
    add_overrides(parser)
