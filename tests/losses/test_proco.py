"""ProCo beside the paper's formulas in float64, in its limits, over epochs and over ranks."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.special import ive
from torch.nn import functional as F

from ffds.errors import InputError
from ffds.losses import LogitAdjustedLoss, ProCoLoss
from ffds.losses.proco import log_normaliser_ratio

COUNTS, WIDTH = [40, 20, 4], 5
SETTINGS = {"num_features": WIDTH, "dim": 16, "hidden": 8}


def made(**settings):
    torch.manual_seed(0)
    return ProCoLoss(COUNTS, **(SETTINGS | settings))


def batch(seed, samples=12, views=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, len(COUNTS), generator=generator)
    target = torch.randint(2, (samples,), generator=generator)  # none of the last class
    return logits, target, torch.randn(samples, views, WIDTH, generator=generator)


def log_normaliser(kappa, dim):
    """log C(κ), less what depends on the number of dimensions alone."""
    order = dim / 2 - 1
    return order * math.log(kappa) - math.log(ive(order, kappa)) - kappa


def bound(dtype, dim):
    return {torch.float64: {16: 2e-6, 32: 1e-7, 128: 1e-10, 129: 1e-10}[dim], torch.float32: 5e-6}[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [16, 32, 128, 129])
def test_the_ratio_of_normalisers_is_that_of_bessel_functions(dim, dtype):
    kappa, cosine = torch.tensor([1.0, 5, 40, 300, 1e4, 1e5]), torch.tensor([-0.99, -0.4, 0.0, 0.3, 1.0])
    ours = log_normaliser_ratio(kappa.to(dtype), cosine.to(dtype)[:, None].expand(-1, 6), 0.1, dim)
    for row, x in zip(ours.tolist(), cosine.double().tolist(), strict=True):
        for value, k in zip(row, kappa.double().tolist(), strict=True):
            other = math.sqrt(k**2 + 20 * k * x + 100)
            expected = log_normaliser(k, dim) - log_normaliser(other, dim)
            assert value == pytest.approx(
                expected, rel=2e-6 if dtype == torch.float32 else 0, abs=bound(dtype, dim)
            )


def naive(loss, observed, logits, target, features):
    """The loss of a step after the features `observed` so far, sample by sample in float64."""
    loss = copy.deepcopy(loss).double()
    shares = np.array(COUNTS) / sum(COUNTS)
    projected = F.normalize(loss.projection(features.double().flatten(0, 1)), dim=1)
    views = projected.view(len(target), -1, loss.dim)
    seen = {c: [r for r, label in observed if label == c] for c in range(len(COUNTS))}
    total = 0.0
    for view in range(1, views.shape[1]):
        for row, label in zip(views[:, view], target.tolist(), strict=True):
            seen[label].append(row.detach())
        for row, label in zip(views[:, view], target.tolist(), strict=True):
            scores = []
            for c in range(len(COUNTS)):
                mean = torch.stack(seen[c]).mean(0) if seen[c] else loss.prior[c]
                length = mean.norm().item()
                kappa = min(loss.dim * length / (1 - length**2), 1e5) if length < 1 else 1e5
                other = (kappa * mean / length + row / loss.temperature).norm().item()
                ratio = log_normaliser(kappa, loss.dim) - log_normaliser(other, loss.dim)
                scores.append(shares[c] * math.exp(ratio))
            total -= math.log(scores[label] / sum(scores)) / (len(target) * (views.shape[1] - 1))
    kept = [
        (r, y) for view in views.detach().unbind(1)[1:] for r, y in zip(view, target.tolist(), strict=True)
    ]
    adjusted = F.cross_entropy(logits.double() + torch.tensor(shares).log(), target)
    return adjusted.item() + loss.alpha * total, kept


def test_the_loss_is_that_of_the_paper_in_every_step_of_two_epochs():
    """The last class is never seen: it keeps the mean that it began with."""
    loss, before, observed = made(alpha=0.7), [], []
    for epoch in range(2):
        for step in range(2):
            data = batch(10 * epoch + step)
            expected, kept = naive(loss, [*before, *observed], *data)
            observed += kept
            assert loss(*data).item() == pytest.approx(expected, rel=1e-5)
        before, observed = observed, []
        loss.end_epoch()
    direction, kappa = loss.distributions()
    assert torch.allclose(0.9 * direction[2], loss.prior[2])
    assert kappa[2].item() == pytest.approx(16 * 0.9 / 0.19, rel=1e-5)


def test_without_the_contrast_it_is_the_logit_adjusted_loss():
    logits, target, features = batch(0)
    assert torch.allclose(
        made(alpha=0.0)(logits, target, features), LogitAdjustedLoss(COUNTS)(logits, target)
    )


def test_the_gradient_is_that_of_the_value():
    """Of the features: the distributions are constants for it."""
    loss = made().double().eval()
    logits, target, features = batch(0, samples=4)
    for _ in range(3):
        loss.observe(F.normalize(torch.randn(8, 16, dtype=torch.float64)), torch.randint(3, (8,)))
    given = features.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(logits.double(), target, x), given)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
def test_it_is_finite_for_extreme_features_and_a_class_of_one_direction(scale):
    loss = made()
    logits, target, features = batch(0)
    loss.observe(torch.ones(9, 16) / 4, torch.zeros(9).long())
    given = (scale * features).requires_grad_()
    value = loss(1e4 * logits, target, given)
    value.backward()
    assert value.isfinite()
    assert given.grad.isfinite().all()
    assert loss.distributions()[1].max() <= 1e5


def test_only_steps_of_training_are_gathered():
    loss, data = made(), batch(0)
    with torch.no_grad():
        loss(*data)
    loss.eval()(*data)
    assert not loss.gathered.any()
    loss.train()(*data)
    assert loss.gathered[:, -1].tolist() == [*(2 * torch.bincount(data[1])).tolist(), 0]


def test_refusals():
    logits, target, features = batch(0)
    for loss, *given in (
        (made(), F.one_hot(target, 3).float(), features),
        (made(), target, features[:, 0]),
        (made(), target, features[:, :1]),
        (ProCoLoss(COUNTS), target, features),
    ):
        with pytest.raises(InputError, match="contrasts several views"):
            loss(logits, *given)
    for setting in ("dim", "temperature", "alpha"):
        with pytest.raises(InputError, match="out of range"):
            made(**{setting: -1})


def without_batch_norm():
    """Whose statistics are those of a rank, here as in the network."""
    loss = made()
    loss.projection[1] = torch.nn.Identity()
    return loss


def rows(rank, ranks):
    logits, target, features = batch(3)
    return logits[rank::ranks], target[rank::ranks], features[rank::ranks]


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    loss = without_batch_norm()
    torch.save((loss(*rows(rank, 2)).detach(), loss.gathered), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_statistics_and_together_the_loss_of_one_process(tmp_path):
    mp.spawn(run_rank, (tmp_path,), nprocs=2)
    loss, ranks = without_batch_norm(), [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    value = loss(*rows(0, 1))
    for _, gathered in ranks:
        torch.testing.assert_close(gathered, loss.gathered)
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, value.detach())
