"""One-vs-all focal loss: every class has a sigmoid of its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ffds.losses.base import checked
from ffds.losses.focal import FocalLoss, focal

__all__ = ["SigmoidFocalLoss"]


class SigmoidFocalLoss(FocalLoss):
    """w_y · Σ_c (1 − p_c)^γ · (−log p_c), p_y = σ(z_y) of the label y, p_c = σ(−z_c) of every other class.

    ``"mean"`` divides by the number of samples, and all C terms of a sample have the weight of its label, as
    in the authors' released code. The bias of the last layer should begin at −log(C − 1), where p_y = 1/C.

    Args:
        gamma: focusing parameter γ ≥ 0; 0 gives the sum of C binary cross-entropies.
        weight: of each class, ≥ 0, as list, array or tensor; None for no weighting.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019,
    sections 4.2 and 4.3, and the released code.

    >>> SigmoidFocalLoss(gamma=1.0)(Tensor([[0, 0]]), Tensor([0]).long())  # 2 · ½ · log 2
    tensor(0.6931)
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C) → () or (N,)."""
        logits, target = checked(logits, target, None if self.weight is None else len(self.weight))
        of_label = focal(self.at_label(F.logsigmoid(logits), target), self.gamma)
        of_others = self.at_label(_sum_of_others(focal(F.logsigmoid(-logits), self.gamma)), target)
        return self.reduced(self.weighted(of_label + of_others, self.weight, target), target)


def _sum_of_others(terms: Tensor) -> Tensor:
    """Σ_{j ≠ c} of terms (N, C) ≥ 0 for every c, (N, C).

    The sum less the largest term loses its digits, so there the others are summed by themselves.
    """
    top = terms.argmax(dim=1, keepdim=True)
    others = terms.sum(dim=1, keepdim=True) - terms
    return others.scatter(1, top, terms.scatter(1, top, 0).sum(dim=1, keepdim=True))
