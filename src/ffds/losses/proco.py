"""ProCo: contrastive learning against a distribution of each class (Du et al., TPAMI 2024)."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ffds.errors import InputError
from ffds.losses.base import FullPrecision, among_ranks, checked
from ffds.losses.weights import PerClass, validated_counts

__all__ = ["LEAST_DIM", "ProCoLoss", "log_normaliser_ratio"]

LEAST_DIM = 16
"""Below it the expansion of the Bessel functions would lose more than float32 does."""
PRIOR_LENGTH = 0.9
"""Length of the mean representation of a class of which none has been seen."""
MOST_KAPPA = 1e5


class ProCoLoss(FullPrecision):
    """CE(z + log π) + α · the mean over the contrasted views of CE(g + log π), π_c = n_c / Σ_j n_j.

    z are the logits of the first view of an image. The features of the others go through a projection
    (linear, batch norm, ReLU, linear), trained as a part of the loss, to representations r of length 1. Those
    of class c follow a von-Mises-Fisher distribution on the sphere in A dimensions with the density
    C(κ_c) exp(κ_c μ_cᵀ r). Against so many samples of it as one likes, the contrastive loss has the logits

        g_c = log C(κ_c) − log C(κ̃_c),   κ̃_c = ‖κ_c μ_c + r / τ‖,   C(κ) ∝ κ^(A/2−1) / I_(A/2−1)(κ).

    With the mean R̄_c μ_c of the representations of class c, κ_c = A R̄_c / (1 − R̄_c²), at most 1e5. The mean
    is over the epoch before and this one so far, these views included, and over all ranks; it takes no
    gradient. Before any has been seen it has the length 0.9 and a random direction.

    In training mode each call that records gradients gathers the representations, so among several ranks all
    have to call it equally often; `end_epoch` begins the next epoch.

    Args:
        class_counts: training images of each class, each ≥ 1, in any form of `ffds.losses.weights.PerClass`.
        num_features: D, the width of the features; None: `build` is called with it before the first step.
        dim: A ≥ 16, the dimensions of the representations.
        hidden: width of the hidden layer of the projection.
        temperature: τ > 0.
        alpha: α ≥ 0.

    Source: Du et al., "Probabilistic contrastive learning for long-tailed visual recognition", TPAMI 2024,
    with the estimate of κ, its bound and the first means of the authors' released code.
    """

    adjustment: Tensor
    gathered: Tensor
    before: Tensor
    prior: Tensor

    def __init__(
        self,
        class_counts: PerClass,
        num_features: int | None = None,
        *,
        dim: int = 128,
        hidden: int = 512,
        temperature: float = 0.1,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        if dim < LEAST_DIM or not (0 < temperature < math.inf and 0 <= alpha < math.inf):
            got = f"dim={dim}, temperature={temperature}, alpha={alpha}"
            allowed = f"dim >= {LEAST_DIM}, temperature > 0, alpha >= 0"
            raise InputError("a setting of ProCo is out of range", got=got, allowed=allowed)
        self.dim, self.hidden, self.temperature, self.alpha = dim, hidden, temperature, alpha
        counts = validated_counts(class_counts)
        device = torch.get_default_device()
        self.register_buffer("adjustment", (counts / counts.sum()).log().float().to(device))
        # For each class the sum of its representations and, in the last column, their number.
        self.register_buffer("gathered", torch.zeros(len(counts), dim + 1, dtype=torch.float32))
        self.register_buffer("before", torch.zeros(len(counts), dim + 1, dtype=torch.float32))
        self.register_buffer("prior", torch.zeros(len(counts), dim, dtype=torch.float32))
        self.projection: nn.Sequential | None = None
        if num_features is not None:
            self.build(num_features)

    def build(self, num_features: int) -> None:
        """Draw the projection of features (N, D), and the means of classes not seen, by torch's generator."""
        device = self.prior.device
        self.projection = nn.Sequential(
            nn.Linear(num_features, self.hidden),
            # The statistics of a batch are all that training asks for.
            nn.BatchNorm1d(self.hidden, track_running_stats=False),
            nn.ReLU(),
            nn.Linear(self.hidden, self.dim),
        ).to(device)
        self.prior.copy_(PRIOR_LENGTH * F.normalize(torch.randn(self.prior.shape, device=device)))

    def forward(self, logits: Tensor, target: Tensor, features: Tensor) -> Tensor:
        """Logits (N, C) of the first view, labels (N,), features (N, V, D) of V ≥ 2 views → ().

        Raises:
            InputError: the target holds probabilities, there is one view only, or `build` was not called.
        """
        logits, target = checked(logits, target, len(self.adjustment))
        if target.ndim != 1 or features.ndim != 3 or features.shape[1] < 2 or self.projection is None:
            got = f"target {tuple(target.shape)}, features {tuple(features.shape)}"
            allowed = "labels (N,), features (N, V, D) of 2 or more views, after num_features was given"
            what = "ProCo contrasts several views of images of one class each"
            raise InputError(what, got=got, allowed=allowed)
        with torch.autocast(features.device.type, enabled=False):
            projected = self.projection(features.flatten(0, 1).to(self.prior.dtype))
            views = F.normalize(projected, dim=1).view(*features.shape[:2], -1).unbind(1)[1:]
            contrasts = []
            for view in views:
                if self.training and torch.is_grad_enabled():
                    self.observe(view, target)
                contrasts.append(F.cross_entropy(self.contrast(view) + self.adjustment, target))
            classified = F.cross_entropy(logits + self.adjustment, target)
            return classified + self.alpha * torch.stack(contrasts).mean()

    def contrast(self, representations: Tensor) -> Tensor:
        """G (N, C) of representations (N, A) of length 1."""
        direction, kappa = self.distributions()
        cosine = representations @ direction.T
        return log_normaliser_ratio(kappa, cosine, self.temperature, self.dim)

    @torch.no_grad()
    def distributions(self) -> tuple[Tensor, Tensor]:
        """Mean direction μ (C, A) and concentration κ (C,) of each class."""
        seen = self.before + self.gathered
        number = seen[:, -1:]
        mean = torch.where(number > 0, seen[:, :-1] / number.clamp(min=1), self.prior)
        length = mean.norm(dim=1)
        kappa = self.dim * length / (1 - length**2)
        # One representation alone has the length 1, give or take its rounding.
        kappa = torch.where((kappa >= 0) & (kappa < MOST_KAPPA), kappa, MOST_KAPPA)
        return F.normalize(mean, dim=1), kappa

    @torch.no_grad()
    def observe(self, representations: Tensor, target: Tensor) -> None:
        """Gather representations (N, A) with their labels (N,), those of all ranks."""
        classes = torch.arange(len(self.prior), device=target.device)
        # A product, because a sum by index has no fixed order on a GPU.
        of_class = (target == classes[:, None]).to(self.prior.dtype)
        found = torch.cat([of_class @ representations, of_class.sum(dim=1, keepdim=True)], dim=1)
        if among_ranks():
            dist.all_reduce(found)
        self.gathered += found

    @torch.no_grad()
    def end_epoch(self) -> None:
        """What this epoch gathered stands for the epoch before from now on."""
        self.before.copy_(self.gathered)
        self.gathered.zero_()

    def extra_repr(self) -> str:
        """The settings, for repr."""
        return f"dim={self.dim}, hidden={self.hidden}, temperature={self.temperature}, alpha={self.alpha}"


def log_normaliser_ratio(kappa: Tensor, cosine: Tensor, temperature: float, dim: int) -> Tensor:
    """Log C(κ) − log C(κ̃), κ̃² = κ² + 2 κ cos / τ + 1 / τ², C being the normaliser of ProCoLoss; (N, C).

    With ν = A/2 − 1 and s = √(ν² + κ²), the uniform expansion for large orders gives

        log I_ν(κ) − ν log κ = s − ν log(ν + s) − ½ log(2π s) + log Σ_k U_k(ν / s) / ν^k,

    and s̃ − s = (κ̃² − κ²) / (s̃ + s) has no cancellation, however large κ is. Four terms leave an error below
    1e-6 for A = 16 and 1e-11 for A = 128.

    Args:
        kappa: κ ≥ 0 of each class, (C,).
        cosine: rᵀ μ_c, (N, C).
        temperature: τ > 0.
        dim: A ≥ 16.

    Source: NIST Digital Library of Mathematical Functions, 10.41.3.
    """
    order = dim / 2 - 1
    s = (order**2 + kappa**2).sqrt()
    more = (2 * kappa * cosine + 1 / temperature) / temperature
    other = (s**2 + more).sqrt()
    step = more / (other + s)
    main = step - order * torch.log1p(step / (order + s)) - torch.log1p(step / s) / 2
    return main + _log_sum(order / other, order) - _log_sum(order / s, order)


def _log_sum(p: Tensor, order: float) -> Tensor:
    """Log Σ_k U_k(p) / ν^k up to k = 4 (DLMF 10.41.10)."""
    q = p * p
    u1 = p * (3 - 5 * q) / 24
    u2 = q * (81 - 462 * q + 385 * q**2) / 1152
    u3 = p * q * (30375 - 369603 * q + 765765 * q**2 - 425425 * q**3) / 414720
    coefficients = (4465125, -94121676, 349922430, -446185740, 185910725)
    u4 = q**2 * sum(c * q**k for k, c in enumerate(coefficients)) / 39813120
    return torch.log1p(u1 / order + u2 / order**2 + u3 / order**3 + u4 / order**4)
