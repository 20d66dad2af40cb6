"""Groups of classes by their number of training images."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ffds.errors import InputError

__all__ = ["GROUPS", "class_groups", "described_groups", "shot_groups"]

GROUPS = ("head", "middle", "tail", "many", "medium", "few")
"""The measures that are the mean accuracy of a group's classes."""
_THIRDS = "head, middle, tail: the classes in three parts, those with the most training images first"
_SHOTS = "many, medium, few: the classes with more than 100, 20 to 100, and fewer than 20 training images"


def described_groups(names: Collection[str]) -> list[str]:
    """What the groups among some names of measures are, a line each, for below a table.

    >>> described_groups(["accuracy", "tail"])
    ['head, middle, tail: the classes in three parts, those with the most training images first']
    """
    return [text for text, group in ((_THIRDS, "tail"), (_SHOTS, "few")) if group in names]


def class_groups(class_counts: Sequence[int], cut: tuple[int, int, int] | None) -> dict[str, list[int]]:
    """Labels of head, middle and tail: classes by falling training count, cut twice.

    Args:
        class_counts: training images of each class, in label order; equal counts keep that order.
        cut: classes in head, middle and tail; None: thirds, where one class too many goes to the middle and
            two go to middle and tail, as in the paper's configurations (10 → 3/4/3, 200 → 66/67/67); of
            fewer than three classes some groups are empty.

    Raises:
        InputError: `cut` does not add up to the number of classes.

    >>> class_groups([5, 50, 500, 7], None)
    {'head': [2], 'middle': [1, 3], 'tail': [0]}
    """
    total = len(class_counts)
    head, middle, tail = cut or (total // 3, total - total // 3 - (total + 1) // 3, (total + 1) // 3)
    if head + middle + tail != total:
        what = f"data.cut adds up to {head + middle + tail} classes, the data have {total}"
        allowed = f"three numbers that add up to {total}, or null for thirds"
        raise InputError(what, where="data.cut", got=[head, middle, tail], allowed=allowed)
    ordered = sorted(range(total), key=lambda label: -class_counts[label])
    rest = ordered[head:]
    return {"head": ordered[:head], "middle": rest[:middle], "tail": rest[middle:]}


def shot_groups(class_counts: Sequence[int]) -> dict[str, list[int]]:
    """The field's usual buckets: many (> 100 training images), medium (20 to 100) and few (< 20) shots.

    >>> shot_groups([101, 100, 20, 19])
    {'many': [0], 'medium': [1, 2], 'few': [3]}
    """
    labelled = list(enumerate(class_counts))
    return {
        "many": [label for label, count in labelled if count > 100],
        "medium": [label for label, count in labelled if 20 <= count <= 100],
        "few": [label for label, count in labelled if count < 20],
    }
