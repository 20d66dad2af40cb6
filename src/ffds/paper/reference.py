"""What the paper prints, as plain data: percent correct on the balanced test sets, class counts, areas."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COLUMN_TITLES", "FIGURE_1", "METHOD_TITLES", "TABLE_1A", "TABLE_1B", "TABLE_1C", "TABLE_2B"]

Numbers = Mapping[str, float]

COLUMN_TITLES = {
    "cifar10-lt-100": "CIFAR-10-LT, IF 100",
    "cifar10-lt-50": "CIFAR-10-LT, IF 50",
    "cifar10-lt-10": "CIFAR-10-LT, IF 10",
    "cifar100-lt-100": "CIFAR-100-LT, IF 100",
    "cifar100-lt-50": "CIFAR-100-LT, IF 50",
    "cifar100-lt-10": "CIFAR-100-LT, IF 10",
    "tiny-imagenet-lt-100": "Tiny ImageNet-LT, IF 100",
    "tiny-imagenet-lt-10": "Tiny ImageNet-LT, IF 10",
    "ictext-lt-100": "ICText-LT, IF 100",
    "ictext-lt-18": "ICText-LT, IF 18",
}
"""Recipe → dataset and imbalance factor, in the order of Table 1a."""

_BY_METHOD = {
    "ce": (70.47, 77.21, 86.40, 38.85, 43.24, 56.09, 38.19, 53.22, 74.22, 83.51),
    "fl": (70.38, 76.71, 86.66, 38.41, 44.32, 55.78, 38.95, 54.02, 74.21, 83.70),
    "cb": (70.36, 74.81, 87.03, 38.32, 43.85, 55.71, 41.37, 54.82, 75.29, 84.86),
    "cb-fl": (74.57, 79.27, 85.73, 39.60, 41.66, 57.99, 38.71, 54.92, 75.35, 83.70),
    "ldam": (73.35, 78.74, 86.96, 39.60, 44.19, 56.91, 39.40, 54.58, 74.24, 83.38),
    "ffds": (75.60, 79.82, 87.46, 40.74, 45.67, 58.66, 42.34, 56.11, 76.89, 85.40),
    "ldam-drw": (77.03, 81.53, 88.16, 42.04, 47.71, 58.71, 42.78, 57.06, 77.87, 84.52),
    "ib": (78.26, 81.70, 88.25, 42.14, 46.22, 57.13, 42.65, 57.22, 76.59, 85.41),
    "ib-cb": (78.04, 81.54, 88.09, 41.31, 46.16, 56.78, 40.15, 55.79, 75.86, 85.22),
    "ib-fl": (79.76, 81.51, 88.04, 42.06, 47.49, 58.20, 41.04, 57.06, 77.59, 85.05),
    "d-ffds": (79.93, 82.94, 88.48, 43.46, 48.48, 58.82, 43.86, 58.31, 79.56, 85.98),
}

METHOD_TITLES = {method: method.upper() for method in _BY_METHOD}
"""Method → the paper's name for it, in the order of Table 1a."""

TABLE_1A: Mapping[str, Numbers] = {
    recipe: {method: row[place] for method, row in _BY_METHOD.items()}
    for place, recipe in enumerate(COLUMN_TITLES)
}
"""Recipe → method → accuracy."""

TABLE_1B: Mapping[str, Numbers] = {
    "cifar100-lt-100": {"1": 42.66, "5": 42.07, "10": 43.46, "50": 43.17},
    "cifar100-lt-10": {"1": 58.24, "5": 58.82, "10": 58.29, "50": 58.41},
}
"""Recipe → number of groups M → accuracy of D-FFDS."""

TABLE_1C: Mapping[str, Numbers] = {
    "cifar100-lt-100": {"neither": 41.80, "FreqFocus": 42.43, "DynaSmooth": 42.71, "both": 43.46},
    "cifar100-lt-10": {"neither": 57.10, "FreqFocus": 57.68, "DynaSmooth": 58.21, "both": 58.82},
}
"""Recipe → modules on top of deferred CB-FL → accuracy."""

TABLE_2B: Mapping[str, Numbers] = {"cifar100-lt-100": {"concave": 43.46, "convex": 42.78, "linear": 42.30}}
"""Recipe → curve of FreqFocus → accuracy of D-FFDS, as printed in the legend of Figure 2b."""

FIGURE_1: Mapping[str, Numbers] = {
    "cb-fl": {"head": 56.42, "middle": 84.84, "tail": 117.74},
    "ffds": {"head": 36.17, "middle": 51.24, "tail": 78.05},
}
"""Method → group → area between training and test accuracy over 200 epochs, CIFAR-100-LT, IF 100."""
