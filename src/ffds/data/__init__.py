"""Long-tailed image data: the tail rule, the sources, the container they fill.

Everything is imported when it is asked for, so that the registry of sources can be read without numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffds.data.dataset import Dataset
    from ffds.data.long_tail import long_tail_counts, long_tail_indices
    from ffds.data.open import open_dataset

__all__ = ["Dataset", "long_tail_counts", "long_tail_indices", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Dataset": "dataset", "open_dataset": "open"}.get(name, "long_tail")
    return getattr(import_module(f"ffds.data.{module}"), name)
