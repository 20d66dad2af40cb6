"""Classifier heads: from features to one logit per class."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CosineHead", "LinearHead"]


class LinearHead(nn.Linear):
    """z = W h + b, W from Kaiming's normal distribution N(0, 2 / D), b from torch's default U(±D^−½).

    With `prior_bias` b begins at −log(C − 1), where a sigmoid gives each of C classes the probability 1/C,
    and has no weight decay.

    Source: the released CIFAR networks of LDAM-DRW and of those that build on them; the bias: the
    released code of Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019.

    >>> LinearHead(8, 5, prior_bias=True).bias.sigmoid()
    tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000], grad_fn=<SigmoidBackward0>)
    """

    def __init__(self, num_features: int, num_classes: int, *, prior_bias: bool = False) -> None:
        super().__init__(num_features, num_classes)
        nn.init.kaiming_normal_(self.weight)
        self._prior_bias = prior_bias
        if prior_bias:
            nn.init.constant_(self.bias, -math.log(num_classes - 1))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay, as networks of timm name theirs."""
        return {"bias"} if self._prior_bias else set()


class CosineHead(nn.Module):
    """z_c = s·cos(h, w_c): logits in [−s, s], no bias.

    With s = 1 the loss has to multiply by a scale of its own, as that of LDAM does: the softmax of cosines
    alone is nearly uniform. Computed in float32 whatever the features and autocast say. A feature vector of
    zeros has logits 0 and a finite gradient.

    Args:
        num_features: D.
        num_classes: C.
        scale: s > 0.

    Source: Cao et al. 2019 (LDAM), released code: weights uniform in [−1, 1], then each w_c of unit length.

    >>> CosineHead(2, 3)(torch.zeros(1, 2)).tolist()
    [[0.0, 0.0, 0.0]]
    """

    def __init__(self, num_features: int, num_classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, num_features).uniform_(-1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) → scaled cosines float32 (N, C)."""
        with torch.autocast(features.device.type, enabled=False):
            # torch's default of 1e-12 would let the gradient at a zero vector grow to 1e12.
            cosines = F.linear(F.normalize(features.float(), eps=1e-6), F.normalize(self.weight.float()))
            return cosines if self.scale == 1 else self.scale * cosines

    @torch.no_grad()
    def start_from_means(self, means: Tensor) -> None:
        """Begin as the classifier by the nearest class mean (C, D), by angle: w_c = μ_c / ‖μ_c‖."""
        self.weight.copy_(F.normalize(means))
