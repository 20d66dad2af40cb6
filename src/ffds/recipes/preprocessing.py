"""How a network wants its images: its run, ``config.json`` or timm says it, where a recipe leaves it open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import floor
from pathlib import Path
from typing import Any

from ffds.errors import InputError
from ffds.recipes.pretrained import config_beside, is_run
from ffds.recipes.schema import Recipe
from ffds.recipes.yaml_loader import Node

__all__ = ["KEYS", "with_preprocessing"]

KEYS = ("mean", "std", "image_size", "eval_resize", "interpolation")
"""Keys of `data` in which the word ``model`` may stand."""
WORD = "model"


def with_preprocessing(tree: Node, load: Callable[[str], Recipe]) -> tuple[Node, list[InputError]]:
    """The recipe with the numbers of its network for the word ``model``, and what has none.

    A network that begins with trained weights (`model.pretrained`, `model.weights`) gives the keys that the
    recipe leaves out, too. A recipe that leaves out the interpolation alone takes the default instead: so do
    the recipes of runs that are older than this key. The values come from the recipe of the run whose weights
    they are, or from the ``config.json`` beside the weights, or from what timm knows of the name;
    `eval_resize` is ⌊image_size / crop_pct⌋ for the image size of the recipe. `load` reads the recipe of a
    run.
    """
    data, model = (tree.entries.get(name, Node({}, name)) for name in ("data", "model"))
    settings, given = model.plain() if model.entries else {}, data.entries
    asked = [key for key in KEYS if key in given and given[key].value == WORD]
    begins_trained = settings.get("pretrained") is True or isinstance(settings.get("weights"), str)
    open_keys = [key for key in KEYS if key not in given] if begins_trained and data.entries else []
    if open_keys == ["interpolation"]:
        open_keys = []  # another filter would make another run of a recipe that gives all else
    if not (asked or open_keys):
        return tree, []
    try:
        source, values = _of_model(settings, load)
    except InputError as error:
        return tree, [error]
    size = given["image_size"].value if "image_size" in given else WORD
    if size == WORD:
        size = values.get("image_size")
    if "crop_pct" in values:
        values["eval_resize"] = floor(size / values["crop_pct"]) if type(size) is int else None
    problems = [_unknown(given[key], settings) for key in asked if key not in values]
    resolved = {
        key: _node(values[key], f"data.{key}", source) for key in (*asked, *open_keys) if key in values
    }
    whole = replace(data, value={**given, **resolved})
    return replace(tree, value={**tree.entries, "data": whole}), problems


def _of_model(settings: Mapping[str, Any], load: Callable[[str], Recipe]) -> tuple[str, dict[str, Any]]:
    """Where it is written what the network wants, and the values; of timm also ``crop_pct``."""
    place, name = settings.get("weights"), settings.get("name")
    if isinstance(place, str):
        if is_run(Path(place).expanduser()):
            file = str(Path(place).expanduser() / "recipe.yaml")
            data = load(file).data
            return file, {key: getattr(data, key) for key in KEYS}
        config = config_beside(place)
        own = config.get("pretrained_cfg", config)
        if isinstance(own, Mapping) and "mean" in own:
            return str(Path(place) / "config.json"), _values(own)
    if isinstance(name, str) and name.startswith("timm/"):
        from timm.models import get_pretrained_cfg, is_model  # takes two seconds, and torch

        network = name.removeprefix("timm/")
        if is_model(network) and (known := get_pretrained_cfg(network)) is not None:
            return name, _values(vars(known))
    return "", {}


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of timm's configuration of a pretrained network."""
    size = config.get("input_size")
    found = {key: config.get(key) for key in ("mean", "std", "crop_pct", "interpolation")}
    found["image_size"] = size[-1] if isinstance(size, Sequence) and size else None
    return {key: value for key, value in found.items() if value}


def _node(value: Any, key: str, source: str) -> Node:
    """A value as if it were written in the place that it comes from."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Node(tuple(Node(float(one), f"{key}.{k}", source) for k, one in enumerate(value)), key, source)
    return Node(value, key, source)


def _unknown(node: Node, settings: Mapping[str, Any]) -> InputError:
    what = f"the network does not say {node.key}"
    got = f"{WORD}, of {settings.get('name', 'resnet32')}"
    allowed = (
        "a network timm/NAME, a run, or a directory of weights with config.json; or the numbers themselves"
    )
    return InputError(what, where=node.where, got=got, allowed=allowed)
