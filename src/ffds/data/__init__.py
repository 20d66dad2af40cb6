"""Long-tailed image data: the tail rule, the sources, the container they fill.

The tail rule needs numpy only; whatever reads images is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ffds.data.long_tail import long_tail_counts, long_tail_indices

if TYPE_CHECKING:
    from ffds.data.dataset import Dataset
    from ffds.data.open import open_dataset

__all__ = ["Dataset", "long_tail_counts", "long_tail_indices", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name == "open_dataset":
        from ffds.data.open import open_dataset

        return open_dataset
    if name == "Dataset":
        from ffds.data.dataset import Dataset

        return Dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
