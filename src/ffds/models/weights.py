"""Weights from a file, put into a network: read without running any code, and compared name by name."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ffds.environment import is_first_rank
from ffds.errors import InputError, note
from ffds.recipes.load import load_recipe
from ffds.recipes.pretrained import config_beside, is_run, sum_of_file, weights_file
from ffds.recipes.schema import Model

__all__ = ["load_weights", "read_weights"]

_INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "network", "net")
"""Where checkpoints of other programs keep the state dict; an averaged one goes first."""
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
_TEXTS = {
    "an HTML page, not the file itself": re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE),
    "a pointer of Git LFS, not the file itself": re.compile(rb"version https://git-lfs"),
}
_FAULTS: tuple[type[Exception], ...] = (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError)
_FAULTS += (ValueError, EOFError, LookupError, TypeError, AttributeError)
"""What reading raises where a file is damaged or is something else."""
_MOST_NAMED = 3


def load_weights(backbone: nn.Module, head: nn.Module, model: Model) -> None:
    """Put the weights of `model.weights` into a backbone, and into the head where they have one like it.

    Names are compared without the prefixes ``module.``, ``_orig_mod.``, ``backbone.`` and ``model.``. Another
    head, such as the classifier of other classes, is left out, which a line on standard error says.

    Raises:
        InputError: the file cannot be read, has changed, or has the weights of another network.
    """
    place = model.weights or ""
    file = weights_file(place)
    if model.weights_sum not in (None, found := sum_of_file(file)):
        what = "these are not the weights that the recipe knows"
        fix = "put them back, or take what is there: model.weights_sum=null"
        raise InputError(what, where=file, got=found, allowed=model.weights_sum, fix=fix)
    given = read_weights(file)
    named = _named_as(backbone, given)
    left = [name for name in given if name not in named.values()]
    of_backbone = {name: given[source] for name, source in named.items()}
    _check_fits(backbone, of_backbone, left, model, file)
    # A count of batches is missing in weights that were trained without one.
    backbone.load_state_dict(of_backbone, strict=False)
    of_head = {_bare(name).removeprefix("head."): name for name in left if _bare(name).startswith("head.")}
    if _shapes(head.state_dict()) == {name: tuple(given[source].shape) for name, source in of_head.items()}:
        head.load_state_dict({name: given[source] for name, source in of_head.items()})
        left = [name for name in left if name not in of_head.values()]
    if left and is_first_rank():
        note(f"note: left out of {file}: {_some(left)}; the classifier begins anew")


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors in a file by name: safetensors, or a state dict saved by torch, alone or in a checkpoint.

    Nothing is unpickled that could run code.

    Raises:
        InputError: it is something else, or damaged.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except _FAULTS as error:
        raise _unreadable(file, error) from error
    while isinstance(found, Mapping):
        tensors = {str(name): one for name, one in found.items() if isinstance(one, Tensor)}
        if tensors:
            return tensors
        inside = next((key for key in _INSIDE if isinstance(found.get(key), Mapping)), None)
        if inside is None:
            break
        found = found[inside]
    got = (
        f"a mapping of {_some(list(map(str, found)))}" if isinstance(found, Mapping) else type(found).__name__
    )
    allowed = f"tensors by name, alone or under {', '.join(_INSIDE)}"
    raise InputError("no weights are in this file", where=file, got=got, allowed=allowed)


def _unreadable(file: Path, error: Exception) -> InputError:
    got, fix = next(iter(str(error).strip().splitlines()), type(error).__name__), "download or save it again"
    with file.open("rb") as opened:
        start = opened.read(200)
    for text, pattern in _TEXTS.items():
        if pattern.match(start):
            return InputError("weights cannot be read", where=file, got=text, fix="download the file itself")
    if "GLOBAL" in str(error) or "TorchScript" in str(error):
        got = "it holds objects that code would have to be run for, which is never done"
        fix = "save the weights alone: torch.save(model.state_dict(), FILE)"
    return InputError("weights cannot be read", where=file, got=got, fix=fix)


def _named_as(network: nn.Module, given: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of a network's tensors, and of each the name that the file has for it."""
    wanted, named = network.state_dict().keys(), {}
    for source in given:
        name: str | None = source
        while name is not None and name not in wanted:
            name = next((name[len(one) :] for one in _PREFIXES if name.startswith(one)), None)
        if name is not None:
            named[name] = source
    return named


def _check_fits(
    backbone: nn.Module, given: Mapping[str, Tensor], left: list[str], model: Model, file: Path
) -> None:
    """Refuse weights of another network: tensors are missing, of other shapes, or too many."""
    wanted, shapes = _shapes(backbone.state_dict()), _shapes(given)
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    other = [f"{name} {shapes[name]}, not {wanted[name]}" for name in given if shapes[name] != wanted[name]]
    # What lies outside of all parts of the backbone is a head: a classifier, or one of pretraining.
    tops, classifier = {name.split(".")[0] for name in wanted}, _classifiers(backbone)
    bare = {name: _bare(name) for name in left}
    more = [one for one in left if bare[one].split(".")[0] in tops and not bare[one].startswith(classifier)]
    if not (missing or other or more):
        return
    unknown = left if missing or other else more
    parts = {"missing in the file": missing, "of another shape": other, "not in the network": unknown}
    got = "; ".join(f"{what}: {_some(names)}" for what, names in parts.items() if names)
    name = _made_with(model.weights or "")
    name = name if name and name != model.name else "NAME"
    fix = f"name the network that they belong to: model.name={name}"
    raise InputError(f"these are not the weights of {model.name}", where=file, got=got, fix=fix)


def _made_with(place: str) -> str | None:
    """The `model.name` of a run, or of a directory in the layout of the hub; None if nothing says it."""
    path = Path(place).expanduser()
    if is_run(path):
        return load_recipe(str(path / "recipe.yaml")).recipe.model.name
    name = config_beside(place).get("architecture")
    return f"timm/{name}" if isinstance(name, str) else None


def _bare(name: str) -> str:
    while prefix := next((one for one in _PREFIXES if name.startswith(one)), None):
        name = name.removeprefix(prefix)
    return name


def _classifiers(backbone: Any) -> tuple[str, ...]:
    """How the names of the classifier begin, in a network of this package and in timm's."""
    names = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    of_timm = (f"{name}." for name in ((names,) if isinstance(names, str) else names))
    return ("head.weight", "head.bias", *of_timm)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(islice(names, _MOST_NAMED)) + more
