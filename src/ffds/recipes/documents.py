"""The documents of recipes: shipped or in files, each laid over the recipe that it extends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from ffds.errors import InputError, nearest
from ffds.recipes.yaml_loader import Node, merge, parse_yaml

__all__ = ["MAX_BYTES", "method_section", "read_document", "recipe_name", "recipe_text", "shipped_recipes"]

MAX_BYTES = 2**20
_SUFFIXES = {".yaml", ".yml"}


def shipped_recipes() -> dict[str, str]:
    """Name and title of every shipped recipe; the title is the first line of its header comment.

    >>> shipped_recipes()["cifar100-lt-100"]
    'CIFAR-100-LT, imbalance factor 100: 100 classes with 500 down to 5 training images'
    """
    return {name: recipe_text(name).partition("\n")[0].lstrip("# ") for name in _names()}


def recipe_text(name: str, where: str = "") -> str:
    """The YAML text of a shipped recipe; an unknown name is an `InputError` that names the nearest.

    `where` is the place that names it, for the message.
    """
    if name not in (names := _names()):
        allowed = f"{', '.join(names)}, or the path of a .yaml file"
        raise InputError(f"unknown recipe {name!r}", where=where, allowed=allowed, fix=nearest(name, names))
    return files(__package__).joinpath(f"{name}.yaml").read_text("utf-8")


def recipe_name(name_or_path: str) -> str:
    """What a recipe is called that gives itself no name: as its file, without the ending.

    >>> recipe_name("own/photos.yaml"), recipe_name("cifar10-lt-100")
    ('photos', 'cifar10-lt-100')
    """
    return Path(name_or_path).stem if _is_path(name_or_path) else name_or_path


def read_document(name_or_path: str) -> tuple[Node | None, list[InputError]]:
    """A recipe laid over the one that it extends, and that over its own; None where one cannot be read.

    ``extends`` names a shipped recipe, or a file by its path from the directory of the file that names it.
    Every value keeps the place it was written at. A recipe inherits everything but the ``name``; where it
    takes another method than the one it extends, the settings of that one go to its entry of ``methods``.

    Returns:
        The document without ``extends``, and everything that is wrong with its text.

    Raises:
        InputError: there is no such recipe, or one extends itself, if only by way of others.
    """
    documents: list[Node] = []
    problems: list[InputError] = []
    extended: dict[str, str] = {}
    place, where = name_or_path, ""
    while place:
        text, source = _text(place, where), place if _is_path(place) else f"{place}.yaml"
        identity = os.path.realpath(place) if _is_path(place) else place
        if identity in extended:
            what, got = "a recipe extends itself", " extends ".join([*extended.values(), place])
            raise InputError(what, where=where, got=got, fix="take extends out of one of them")
        extended[identity] = place
        document, faults = parse_yaml(text, source)
        problems += faults
        if document is None:
            return None, problems
        entries = dict(document.entries)
        base = entries.pop("extends", Node("", "extends"))
        documents.append(replace(document, value=entries))
        place, where = _extended(base, Path(source).parent), base.where
    whole = documents.pop()
    while documents:
        whole = _laid_over(whole, documents.pop())
    return whole, problems


def method_section(root: Node) -> Node:
    """The section `method`, where a name alone may stand for the section."""
    node = root.entries.get("method", Node({}, "method"))
    return node if isinstance(node.value, Mapping) else replace(node, value={"name": node})


def _laid_over(base: Node, over: Node) -> Node:
    """The base with what extends it on top; the settings beside a method's name belong to that method."""
    entries = {key: node for key, node in base.entries.items() if key != "name"}
    old, new = method_section(base), method_section(over)
    asked, own = new.entries.get("name"), old.entries.get("name")
    if asked and own and asked.plain() != own.plain() and isinstance(own.value, str):
        methods = entries.get("methods", Node({}, "methods"))
        entries["methods"] = merge(methods, replace(methods, value={own.value: old}))
        del entries["method"]
    elif new.entries and old.entries:
        entries["method"] = old
        over = replace(over, value={**over.entries, "method": new})
    return replace(over, value=merge(replace(base, value=entries), over).value)


def _extended(base: Node, directory: Path) -> str:
    """The name or path that ``extends`` gives; a path leads from the directory of the file."""
    if not isinstance(base.value, str):
        what, allowed = "extends has the wrong type", "the name of a shipped recipe, or the path of a file"
        raise InputError(what, where=base.where, got=base.plain(), allowed=allowed)
    return str(directory / base.value) if _is_path(base.value) else base.value


def _is_path(name_or_path: str) -> bool:
    """Whether it is the path of a file: anything with a directory, or ending in ``.yaml``."""
    return Path(name_or_path).suffix in _SUFFIXES or os.sep in name_or_path


def _text(name_or_path: str, named_at: str) -> str:
    """The text of a recipe; a message says at which place it is named."""
    if not _is_path(name_or_path):
        return recipe_text(name_or_path, named_at)
    named = f", named at {named_at}" if named_at else ""
    return _file_text(Path(name_or_path), f"{name_or_path}{named}")


def _names() -> list[str]:
    paths = (Path(entry.name) for entry in files(__package__).iterdir())
    return sorted(path.stem for path in paths if path.suffix == ".yaml")


def _file_text(path: Path, where: str) -> str:
    try:
        if not path.is_file():
            raise InputError("no such recipe file", where=where, fix=nearest(path.stem, _names()))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError("the recipe cannot be read", where=where, got=error.strerror) from error
    if len(content) > MAX_BYTES:
        raise InputError("the file is too large for a recipe", where=where, allowed=f"{MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8 text", where=f"{path}:{line}", fix="save the file as UTF-8") from error
