"""Which epoch's network a run keeps, and when training has stopped getting better: validation decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from ffds.data.dataset import Dataset
from ffds.errors import InputError
from ffds.evaluation.groups import class_groups, shot_groups
from ffds.evaluation.measures import MEASURES, Counts, Measure, Scores
from ffds.recipes.schema import Recipe

if TYPE_CHECKING:
    from ffds.training.kept.reached import Reached

__all__ = ["BestEpoch"]


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far by a measure of the validation images; of equal ones the earlier.

    Only epochs of the last phase count, those after the first `start` ones: what is kept was trained with
    the loss of the method, and no run stops before that.
    """

    measure: Measure
    keep: bool
    patience: int | None
    start: int

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset, start: int) -> Self | None:
        """What the recipe asks for; None where it neither keeps the best epoch nor stops early.

        Raises:
            InputError: there are no validation images, or none of those that the measure is about.
        """
        trainer, held = recipe.trainer, dataset.validation
        if trainer.keep == "last" and trainer.patience is None:
            return None
        key = "trainer.keep=best" if trainer.keep == "best" else f"trainer.patience={trainer.patience}"
        if held is None:
            what = f"{key} needs validation images; the test set chooses nothing"
            raise InputError(what, got="none", fix="data.validation=0.1 holds out a tenth of each class")
        measure = next(one for one in MEASURES if one.name == trainer.best_by)
        support = np.bincount(held.labels, minlength=dataset.num_classes).tolist()
        groups = class_groups(dataset.class_counts, recipe.data.cut) | shot_groups(dataset.class_counts)
        if measure.compute(Counts(support, support, support, [0], [0.0], True, groups)) is None:
            what = f"no validation image is of a class that {measure.name} is about"
            fix = "a larger data.validation, or trainer.best_by=balanced_accuracy"
            raise InputError(what, where="trainer.best_by", got=measure.name, fix=fix)
        return cls(measure, trainer.keep == "best", trainer.patience, start)

    def consider(self, reached: Reached, validation: Scores) -> None:
        """Note the epoch just reached if it is the best so far; a measure that is not known never is."""
        value, best = validation.measures[self.measure.name], reached.best_on_validation
        if value is None or reached.epoch <= self.start:
            return
        sign = -1 if self.measure.smaller_is_better else 1
        if best is None or sign * value > sign * best:
            reached.best_on_validation, reached.best_validation_epoch = value, reached.epoch
            if self.keep:
                reached.kept_epoch = reached.epoch

    def exhausted(self, reached: Reached) -> bool:
        """Whether as many epochs as the patience have passed without a better one."""
        since = reached.epoch - max(self.start, reached.best_validation_epoch or 0)
        return self.patience is not None and since >= self.patience
