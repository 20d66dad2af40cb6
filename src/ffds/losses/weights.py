"""Class weights from class counts, in the three scales a user of the paper meets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ffds.errors import InputError

__all__ = ["WeightScale", "class_balanced_weights", "inverse_frequency_weights", "validated_counts"]

WeightScale = Literal["none", "mean", "released"]


def validated_counts(class_counts: Sequence[int] | Tensor) -> Tensor:
    """Class counts as a float64 tensor (C,), on the CPU.

    Args:
        class_counts: training images of each class, in any order; each a whole number of at least 1.

    Raises:
        InputError: fewer than two classes, or a count that is not a whole number of at least 1; the
            message names the classes.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64, device="cpu")
    if counts.ndim != 1 or len(counts) < 2:
        raise InputError(
            "class counts need one number for each of at least two classes",
            got=f"shape {tuple(counts.shape)}",
        )
    bad = [c for c, n in enumerate(counts.tolist()) if not (math.isfinite(n) and n >= 1 and n == int(n))]
    if bad:
        raise InputError(
            f"class count of class {', '.join(map(str, bad[:10]))} is not usable",
            got=[counts[c].item() for c in bad[:10]],
            allowed="whole numbers of at least 1",
            fix="drop classes without training images, or relabel",
        )
    return counts


def class_balanced_weights(
    class_counts: Sequence[int] | Tensor, beta: float = 0.9999, scale: WeightScale = "mean"
) -> Tensor:
    """Inverse effective number of samples of each class.

    w_c = (1 − β) / (1 − β^n_c), before scaling. β = 0 weighs all classes alike; β → 1 tends to 1/n_c.

    Args:
        class_counts: training images of each class, in any order.
        beta: 0 ≤ β < 1.
        scale: ``"none"``: the formula as it is; ``"mean"``: weights sum to C; ``"released"``: weights sum
            to 1/C, as in the authors' released FFDS code, whose scaling line divides by (sum·C).

    Returns:
        Weights (C,), float32, in the order of `class_counts`.

    Raises:
        InputError: a count below 1, β outside [0, 1), or an unknown scale.

    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, eq. 3; used
    as w_y in the FFDS paper, eq. 1.

    >>> class_balanced_weights([100, 10], beta=0.0)
    tensor([1., 1.])
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
    class_counts: Sequence[int] | Tensor, power: float = 1.0, scale: WeightScale = "mean"
) -> Tensor:
    """Inverse class frequency to a power: w_c = n_c^(−power), before scaling.

    Args:
        class_counts: training images of each class, in any order.
        power: ≥ 0; 1 is inverse frequency, 0.5 inverse square root, 0 no weighting.
        scale: as in `class_balanced_weights`.

    Returns:
        Weights (C,), float32, in the order of `class_counts`.

    Raises:
        InputError: a count below 1, a negative or non-finite power, or an unknown scale.

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
    total = targets[scale]
    scaled = weights if total is None else weights * (total / weights.sum())
    return scaled.float().to(torch.get_default_device())
