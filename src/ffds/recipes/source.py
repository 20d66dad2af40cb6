"""The text of a recipe: a shipped one or a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ffds.errors import InputError, nearest
from ffds.recipes.node import readable

__all__ = ["Source", "read_recipe", "recipe_text", "shipped_recipes"]

MAX_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """The text of a recipe, what messages call it, and the name it has unless it says another."""

    text: str
    label: str
    name: str


def shipped_recipes() -> dict[str, str]:
    """Name and title of every shipped recipe; the title is the first line of its header comment.

    >>> shipped_recipes()["cifar100-lt-100"]
    'CIFAR-100-LT, imbalance factor 100: 100 classes with 500 down to 5 training images'
    """
    return {name: recipe_text(name).partition("\n")[0].lstrip("# ") for name in _names()}


def recipe_text(name: str) -> str:
    """The YAML text of a shipped recipe.

    Raises:
        InputError: there is no such recipe; the message lists all and names the nearest.
    """
    if name not in _names():
        allowed = f"{', '.join(_names())}, or the path of a .yaml file"
        raise InputError(f"unknown recipe {name!r}", allowed=allowed, fix=nearest(name, _names()))
    return files(__package__).joinpath(f"{name}.yaml").read_text("utf-8")


def read_recipe(name_or_path: str) -> Source:
    """A shipped recipe by its name, or a file if what is given has a directory or ends in ``.yaml``.

    Raises:
        InputError: no such recipe or file, not UTF-8 text, or more than 1 MiB of it.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or os.sep in name_or_path:
        label = readable(name_or_path)
        return Source(_file_text(path, label), label, path.stem)
    return Source(recipe_text(name_or_path), f"{name_or_path}.yaml", name_or_path)


def _file_text(path: Path, label: str) -> str:
    try:
        if not path.is_file():
            raise InputError("no such recipe file", where=label, fix=nearest(path.stem, _names()))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError("the recipe cannot be read", where=label, got=error.strerror) from error
    if len(content) > MAX_BYTES:
        raise InputError("the file is too large for a recipe", where=label, allowed=f"{MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8 text", where=f"{label}:{line}", fix="save the file as UTF-8") from error


def _names() -> list[str]:
    found = (entry.name for entry in files(__package__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))
