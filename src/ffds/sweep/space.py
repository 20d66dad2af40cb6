"""The settings of FFDS that are searched, and between which bounds: those of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ffds.methods.ffds import FFDS

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["SEARCHED", "Space"]

SEARCHED = ("beta", "k", "num_groups", "gamma_min", "gamma_max", "curve")
"""The keys of `method` that a sweep sets."""

_BETAS = (0.9, 0.99, 0.999, 0.9999)
_GROUPS = (3, 5, 10)
_CURVES = ("linear", "convex", "concave")
_GAMMA = 5.0
_DECIMALS = 4


@dataclass(frozen=True)
class Space:
    """The space of the paper, widened to the recipe's own settings where those lie outside of it.

    A trial has ``gamma_share = gamma_min / gamma_max`` in place of ``gamma_min``: so every point of the space
    is a pair γ_min <= γ_max, and the bounds of one do not move with the other.

    Attributes:
        betas: β ∈ {0.9, 0.99, 0.999, 0.9999}.
        groups: M ∈ {3, 5, 10}, none above the number of classes.
        curves: linear, convex, concave.
        gamma: γ_min and γ_max ∈ [0, gamma], 5 in the paper.

    k ∈ [0, 1]. Source: Nah et al. 2023, section 4, implementation details.
    """

    betas: tuple[float, ...]
    groups: tuple[int, ...]
    curves: tuple[str, ...]
    gamma: float

    @classmethod
    def around(cls, method: FFDS, num_classes: int) -> Space:
        """The space that holds a recipe's own settings too.

        >>> from ffds.methods.ffds import DFFDS
        >>> Space.around(DFFDS(num_groups=2), num_classes=8).groups
        (2, 3, 5)
        """
        groups = {m for m in _GROUPS if m <= num_classes} | {method.num_groups}
        return cls(
            betas=tuple(sorted({*_BETAS, method.beta})),
            groups=tuple(sorted(groups)),
            curves=_CURVES,
            gamma=max(_GAMMA, method.gamma_max),
        )

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Have a trial choose its point, and return the settings there."""
        trial.suggest_categorical("beta", self.betas)
        trial.suggest_float("k", 0.0, 1.0)
        trial.suggest_categorical("num_groups", self.groups)
        trial.suggest_float("gamma_max", 0.0, self.gamma)
        trial.suggest_float("gamma_share", 0.0, 1.0)
        trial.suggest_categorical("curve", self.curves)
        return self.settings(trial.params)

    @staticmethod
    def settings(point: Mapping[str, Any]) -> dict[str, Any]:
        """The settings at a point, to four decimals.

        >>> Space.settings({"beta": 0.99, "k": 0.123456, "num_groups": 5, "gamma_max": 4.5,
        ...                 "gamma_share": 1 / 3, "curve": "linear"})
        {'beta': 0.99, 'k': 0.1235, 'num_groups': 5, 'gamma_min': 1.5, 'gamma_max': 4.5, 'curve': 'linear'}
        """
        gamma_max = round(point["gamma_max"], _DECIMALS)
        found = {
            "beta": point["beta"],
            "k": round(point["k"], _DECIMALS),
            "num_groups": point["num_groups"],
            # Rounded last, and so never above gamma_max, which has as many decimals.
            "gamma_min": round(point["gamma_share"] * gamma_max, _DECIMALS),
            "gamma_max": gamma_max,
            "curve": point["curve"],
        }
        return {key: found[key] for key in SEARCHED}

    @staticmethod
    def is_point(params: Mapping[str, Any]) -> bool:
        """Whether a trial has chosen every coordinate."""
        return params.keys() == {"beta", "k", "num_groups", "gamma_max", "gamma_share", "curve"}

    @staticmethod
    def point(method: FFDS) -> dict[str, Any]:
        """The point at which `settings` gives those of a method."""
        return {
            "beta": method.beta,
            "k": method.k,
            "num_groups": method.num_groups,
            "gamma_max": method.gamma_max,
            "gamma_share": method.gamma_min / method.gamma_max if method.gamma_max else 0.0,
            "curve": method.curve,
        }

    def __str__(self) -> str:
        betas, groups, curves = (
            "{" + ", ".join(map(str, values)) + "}" for values in (self.betas, self.groups, self.curves)
        )
        return f"β ∈ {betas}, k ∈ [0, 1], M ∈ {groups}, 0 ≤ γ_min ≤ γ_max ≤ {self.gamma:g}, curve ∈ {curves}"

    def described(self) -> dict[str, list[Any]]:
        """Each setting and what it may be, all values or the two bounds, ready for JSON."""
        return {
            "beta": list(self.betas),
            "k": [0.0, 1.0],
            "num_groups": list(self.groups),
            "gamma_min <= gamma_max": [0.0, self.gamma],
            "curve": list(self.curves),
        }
