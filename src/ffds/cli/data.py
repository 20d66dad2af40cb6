"""The verbs about data: data info, data pack, data cache, data ictext."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffds.cli.options import (
    add_overrides,
    add_recipe,
    add_verb,
    mebibytes,
    path,
    plain,
    print_lines,
    print_result,
    resolved_recipe,
)

if TYPE_CHECKING:
    from ffds.data.cache import Entry
    from ffds.recipes.schema import Data

__all__ = ["add_verbs", "cache", "ictext", "info", "pack"]


def info(options: argparse.Namespace) -> None:
    """Print what a recipe's data are."""
    data = resolved_recipe(options).recipe.data
    from ffds.data.sources.registry import SOURCES

    if SOURCES[data.name].own_images:
        _look(options, data)
        return
    from ffds.data.open import open_dataset

    dataset = open_dataset(data)
    facts: dict[str, Any] = {
        "name": dataset.name,
        "source": dataset.source,
        "classes": dataset.num_classes,
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation) if dataset.validation else 0,
        "test_images": len(dataset.test),
        "image_shape": list(dataset.train.images.shape[1:]),
        "imbalance_factor": dataset.imbalance_factor,
        "class_counts": dataset.class_counts,
        "skipped": list(dataset.skipped),
        "notes": list(dataset.notes),
    }
    rows = [[name.replace("_", " "), plain(value)] for name, value in facts.items()]
    content = facts | {"class_names": list(dataset.class_names)}
    print_result(options, content, {"data": [["fact", "value"], *rows]})


def _look(options: argparse.Namespace, data: Data) -> None:
    """Print what was seen of images of the user's own, which are not kept in memory or in the cache."""
    from ffds.cli.images import look_lines, look_tables
    from ffds.data.look import look_at
    from ffds.errors import note

    look = look_at(data)
    source, counts = look.source, {role: sum(numbers) for role, numbers in look.counts.items()}
    for text in source.notes if options.json else ():
        note(f"note: {text}")  # the tables have them
    facts: dict[str, Any] = {
        "name": data.name,
        "source": source.description,
        "classes": len(source.class_names),
        **{f"{role}_images": counts.get(role, 0) for role in ("train", "validation", "test")},
        "image_shape": list(look.shape),
        "imbalance_factor": look.imbalance_factor,
        "class_counts": look.counts["train"],
        "skipped": list(source.skipped),
        "notes": list(source.notes),
        "class_names": list(source.class_names),
        "look": look.facts(),
    }
    print_result(options, facts, look_tables(look), *look_lines(look))


def pack(options: argparse.Namespace) -> None:
    """Write a recipe's data as a Parquet pack."""
    from ffds.errors import InputError
    from ffds.recipes.schema import Recipe

    key, equals, _ = options.directory.partition("=")
    if equals and key.partition(".")[0] in Recipe.model_fields:
        what, fix = "the directory of the pack is missing", "name the directory before the settings"
        raise InputError(what, got=options.directory, fix=fix)
    data = resolved_recipe(options).recipe.data
    from ffds.data.pack import write_pack

    print_lines(write_pack(data, Path(options.directory)))


def cache(options: argparse.Namespace) -> None:
    """List the decoded images kept on disk, or remove them."""
    from ffds.data.cache import cache_directory, clear, entries

    directory = str(cache_directory())
    if options.clear:
        freed = clear()
        content = {"directory": directory, "freed_bytes": freed}
        print_result(options, content, {}, f"{mebibytes(freed)} removed from {directory}")
        return
    facts = [_facts(entry) for entry in entries()]
    rows = [["images of", "N x H x W x C or N x D", "size", "last used"]]
    for one in facts:
        about, shape = one["images_of"] or "a damaged file", "x".join(map(str, one["shape"]))
        rows.append([about, shape, mebibytes(one["bytes"]), one["last_used"].replace("T", " ")])
    title = f"{mebibytes(sum(one['bytes'] for one in facts))} in {directory}"
    print_result(options, {"directory": directory, "entries": facts}, {title: rows})


def ictext(options: argparse.Namespace) -> None:
    """Cut ICText-LT out of ICText."""
    from ffds.data.sources.ictext.cut import cut_ictext_lt, read_parent

    train, test = (read_parent(Path(file), Path(images)) for file, images in (options.train, options.test))
    directory, keep_ignored = Path(options.directory), options.keep_ignored
    print_lines(cut_ictext_lt(train, test, directory, seed=options.seed, keep_ignored=keep_ignored))


def add_verbs(verbs: Any) -> None:
    """Add data with its own verbs."""
    about = "Look at data, or pack them."
    family = verbs.add_parser("data", help=about, description=about)
    own = family.add_subparsers(metavar="VERB", required=True)
    add_recipe(add_verb(own, "info", info))
    parser = add_verb(own, "pack", pack, json_output=False)
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a file")
    parser.add_argument("directory", type=path, metavar="DIR", help="where to write the pack")
    add_overrides(parser)
    parser = add_verb(own, "cache", cache)
    parser.add_argument("--clear", action="store_true", help="remove them; they are made again when needed")
    parser = add_verb(own, "ictext", ictext, json_output=False)
    paths = ("JSON", "IMAGES")
    for split in ("train", "test"):
        about = f"annotations of ICText's {split} images, and the directory of these images"
        parser.add_argument(f"--{split}", type=path, nargs=2, required=True, metavar=paths, help=about)
    about = "where to write ictext-lt-18/ and ictext-lt-100/"
    parser.add_argument("directory", type=path, metavar="DIR", help=about)
    parser.add_argument("--seed", type=_seed, default=0, help="of the characters chosen (default: 0)")
    parser.add_argument("--keep-ignored", action="store_true", help="also take characters marked ignore")


def _facts(entry: Entry) -> dict[str, Any]:
    from datetime import datetime

    return {
        "images_of": entry.about.get("directory"),
        "shape": entry.about.get("shape", []),
        "bytes": entry.bytes,
        "last_used": datetime.fromtimestamp(entry.used).isoformat(timespec="minutes"),
    }


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"a seed is a whole number below {2**32}, got {text!r}")
    return int(text)
