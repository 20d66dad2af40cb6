"""Long-tailed image classification in PyTorch: losses, methods, data, training.

>>> import ffds
>>> run = ffds.train("digits", method="d-ffds", seed=0)       # doctest: +SKIP
>>> run.summary["accuracy"]["last"]                           # doctest: +SKIP
>>> ffds.load(run.path).predict("photo.jpg").label            # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffds.inference.predictor import load as load
    from ffds.reports.comparison import compare as compare
    from ffds.reports.report import report as report
    from ffds.run_directory import Run as Run
    from ffds.training.train import train as train

__all__ = ["Run", "compare", "load", "report", "train"]

# Imported on first use: `import ffds` and `ffds --help` stay free of torch.
_HOMES = {
    "Run": "ffds.run_directory",
    "compare": "ffds.reports.comparison",
    "load": "ffds.inference.predictor",
    "report": "ffds.reports.report",
    "train": "ffds.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ffds' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
