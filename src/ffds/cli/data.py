"""The verbs about data: data info, data pack, data ictext."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ffds.cli.arguments import add_overrides, add_recipe, add_verb, resolved_recipe
from ffds.cli.output import plain, print_json, print_table

__all__ = ["add_verbs", "ictext", "info", "pack"]


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


def ictext(options: argparse.Namespace) -> None:
    """Cut ICText-LT out of ICText."""
    from ffds.data.ictext.build import cut_ictext_lt
    from ffds.data.ictext.parent import read_parent

    train, test = (read_parent(Path(file), Path(images)) for file, images in (options.train, options.test))
    directory, keep_ignored = Path(options.directory), options.keep_ignored
    for root in cut_ictext_lt(train, test, directory, seed=options.seed, keep_ignored=keep_ignored):
        print(root)


def add_verbs(verbs: Any) -> None:
    """Add data with its own verbs."""
    about = "Look at data, or pack them."
    parser = verbs.add_parser("data", help=about, description=about)
    own = parser.add_subparsers(metavar="VERB", required=True)
    add_recipe(add_verb(own, "info", info))
    _add_pack(own)
    _add_ictext(own)


def _add_pack(verbs: Any) -> None:
    parser = add_verb(verbs, "pack", pack, json_output=False)
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a file")
    parser.add_argument("directory", metavar="DIR", help="where to write the pack")
    add_overrides(parser)


def _add_ictext(verbs: Any) -> None:
    parser = add_verb(verbs, "ictext", ictext, json_output=False)
    for split in ("train", "test"):
        parser.add_argument(
            f"--{split}",
            nargs=2,
            required=True,
            metavar=("JSON", "IMAGES"),
            help=f"annotations of ICText's {split} images, and the directory of these images",
        )
    parser.add_argument("directory", metavar="DIR", help="where to write ictext-lt-18/ and ictext-lt-100/")
    parser.add_argument("--seed", type=_seed, default=0, help="of the characters chosen (default: 0)")
    parser.add_argument("--keep-ignored", action="store_true", help="also take characters marked ignore")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"a seed is a whole number below {2**32}, got {text!r}")
    return int(text)
