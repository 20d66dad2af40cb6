"""Class counts in every usual form, and class weights from them in three scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ffds.errors import InputError

__all__ = ["PerClass", "WeightScale", "class_balanced_weights", "inverse_frequency_weights"]

WeightScale = Literal["none", "mean", "released"]
PerClass: TypeAlias = ArrayLike | Tensor | Mapping[int, Any]
"""A number for each class: list, array or tensor in label order; dict, Counter or pandas Series by label."""


def class_balanced_weights(
    class_counts: PerClass, beta: float = 0.9999, scale: WeightScale = "mean"
) -> Tensor:
    """Inverse effective number of samples: w_c = (1 − β) / (1 − β^n_c), before scaling; (C,) float32.

    Args:
        class_counts: training images of each class, each ≥ 1.
        beta: 0 ≤ β < 1; 0 weighs all classes alike, β → 1 tends to 1/n_c.
        scale: ``"none"``: the formula as it is; ``"mean"``: weights sum to C; ``"released"``: weights sum
            to 1/C, as in the authors' released FFDS code, whose scaling line divides by (sum·C).

    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, eq. 3.

    >>> class_balanced_weights([100, 10], beta=0.9, scale="none")
    tensor([0.1000, 0.1535])
    """
    if not 0 <= beta < 1:
        raise InputError("beta is out of range", got=beta, allowed="0 <= beta < 1")
    counts = validated_counts(class_counts)
    # expm1 keeps the digits that 1 - beta**n loses when beta is close to 1.
    effective = torch.ones_like(counts) if beta == 0 else -torch.expm1(counts * math.log(beta))
    return _scaled((1 - beta) / effective, scale)


def inverse_frequency_weights(
    class_counts: PerClass, power: float = 1.0, scale: WeightScale = "mean"
) -> Tensor:
    """Inverse class frequency to a power: w_c = n_c^(−power), before scaling; (C,) float32.

    Args:
        class_counts: training images of each class, each ≥ 1.
        power: ≥ 0; 1 is inverse frequency, 0.5 inverse square root, 0 no weighting.
        scale: as in `class_balanced_weights`.

    >>> inverse_frequency_weights([30, 10])
    tensor([0.5000, 1.5000])
    """
    if not (math.isfinite(power) and power >= 0):
        raise InputError("power is out of range", got=power, allowed="power >= 0")
    return _scaled(validated_counts(class_counts) ** -power, scale)


def _scaled(weights: Tensor, scale: WeightScale) -> Tensor:
    targets = {"none": None, "mean": float(len(weights)), "released": 1 / len(weights)}
    if scale not in targets:
        raise InputError("unknown weight scale", got=scale, allowed=", ".join(targets))
    if total := targets[scale]:
        weights = weights * (total / weights.sum())
    return weights.float().to(torch.get_default_device())


def validated_counts(class_counts: PerClass) -> Tensor:
    """Counts, whole numbers ≥ 1 of at least two classes, as float64 (C,) in label order on the CPU.

    >>> validated_counts({1: 5, 0: 20})
    tensor([20.,  5.], dtype=torch.float64)
    """
    counts = _in_label_order(class_counts, "class counts")
    if counts.ndim != 1 or len(counts) < 2:
        got = f"shape {tuple(counts.shape)}"
        raise InputError("class counts need one number for each of at least two classes", got=got)
    if bad := [c for c, n in enumerate(counts.tolist()) if not (n >= 1 and n.is_integer())]:
        what, counted = f"class count of class {_listed(bad)} is not usable", counts[bad[:10]].tolist()
        fix = "drop classes without training images, or relabel"
        raise InputError(what, got=counted, allowed="whole numbers of at least 1", fix=fix)
    return counts


def validated_weight(weight: PerClass | None) -> Tensor | None:
    """A copy of class weights, finite and ≥ 0, as a tensor (C,) in float32 or better; None stays None."""
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        weight = _in_label_order(weight, "class weights").float().to(torch.get_default_device())
    weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    if weight.ndim != 1 or not (weight.is_meta or bool((weight.isfinite() & (weight >= 0)).all())):
        allowed = "for each class one finite number >= 0"
        raise InputError("class weights are not usable", got=weight.tolist(), allowed=allowed)
    return weight


def _in_label_order(values: Any, what: str) -> Tensor:
    """A number for each class, as a float64 tensor on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64)
    if hasattr(values, "to_dict"):  # a pandas Series, whose index holds the labels
        values = values.to_dict()
    if isinstance(values, Mapping):
        if missing := [c for c in range(len(values)) if c not in values]:
            got = f"labels {_listed(list(values))}"
            raise InputError(f"{what} lack label {_listed(missing)}", got=got, allowed="labels 0 to C - 1")
        values = [values[c] for c in range(len(values))]
    array = np.asarray(None)
    if isinstance(values, Sequence) or hasattr(values, "__array__"):
        with suppress(TypeError, ValueError):  # rows of different lengths
            array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        got = f"{type(values).__name__} {values!r:.80}"
        allowed = "a list, tuple, array or tensor of numbers; a dict, Counter or pandas Series by label"
        raise InputError(f"{what} are not numbers in label order", got=got, allowed=allowed)
    return torch.from_numpy(array.astype(np.float64))


def _listed(classes: list[Any]) -> str:
    return ", ".join(map(str, classes[:10]))
