"""The confusion matrix of a run: numbers in a table for few classes, a picture for many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffds.reports.finished import FinishedRun
from ffds.reports.pictures import data_uri

__all__ = ["MOST_IN_TABLE", "confusion_matrix"]

MOST_IN_TABLE = 30
"""Classes whose confusions are written as numbers."""
MOST_CELLS = 250
"""Rows of the picture; of more classes, each row stands for several."""
MOST_PAIRS = 40_000
"""Pairs of classes that a page carries for a pointer on the picture."""
FULL = 4
"""A confusion of a quarter of a class has the full colour."""
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)
"""Blue and vermilion, which the colour-blind can tell apart (Okabe and Ito 2008)."""


def confusion_matrix(found: FinishedRun) -> dict[str, Any]:
    """What the template shows: ``orders`` of the classes by name, and either ``rows`` or ``pictures``.

    Colours follow the share of a class's test images, as its square root, so that rare confusions are seen.
    """
    recall = found.correct / np.maximum(found.support, 1)
    names = [name.casefold() for name in found.names]
    orders = {
        "training count": found.order,
        "name": sorted(found.order, key=lambda label: names[label]),
        "accuracy": sorted(found.order, key=lambda label: -recall[label]),
    }
    if len(names) <= MOST_IN_TABLE:
        return {"orders": orders, "rows": _rows(found), "columns": found.order}
    cell = math.ceil(len(names) / MOST_CELLS)
    shares = _shares(found)
    pictures = {name: data_uri(_png(shares, order, cell), "png") for name, order in orders.items()}
    pairs = [[pair.label, pair.prediction, pair.images] for pair in found.confusions]
    told = pairs if len(pairs) <= MOST_PAIRS else None
    pointer = told and {"names": found.names, "orders": orders, "pairs": told, "cell": cell}
    return {"orders": orders, "pictures": pictures, "cell": cell, "pointer": pointer}


def _rows(found: FinishedRun) -> list[dict[str, Any]]:
    counts = {(pair.label, pair.prediction): pair.images for pair in found.confusions}
    return [
        {
            "label": label,
            "cells": [
                {
                    "prediction": prediction,
                    "images": counts.get((label, prediction), 0),
                    "strength": _strength(counts.get((label, prediction), 0), int(found.support[label])),
                }
                for prediction in found.order
            ],
        }
        for label in found.order
    ]


def _strength(images: int, support: int) -> int:
    """Colour of a cell, 0 to 10."""
    return math.ceil(10 * math.sqrt(images / support)) if images else 0


def _shares(found: FinishedRun) -> NDArray[np.float32]:
    """Share of each class's test images that were taken for each class (C, C)."""
    shares = np.zeros((len(found.names),) * 2, dtype=np.float32)
    for pair in found.confusions:
        shares[pair.label, pair.prediction] = pair.images / found.support[pair.label]
    return shares


def _png(shares: NDArray[np.float32], order: Sequence[int], cell: int) -> bytes:
    """A picture with one pixel for `cell` × `cell` classes; where nothing was confused it is clear."""
    sorted_ = shares[np.ix_(order, order)]
    bins = math.ceil(len(order) / cell)
    padded = np.zeros((bins * cell,) * 2, dtype=np.float32)
    padded[: len(order), : len(order)] = sorted_
    right = np.where(np.eye(len(padded), dtype=bool), padded, 0)
    rows = np.minimum(cell, len(order) - cell * np.arange(bins))[:, None]
    wrong, right = (
        whole.reshape(bins, cell, bins, cell).sum(axis=(1, 3)) / rows for whole in (padded - right, right)
    )
    picture = np.zeros((bins, bins, 4), dtype=np.uint8)
    diagonal = np.eye(bins, dtype=bool) & (right >= wrong)
    picture[..., :3] = np.where(diagonal[..., None], RIGHT, WRONG)
    picture[..., 3] = 255 * np.sqrt(np.clip(np.where(diagonal, right, FULL * wrong), 0, 1))
    content = BytesIO()
    Image.fromarray(picture).save(content, "PNG", optimize=True)
    return content.getvalue()
