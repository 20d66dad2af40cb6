"""What a sweep searches: settings of FFDS within the bounds of the paper, for one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ffds.environment import ranks
from ffds.errors import InputError
from ffds.methods.ffds import FFDS
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["SEARCHED", "Space", "searched_method", "searched_recipe", "with_settings", "with_validation"]

SEARCHED = ("beta", "k", "num_groups", "gamma_min", "gamma_max", "curve")
"""The keys of `method` that a sweep sets."""

_BETAS = (0.9, 0.99, 0.999, 0.9999)
_GROUPS = (3, 5, 10)
_CURVES = ("linear", "convex", "concave")
_GAMMA = 5.0
_DECIMALS = 4
_VALIDATION = 0.1


@dataclass(frozen=True)
class Space:
    """The space of the paper, widened to the recipe's own settings where those lie outside of it.

    β ∈ {0.9, 0.99, 0.999, 0.9999}, k ∈ [0, 1], M ∈ {3, 5, 10}, none above the number of classes, γ_min and
    γ_max ∈ [0, gamma], 5 in the paper; the curve is linear, convex or concave. A trial has ``gamma_share =
    gamma_min / gamma_max`` in place of ``gamma_min``: so every point of the space is a pair γ_min <= γ_max,
    and the bounds of one do not move with the other. Source: Nah et al. 2023, section 4.
    """

    betas: tuple[float, ...]
    groups: tuple[int, ...]
    gamma: float

    @classmethod
    def around(cls, method: FFDS, num_classes: int) -> Space:
        """The space that holds a recipe's own settings too.

        >>> from ffds.methods.ffds import DFFDS
        >>> Space.around(DFFDS(num_groups=2), num_classes=8).groups
        (2, 3, 5)
        """
        groups = {m for m in _GROUPS if m <= num_classes} | {method.num_groups}
        betas = tuple(sorted({*_BETAS, method.beta}))
        return cls(betas, tuple(sorted(groups)), max(_GAMMA, method.gamma_max))

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Have a trial choose its point, and return the settings there."""
        trial.suggest_categorical("beta", self.betas)
        trial.suggest_float("k", 0.0, 1.0)
        trial.suggest_categorical("num_groups", self.groups)
        trial.suggest_float("gamma_max", 0.0, self.gamma)
        trial.suggest_float("gamma_share", 0.0, 1.0)
        trial.suggest_categorical("curve", _CURVES)
        return self.settings(trial.params)

    @staticmethod
    def settings(point: Mapping[str, Any]) -> dict[str, Any]:
        """The settings at a point, to four decimals; none where the trial has not chosen every coordinate.

        >>> Space.settings({"beta": 0.99, "k": 0.123456, "num_groups": 5, "gamma_max": 4.5,
        ...                 "gamma_share": 1 / 3, "curve": "linear"})
        {'beta': 0.99, 'k': 0.1235, 'num_groups': 5, 'gamma_min': 1.5, 'gamma_max': 4.5, 'curve': 'linear'}
        """
        if len(point) < len(SEARCHED):
            return {}
        gamma_max = round(point["gamma_max"], _DECIMALS)
        # Rounded last, and so never above gamma_max, which has as many decimals.
        gamma_min = round(point["gamma_share"] * gamma_max, _DECIMALS)
        rounded = {"k": round(point["k"], _DECIMALS), "gamma_min": gamma_min, "gamma_max": gamma_max}
        return {key: rounded.get(key, point.get(key)) for key in SEARCHED}

    @staticmethod
    def point(method: FFDS) -> dict[str, Any]:
        """The point at which `settings` gives those of a method."""
        share = method.gamma_min / method.gamma_max if method.gamma_max else 0.0
        own = {key: getattr(method, key) for key in SEARCHED if key != "gamma_min"}
        return own | {"gamma_share": share}

    def __str__(self) -> str:
        betas, groups, curves = (", ".join(map(str, one)) for one in (self.betas, self.groups, _CURVES))
        gamma = f"0 ≤ γ_min ≤ γ_max ≤ {self.gamma:g}"
        return f"β ∈ {{{betas}}}, k ∈ [0, 1], M ∈ {{{groups}}}, {gamma}, curve ∈ {{{curves}}}"

    def described(self) -> dict[str, list[Any]]:
        """Each setting and what it may be, all values or the two bounds, ready for JSON."""
        return {
            "beta": list(self.betas),
            "k": [0.0, 1.0],
            "num_groups": list(self.groups),
            "gamma_min <= gamma_max": [0.0, self.gamma],
            "curve": list(_CURVES),
        }


def searched_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe with its own settings of D-FFDS, or of FFDS where ``method=ffds`` asks for it.

    Raises:
        InputError: the recipe cannot be resolved, asks for another method, or for several devices.

    >>> searched_recipe("cifar100-lt-100").method.name
    'd-ffds'
    """
    recipe = load_recipe(name_or_path, overrides, method="d-ffds").recipe
    searched_method(recipe)
    devices = {"trainer.devices": recipe.trainer.devices, "trainer.num_nodes": recipe.trainer.num_nodes}
    devices["WORLD_SIZE"] = ranks()
    if many := [f"{key}={value}" for key, value in devices.items() if value > 1]:
        fix = "set it to 1, and train several trials at a time with --devices or --jobs"
        raise InputError("a sweep trains each trial on one device", got=", ".join(many), allowed=1, fix=fix)
    return recipe


def searched_method(recipe: Recipe) -> FFDS:
    """The settings of FFDS in a recipe; InputError where its method is another one."""
    if not isinstance(recipe.method, FFDS):
        got, allowed = f"method={recipe.method.name}", "method=d-ffds, method=ffds"
        raise InputError("a sweep searches the settings of FFDS", got=got, allowed=allowed)
    return recipe.method


def with_validation(recipe: Recipe) -> Recipe:
    """The recipe, holding out a tenth of each training class if it holds out nothing itself.

    >>> with_validation(searched_recipe("digits")).data.validation
    0.1
    """
    if recipe.data.validation:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": _VALIDATION})})


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other settings of its method, which are checked as those of a file are."""
    method = type(recipe.method).model_validate({**recipe.method.model_dump(), **settings})
    return recipe.model_copy(update={"method": method})
