"""The verb init, and how what was seen of the user's own images is shown."""

from __future__ import annotations

import argparse
import shlex
import shutil
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffds.cli.options import add_verb, path, print_result
from ffds.errors import InputError, tell

if TYPE_CHECKING:
    from ffds.data.look import Look
    from ffds.recipes.first_recipe import OwnImages
    from ffds.recipes.schema import Data

__all__ = ["add_verbs", "init", "look_lines", "look_tables"]

MOST_CLASSES = 24
"""Of more classes only the largest and the smallest are listed."""
MODES = {"P": "palette", "L": "grey", "1": "black and white"}
"""What Pillow's letters for the colours of an image mean."""
SHOTS = "many: over 100 training images, medium: 20 to 100, few: under 20"


def init(options: argparse.Namespace) -> None:
    """Look at your images, and write a recipe that fits them."""
    from ffds.files import check_file, write_text
    from ffds.recipes.first_recipe import first_recipe, recipe_name

    root = Path(options.images)
    file = Path(options.out or f"{recipe_name(root.resolve().stem)}.yaml")
    check_file(file, "--out FILE")
    if file.suffix not in (".yaml", ".yml"):
        what, fix = "a recipe is a file that ends in .yaml", "name such a file with --out FILE"
        raise InputError(what, where="--out FILE", got=file, fix=fix)
    if file.exists():
        what, fix = "this file is there already", "write to another one with --out FILE, or remove it"
        raise InputError(what, where=file, fix=fix)
    from torch.cuda import is_available

    from ffds.data.look import look_at
    from ffds.recipes.load import load_recipe
    from ffds.recipes.preprocessing import with_preprocessing
    from ffds.recipes.schema import Data
    from ffds.recipes.yaml_loader import parse_yaml

    look = look_at(_data(root))
    images, name = _own_images(look), recipe_name(file.stem)
    text = first_recipe(images, name=name, file=str(file), gpu=is_available())
    document, _ = parse_yaml(text, str(file))
    if document is not None:
        resolved, _ = with_preprocessing(document, lambda path: load_recipe(path).recipe)
        look = look.with_data(Data.model_validate(resolved.entries["data"].plain()))
    content = {"recipe": str(file), "look": look.facts()}
    if not (images.validation or images.validated):
        tell("warning: there are too few images to hold any out for validation")
    lines = [*look_lines(look), "", f"written: {file}", f"next:    ffds train {shlex.quote(str(file))}"]
    write_text(file, text)
    print_result(options, content, look_tables(look), *lines)


def _data(root: Path) -> Data:
    """The section `data` of a recipe for images that lie there, as far as their place decides it."""
    from ffds.data.sources.manifest import is_manifest
    from ffds.data.sources.shards import has_training_files
    from ffds.recipes.schema import Data

    if has_training_files(root):
        return Data(name="parquet", root=str(root))
    return Data(name="manifest" if is_manifest(root) else "folder", root=str(root))


def _own_images(look: Look) -> OwnImages:
    from ffds.recipes.first_recipe import OwnImages

    return OwnImages(
        source=look.data.name,
        root=str(look.data.root),
        counts=look.counts["train"],
        tested=not look.source.cut_test,
        validated=look.source.validation is not None,
        short_side=look.sizes["short side"][1],
        unreadable=len(look.unreadable),
    )


def look_tables(look: Look) -> Mapping[str, Sequence[Sequence[str]]]:
    """What was seen as tables: the images, their classes, the groups of classes."""
    return {
        look.source.description: [["fact", "value"], *_facts(look)],
        "classes by falling number of training images": [*_classes(look)],
        "groups of classes": [*_groups(look)],
    }


def look_lines(look: Look) -> Iterator[str]:
    """Definitions and warnings, each broken into lines that fit the terminal."""
    wrapper = textwrap.TextWrapper(shutil.get_terminal_size().columns, subsequent_indent="  ")
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    thirds = "in thirds" if look.data.cut is None else "as data.cut says"
    yield from wrapper.wrap(f"head, middle, tail: the classes by falling number of training images, {thirds}")
    yield from wrapper.wrap(SHOTS)
    for warning in look.warnings():
        yield from wrapper.wrap(f"warning: {warning}")


def add_verbs(verbs: Any) -> None:
    """Add init."""
    parser = add_verb(verbs, "init", init)
    about = "a directory of images, or a table that names them and their classes"
    parser.add_argument("images", type=path, metavar="IMAGES", help=about)
    about = "the recipe to write (default: the name of IMAGES, with .yaml, here)"
    parser.add_argument("--out", type=path, metavar="FILE", help=about)


def _facts(look: Look) -> Iterator[list[str]]:
    counts = look.counts
    yield ["classes", f"{len(look.source.class_names):,}"]
    yield ["images", ", ".join(f"{sum(counts[role]):,} {role}" for role in _roles(look))]
    yield ["imbalance factor", f"{look.imbalance_factor:.4g} (largest over smallest class)"]
    for name, (least, middle, most) in look.sizes.items():
        yield [name, f"{least:,} to {most:,} pixels, median {middle:,}"]
    yield ["formats", _counted(Counter(one.form for one in look.images))]
    yield ["colours", _counted(Counter(MODES.get(one.mode, one.mode) for one in look.images))]
    yield ["turned upright by EXIF", f"{sum(one.turned for one in look.images):,}"]
    for note in look.source.notes:
        yield ["not used", note]


def _classes(look: Look) -> Iterator[list[str]]:
    roles, counts, names = _roles(look), look.counts, look.source.class_names
    groups: dict[int, list[str]] = defaultdict(list)
    for group, labels in look.groups.items():
        for label in labels:
            groups[label].append(group)
    yield ["class", *roles, "group"]
    order = sorted(range(len(names)), key=lambda label: -counts["train"][label])
    hidden = order[MOST_CLASSES // 2 : -(MOST_CLASSES // 2)] if len(order) > MOST_CLASSES else []
    for label in order:
        if label not in hidden:
            numbers = (f"{counts[role][label]:>5,}" for role in roles)
            yield [names[label], *numbers, ", ".join(groups[label])]
        elif label == hidden[0]:
            yield [f"… {len(hidden):,} more classes", *("" for _ in roles), ""]


def _groups(look: Look) -> Iterator[list[str]]:
    roles = _roles(look)
    yield ["group", "classes", "training images of a class", *(f"{role} images" for role in roles[1:])]
    for name, labels in look.groups.items():
        train = [look.counts["train"][label] for label in labels]
        span = f"{min(train):,} to {max(train):,}" if train else "n/a"
        others = (f"{sum(look.counts[role][label] for label in labels):,}" for role in roles[1:])
        yield [name, f"{len(labels):,}", span, *others]


def _roles(look: Look) -> list[str]:
    return [role for role in ("train", "validation", "test") if role in look.splits]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())
