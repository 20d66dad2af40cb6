"""The long-tail rule of the field, and which images of each class are kept or held out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError

if TYPE_CHECKING:
    from ffds.data.source import Source
    from ffds.recipes.schema import Data

__all__ = [
    "held_out",
    "long_tail_counts",
    "long_tail_indices",
    "natural_tail_counts",
    "part_of_each_class",
    "tail_counts",
    "tail_ranks",
    "tail_rows",
]

MOST_NAMED = 40
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
    _check_none_empty(counts, imbalance_factor)
    return counts


def natural_tail_counts(
    available: Sequence[int], imbalance_factor: float, profile: Profile = "exp"
) -> list[int]:
    """The largest long tail that classes of unequal size can supply, in label order.

    The classes are ranked by falling frequency, ties by label; rank r takes the r-th count of
    `long_tail_counts`, with the largest n_max for which no class is asked for more than it has.

    >>> natural_tail_counts([30, 400, 500], 10)
    [30, 97, 309]
    """
    most, num_classes = max(available, default=0), len(available)
    _check_arguments(most, num_classes, imbalance_factor, profile)
    falling = sorted(available, reverse=True)

    def too_large(max_count: int) -> bool:
        counts = _curve(max_count, num_classes, imbalance_factor, profile)
        return any(count > there for count, there in zip(counts, falling, strict=True))

    max_count = bisect_left(range(1, most + 1), True, key=too_large)
    counts = _by_frequency(_curve(max_count, num_classes, imbalance_factor, profile), available)
    _check_none_empty(counts, imbalance_factor)
    return counts


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
    labels = np.asarray(targets)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        got = f"{labels.dtype} of shape {labels.shape}"
        raise InputError("targets must be one integer per image", got=got)
    outside = np.flatnonzero((labels < 0) | (labels >= len(counts)))
    if len(outside):
        allowed = f"0 to {len(counts) - 1}, one class for each of the {len(counts)} counts"
        raise InputError(f"target {outside[0]} is out of range", got=labels[outside[0]], allowed=allowed)
    available = np.bincount(labels.astype(np.int64), minlength=len(counts))
    for c, (count, there) in enumerate(zip(counts, available.tolist(), strict=True)):
        if not 1 <= count <= there:
            allowed = f"1 to {there}, the images it has"
            raise InputError(f"class {c} cannot supply its count", got=count, allowed=allowed)
    # The published subsets come from the legacy generator, whose stream numpy has frozen.
    stream = np.random.RandomState(seed)
    of_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(available)[:-1])
    for members in of_class:
        stream.shuffle(members)
    return np.concatenate([members[:count] for members, count in zip(of_class, counts, strict=True)])


def tail_counts(source: Source, data: Data) -> list[int]:
    """How many training images of a source each class keeps.

    A pre-cut pack falls from its largest class on, by frequency. A source with equal class sizes falls in
    label order from its smallest class on, ICText-LT in label order from the published count on. Everything
    else follows `natural_tail_counts`. A class that would keep no image or has too few is an InputError.
    """
    factor, profile, num_classes = data.imbalance_factor, data.profile, len(source.counts)
    facts, available = SOURCES[data.name], source.carried or source.counts
    if factor is None:
        return list(source.counts)
    if source.carried is not None:
        counts = _by_frequency(long_tail_counts(max(available), num_classes, factor, profile), available)
        reach = max(available) / min(available)
        fix = f"the pack reaches from imbalance_factor {reach:g} on; for less take the original data"
    elif facts.balanced:
        return long_tail_counts(min(available), num_classes, factor, profile)
    elif facts.largest_class is not None:
        counts = long_tail_counts(facts.largest_class, num_classes, factor, profile)
        fix = "raise data.imbalance_factor, or take the data as they are: data.imbalance_factor=null"
    else:
        return natural_tail_counts(available, factor, profile)
    triples = zip(source.class_names, available, counts, strict=True)
    short = [f"{name} {there} of {count}" for name, there, count in triples if there < count]
    if short:
        what = f"{len(short)} classes have too few images: imbalance_factor {factor:g}, profile {profile}"
        raise InputError(what, where=source.description, got=", ".join(short[:MOST_NAMED]), fix=fix)
    return counts


def tail_ranks(source: Source, data: Data) -> NDArray[np.int64]:
    """The place of each training image in the reference shuffle of its class; a pack carries its own."""
    if source.ranks is not None:
        return source.ranks
    ranks = np.empty(len(source.train), dtype=np.int64)
    shuffled = long_tail_indices(source.train.labels, source.counts, data.seed)
    ranks[shuffled] = np.concatenate([np.arange(count) for count in source.counts])
    return ranks


def tail_rows(source: Source, data: Data) -> NDArray[np.int64]:
    """Positions of the training images that are kept, in the order they are held."""
    if data.imbalance_factor is None:
        return np.arange(len(source.train))
    ranks, labels = tail_ranks(source, data), source.train.labels
    by_class = np.lexsort((ranks, labels))
    kept = ranks < np.asarray(tail_counts(source, data))[labels]
    return by_class[kept[by_class]]


def held_out(labels: NDArray[np.int64], fraction: float, seed: int, least: int = 0) -> NDArray[np.bool_]:
    """A mask (N,) that marks the nearest whole number to `fraction` of each class, but never all of it.

    At least `least` images are marked in a class that has more than that.
    """
    counts = np.bincount(labels).tolist()
    sizes = [max(min(max(round(count * fraction), least), count - 1), 0) for count in counts]
    return part_of_each_class(labels, sizes, seed)


def part_of_each_class(labels: NDArray[np.int64], sizes: Sequence[int], seed: int) -> NDArray[np.bool_]:
    """A mask (N,) with `sizes[c]` images of each class c marked, chosen at random by any seed >= 0."""
    # RandomState's stream is frozen, so a split is the same under every numpy.
    stream = np.random.RandomState(seed % 2**32)
    marked = np.zeros(len(labels), dtype=np.bool_)
    for c, size in enumerate(sizes):
        marked[stream.permutation(np.flatnonzero(labels == c))[:size]] = True
    return marked


def _curve(max_count: int, num_classes: int, imbalance_factor: float, profile: Profile) -> list[int]:
    if profile == "step":
        head = max(num_classes // 2, 1)
        return [max_count] * head + [int(max_count / imbalance_factor)] * (num_classes - head)
    last = max(num_classes - 1, 1)
    # Rounding may give 0.999… where exactly one image is due.
    least = int(max_count >= imbalance_factor)
    return [max(least, int(max_count * imbalance_factor ** (-c / last))) for c in range(num_classes)]


def _by_frequency(counts: Sequence[int], available: Sequence[int]) -> list[int]:
    """Falling counts, the first for the class with most images; ties by label."""
    order = sorted(range(len(available)), key=lambda c: -available[c])
    return [count for _, count in sorted(zip(order, counts, strict=True))]


def _check_arguments(max_count: int, num_classes: int, imbalance_factor: float, profile: str) -> None:
    if num_classes < 1:
        raise InputError("a long tail needs a class", got=f"num_classes = {num_classes}", allowed=">= 1")
    if max_count < 1:
        raise InputError("the largest class needs an image", got=f"max_count = {max_count}", allowed=">= 1")
    if not 1 <= imbalance_factor < float("inf"):
        what = "the imbalance factor is largest over smallest count"
        raise InputError(what, got=imbalance_factor, allowed="finite and >= 1")
    if profile not in ("exp", "step"):
        raise InputError("unknown profile", got=profile, allowed="exp, step")


def _check_none_empty(counts: list[int], imbalance_factor: float) -> None:
    if 0 in counts:
        what, most = f"class {counts.index(0)} would keep no image", max(counts)
        got = f"imbalance factor {imbalance_factor:g} with {most} images in the largest class"
        raise InputError(what, got=got, allowed=f"at most {most}", fix="lower the imbalance factor")
