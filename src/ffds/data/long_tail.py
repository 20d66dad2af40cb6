"""The long-tail rule of the field: how many images a class keeps, and which ones."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffds.errors import InputError

__all__ = ["Profile", "long_tail_counts", "long_tail_indices", "natural_tail_counts"]

Profile = Literal["exp", "step"]
"""How the counts fall: geometrically over the classes, or in one step at the middle."""


def long_tail_counts(
    max_count: int, num_classes: int, imbalance_factor: float, profile: Profile = "exp"
) -> list[int]:
    """How many images each class keeps, the classes falling in label order.

    ``exp``: ``n_c = int(n_max * IF ** (-c / (C - 1)))``; ``step``: the first ``C // 2`` classes keep
    ``n_max``, the others ``int(n_max / IF)``.

    Args:
        max_count: images n_max of the largest class, >= 1.
        num_classes: number of classes C, >= 1.
        imbalance_factor: largest over smallest count IF, finite and >= 1; 1 gives equal counts.
        profile: ``exp`` or ``step``.

    Returns:
        C counts, none of them 0.

    Raises:
        InputError: an argument is out of range, or a class would keep no image.

    Source: Cui et al. 2019 and Cao et al. 2019, the rule of every CIFAR-LT experiment since.

    >>> long_tail_counts(5000, 10, 100)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    >>> long_tail_counts(100, 4, 10, profile="step")
    [100, 100, 10, 10]
    """
    _check_arguments(max_count, num_classes, imbalance_factor, profile)
    counts = _curve(max_count, num_classes, imbalance_factor, profile)
    _check_none_empty(counts, range(num_classes), imbalance_factor)
    return counts


def natural_tail_counts(
    available: Sequence[int], imbalance_factor: float, profile: Profile = "exp"
) -> list[int]:
    """The largest long tail that classes of unequal size can supply, the frequent classes at its head.

    The classes are ranked by falling frequency, ties by label; rank r takes the r-th count of
    `long_tail_counts`, with the largest n_max for which no class is asked for more than it has.
    Where all classes have equal counts this is the rule in label order itself.

    Args:
        available: images of each class, in label order, each >= 1.
        imbalance_factor: largest over smallest count IF, finite and >= 1.
        profile: ``exp`` or ``step``.

    Returns:
        One count per class, in label order.

    Raises:
        InputError: an argument is out of range, or a class would keep no image.

    >>> natural_tail_counts([30, 400, 500], 10)
    [30, 97, 309]
    >>> natural_tail_counts([500, 500, 500], 10)
    [500, 158, 50]
    """
    most, num_classes = max(available, default=0), len(available)
    _check_arguments(most, num_classes, imbalance_factor, profile)
    order = sorted(range(num_classes), key=lambda c: (-available[c], c))

    def too_large(max_count: int) -> bool:
        counts = _curve(max_count, num_classes, imbalance_factor, profile)
        return any(count > available[c] for count, c in zip(counts, order, strict=True))

    max_count = bisect_left(range(1, most + 1), True, key=too_large)
    ranked = _curve(max_count, num_classes, imbalance_factor, profile)
    _check_none_empty(ranked, order, imbalance_factor)
    counts = dict(zip(order, ranked, strict=True))
    return [counts[c] for c in range(num_classes)]


def long_tail_indices(targets: ArrayLike, counts: Sequence[int], seed: int = 0) -> NDArray[np.int64]:
    """Which images are kept: of each class, shuffled, the first `counts[c]`.

    The stream is that of ``np.random.seed(seed)`` and one ``shuffle`` per class in label order, so the
    subsets are those of the published experiments, and a longer tail is contained in a shorter one.
    The global random state is neither read nor changed.

    Args:
        targets: labels (N,), integers in 0 .. C - 1.
        counts: images to keep of each class, C values >= 1, none above what the class has.
        seed: of the shuffle, 0 <= seed < 2**32; 0 is the published subset.

    Returns:
        Indices into `targets`, (sum of counts,), class by class in the order of the shuffle.

    Raises:
        InputError: labels or counts are out of range.

    >>> long_tail_indices([0, 1, 0, 1, 0, 0], [3, 1])
    array([4, 5, 2, 1])
    """
    labels = _labels(targets, len(counts))
    available = np.bincount(labels, minlength=len(counts))
    for c, (count, there) in enumerate(zip(counts, available.tolist(), strict=True)):
        if not 1 <= count <= there:
            raise InputError(
                f"class {c} cannot supply its count", got=count, allowed=f"1 to {there}, the images it has"
            )
    # The legacy generator is the published one: numpy promises its stream for ever.
    stream = np.random.RandomState(seed)
    kept = []
    for members, count in zip(_members(labels, available), counts, strict=True):
        stream.shuffle(members)
        kept.append(members[:count])
    return np.concatenate(kept)


def _curve(max_count: int, num_classes: int, imbalance_factor: float, profile: Profile) -> list[int]:
    if profile == "step":
        head = max(num_classes // 2, 1)
        return [max_count] * head + [int(max_count / imbalance_factor)] * (num_classes - head)
    last = max(num_classes - 1, 1)
    # Where one image is due, rounding may make 0.999… of it.
    least = int(max_count >= imbalance_factor)
    return [max(least, int(max_count * imbalance_factor ** (-c / last))) for c in range(num_classes)]


def _members(labels: NDArray[np.int64], counts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])


def _labels(targets: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    labels = np.asarray(targets)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            "targets must be one integer per image", got=f"{labels.dtype} of shape {labels.shape}"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise InputError(
            f"target {outside[0]} is out of range",
            got=labels[outside[0]],
            allowed=f"0 to {num_classes - 1}, one class for each of the {num_classes} counts",
        )
    return labels.astype(np.int64)


def _check_arguments(max_count: int, num_classes: int, imbalance_factor: float, profile: str) -> None:
    if num_classes < 1:
        raise InputError("a long tail needs a class", got=f"num_classes = {num_classes}", allowed=">= 1")
    if max_count < 1:
        raise InputError("the largest class needs an image", got=f"max_count = {max_count}", allowed=">= 1")
    if not 1 <= imbalance_factor < float("inf"):
        raise InputError(
            "the imbalance factor is largest over smallest count",
            got=imbalance_factor,
            allowed="finite and >= 1",
        )
    if profile not in ("exp", "step"):
        raise InputError("unknown profile", got=profile, allowed="exp, step")


def _check_none_empty(counts: Sequence[int], classes: Sequence[int], imbalance_factor: float) -> None:
    for count, c in zip(counts, classes, strict=True):
        if count == 0:
            raise InputError(
                f"class {c} would keep no image",
                got=f"imbalance factor {imbalance_factor:g} with {max(counts)} images in the largest class",
                allowed=f"at most {max(counts)}",
                fix="lower the imbalance factor",
            )
