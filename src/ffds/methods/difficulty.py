"""Class weights that follow the accuracy of each class on validation images (Sinha et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from ffds.methods.base import Method, Stage
from ffds.settings import Milestones, NonNegative

__all__ = ["DifficultyBalanced"]


class DifficultyBalanced(Method):
    """Cross-entropy weighted by how difficult each class is, renewed after each epoch (Sinha et al. 2020)."""

    source: ClassVar[str] = "Sinha et al., Class-wise difficulty-balanced loss, ACCV 2020 and IJCV 2022"
    needs: ClassVar[str] = "validation images"
    published: ClassVar[str] = "42.57, Sinha et al. 2020"

    name: Literal["cdb"] = "cdb"
    tau: NonNegative | Literal["dynamic", "dynamic-imagenet"] = "dynamic"
    """τ of the weights d^τ, d = 1 − accuracy; dynamic: chosen from the least and the greatest difficulty."""
    milestones: Milestones | None = ((0.6667, 0.01), (0.875, 0.0001))

    def stages(self, class_counts: Sequence[int]) -> tuple[Stage, ...]:
        from ffds.losses import DifficultyBalancedLoss

        loss = DifficultyBalancedLoss(len(class_counts), tau=self.tau)
        return (Stage("difficulty-balanced", loss),)
