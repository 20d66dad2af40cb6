"""What is said of a method wherever methods are listed, read without torch."""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from importlib import resources
from typing import Any

from ffds.methods.registry import METHODS

__all__ = ["COSTS", "about", "costs", "facts"]

COSTS = "costs.json"
"""File beside this one, with what `python -m benchmarks.methods` measured; it may be missing."""


def about(method: str) -> str:
    """What a method is, in one line without its source.

    >>> about("fl")
    'Focal loss (1 - p)^gamma CE'
    """
    first = inspect.cleandoc(METHODS[method].__doc__ or "").partition("\n\n")[0]
    return re.sub(r"( \([^()]*\d{4}[^()]*\))?\.$", "", " ".join(first.split()))


@cache
def costs() -> dict[str, Any]:
    """What a step of each method costs, and where that was measured; empty if it was not."""
    file = resources.files("ffds.methods") / COSTS
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def facts(method: str) -> dict[str, Any]:
    """What it is, its phases, its source, its published accuracy, what it needs and what a step costs.

    The cost is the time of a training step as a multiple of that of plain cross-entropy, both measured in
    turns on one machine, in the phase that takes longest; None if it was not measured.

    >>> facts("ce")["phases"], facts("ce")["needs"], facts("d-ffds")["phases"]
    (1, '', 2)
    """
    settings = METHODS[method]
    return {
        "about": about(method),
        "phases": settings.model_validate({"name": method}).phases,
        "head": settings.head,
        "source": settings.source,
        "published": settings.published,
        "needs": settings.needs,
        "step_beside_ce": costs().get("step_beside_ce", {}).get(method),
    }
