"""Cutting the long tail of an opened source: how many images of each class stay, and which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ffds.data.long_tail import long_tail_counts, long_tail_indices, natural_tail_counts
from ffds.data.source import Source
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.recipes.schema import Data

__all__ = ["tail_counts", "tail_ranks", "tail_rows"]


def tail_counts(source: Source, data: Data) -> list[int]:
    """How many training images each class keeps.

    Published sets and digits fall in label order from the count of their smallest class on, ICText-LT from
    the published one; a pre-cut pack from that of its largest, by falling frequency; other data as
    `natural_tail_counts` says.

    Raises:
        InputError: a class would keep no image, or ICText-LT or a pre-cut pack has too few.
    """
    factor, profile = data.imbalance_factor, data.profile
    if factor is None:
        return list(source.counts)
    if source.carried is not None:
        return _pack_counts(source, source.carried, data, factor)
    facts = SOURCES[data.name]
    if facts.balanced:
        return long_tail_counts(min(source.counts), len(source.counts), factor, profile)
    if facts.largest_class is not None:
        return _counts_from(source, facts.largest_class, data, factor)
    return natural_tail_counts(source.counts, factor, profile)


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


def _counts_from(source: Source, max_count: int, data: Data, factor: float) -> list[int]:
    counts = long_tail_counts(max_count, len(source.counts), factor, data.profile)
    short = [
        f"{name} {there} of {count}"
        for name, there, count in zip(source.class_names, source.counts, counts, strict=True)
        if there < count
    ]
    if short:
        raise InputError(
            f"{len(short)} classes have too few images: imbalance_factor {factor:g}, profile {data.profile}",
            where=source.description,
            got=", ".join(short),
            allowed=f"the published tail, which begins with {max_count} images",
            fix="raise data.imbalance_factor, or take the data as they are: data.imbalance_factor=null",
        )
    return counts


def _pack_counts(source: Source, carried: Sequence[int], data: Data, factor: float) -> list[int]:
    order = sorted(range(len(carried)), key=lambda c: (-carried[c], c))
    ranked = long_tail_counts(max(carried), len(carried), factor, data.profile)
    counts = dict(zip(order, ranked, strict=True))
    for c, count in counts.items():
        if count > carried[c]:
            raise InputError(
                f"this pack was cut too far for imbalance_factor {factor:g}, profile {data.profile}",
                where=source.description,
                got=f"{carried[c]} images of class {c} ({source.class_names[c]})",
                allowed=f"{count} or more",
                fix=f"the pack reaches from imbalance_factor {max(carried) / min(carried):g} on; "
                "for less take the original data",
            )
    return [counts[c] for c in range(len(carried))]
