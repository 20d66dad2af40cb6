"""LADE: balanced softmax with a regulariser that takes the class shares out of the logits."""

from __future__ import annotations

from math import inf, log

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.errors import InputError
from ffds.losses.base import Reduction, checked, labels_to_keep
from ffds.losses.logit_adjusted import LogitAdjustedLoss
from ffds.losses.weights import PerClass

__all__ = ["LADELoss"]


class LADELoss(LogitAdjustedLoss):
    """Cross-entropy of z + log π, plus α times a regulariser R of the whole batch.

    R = Σ_c π_c · (b_c + λ·b_c² − a_c), with a_c the mean of z_c over the samples of class c in the batch, 0
    if there are none, and b_c = log((1/N) Σ_i e^(z_ic) · (1/C) / π_c). a_c − b_c is the bound of Donsker and
    Varadhan on the divergence of p(x | c) from p(x) under balanced classes; it is tight where
    z_c = log p(x | c) − log p(x), and there b_c = 0.

    ``reduction="none"`` adds the same R to each sample. Logits have to be finite. Where a batch is computed
    in several parts or on several devices, each part has the R of its own samples.

    Args:
        class_counts: training images of each class, each ≥ 1, in any form of `ffds.losses.weights.PerClass`.
        alpha: α ≥ 0.
        penalty: λ ≥ 0.
        ignore_index, reduction: as in `ffds.losses.base.ClassificationLoss`.

    Source: Hong et al., "Disentangling label distribution for long-tailed visual recognition", CVPR 2021,
    as in the authors' code, which counts b_c also for a class without samples in the batch.

    >>> loss = LADELoss([3, 1], alpha=1.0, penalty=0.0)
    >>> loss(torch.zeros(1, 2), torch.tensor([0]))  # log 4/3 + ¾ log ½/¾ + ¼ log ½/¼
    tensor(0.1569)
    """

    def __init__(
        self,
        class_counts: PerClass,
        *,
        alpha: float = 0.1,
        penalty: float = 0.01,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_counts, ignore_index=ignore_index, reduction=reduction)
        if not (0 <= alpha < inf and 0 <= penalty < inf):
            got = f"alpha={alpha}, penalty={penalty}"
            raise InputError("LADE setting out of range", got=got, allowed="finite alpha, penalty >= 0")
        self.alpha, self.penalty = alpha, penalty

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (N, C), target (N,) or (N, C) → () or (N,)."""
        logits, target = checked(logits, target, len(self.adjustment))
        values = -self.at_label(F.log_softmax(self.adjusted(logits), dim=1), target)
        return self.reduced(values + self.alpha * self.regulariser(logits, target), target)

    def regulariser(self, logits: Tensor, target: Tensor) -> Tensor:
        """R, (), of logits (N, C) in float32 or better and their target (N,) or (N, C)."""
        log_prior = self.adjustment.to(logits.dtype)
        own = self.at_label(logits, target)
        if target.ndim == 2:
            sums, counts = (target * own).sum(dim=0), target.sum(dim=0)
        else:
            label, kept = labels_to_keep(target, self.ignore_index)
            of_classes = torch.zeros_like(log_prior)
            sums, counts = (
                of_classes.index_add(0, label, own),
                of_classes.index_add(0, label, kept.to(own.dtype)),
            )
            # If all are ignored none is masked: the logarithm of nothing would leave NaN in the gradient.
            logits = logits.masked_fill((~kept & kept.any())[:, None], -inf)
        a = sums / counts.where(counts > 0, 1)
        b = logits.logsumexp(dim=0) - counts.sum().clamp_min(1).log() - log_prior - log(len(log_prior))
        return (log_prior.exp() * (b + self.penalty * b**2 - a)).sum()

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return f"alpha={self.alpha}, penalty={self.penalty}, {super().extra_repr()}"
