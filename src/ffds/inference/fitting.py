"""Fits temperature and logit adjustment on the validation images of a run, and says what they change."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ffds.data.open import open_dataset
from ffds.errors import InputError
from ffds.evaluation.groups import class_groups
from ffds.files import write_json
from ffds.inference.adjustment import FILE, Adjustment, Calibration, class_shares, log_ratio
from ffds.inference.load import in_classes, loaded, logits_of, refuse_changed
from ffds.inference.network import class_names
from ffds.run_directory import Run

__all__ = [
    "Criterion",
    "adjust_run",
    "balanced_accuracy",
    "balanced_nll",
    "calibration",
    "fitted_temperature",
]

BINS = 15
RANGE = (0.05, 20.0)
"""A temperature stays within: where all images are classified correctly it would fall to 0."""


def calibration(
    logits: Tensor, labels: Tensor, class_counts: Sequence[int], cut: tuple[int, int, int] | None
) -> Calibration:
    """Accuracy, ECE and NLL of logits (N, C) for labels (N,); None for a group without images."""
    groups = {"all": list(range(len(class_counts))), **class_groups(class_counts, cut)}
    chosen = {name: torch.isin(labels, torch.tensor(group)) for name, group in groups.items()}
    return {name: _measured(logits[own], labels[own]) for name, own in chosen.items()}


def _measured(logits: Tensor, labels: Tensor) -> dict[str, float | None]:
    if not len(labels):
        return dict.fromkeys(("accuracy", "ece", "nll"))
    confidence, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).to(confidence)
    place = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1, dtype=confidence.dtype)[1:-1])
    gaps = torch.zeros(BINS, dtype=confidence.dtype).index_add_(0, place, right - confidence)
    return {
        "accuracy": 100 * right.mean().item(),
        "ece": 100 * gaps.abs().sum().item() / len(labels),
        "nll": F.cross_entropy(logits, labels).item(),
    }


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that minimises the NLL of logits / T, float64 (N, C), within 0.05 to 20.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    >>> logits = torch.tensor([[4.0, 0.0]] * 3 + [[0.0, 4.0]], dtype=torch.float64)
    >>> round(fitted_temperature(logits, torch.tensor([0, 0, 0, 0])), 3)    # 4 / T = log 3
    3.641
    """
    exponent = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([exponent], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / exponent.clamp(-5, 5).exp(), labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return min(max(exponent.detach().exp().item(), RANGE[0]), RANGE[1])


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean accuracy of the classes that have images, in percent."""
    return _over_classes((logits.argmax(1) == labels).double() * 100, labels)


def balanced_nll(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that have images of their mean NLL."""
    return _over_classes(F.cross_entropy(logits, labels, reduction="none"), labels)


def _over_classes(values: Tensor, labels: Tensor) -> float:
    return fmean(values[labels == label].mean().item() for label in set(labels.tolist()))


TAUS = tuple(step / 20 for step in range(41))
"""Strengths that are tried: 0 to 2."""

Criterion = Literal["balanced_accuracy", "nll"]


def adjust_run(
    run: Run,
    overrides: Sequence[str] = (),
    *,
    prior: str = "uniform",
    tau: float | None = None,
    by: Criterion = "balanced_accuracy",
) -> Adjustment:
    """Fit temperature and τ on the validation images of a run, and save them beside it.

    T minimises the NLL. τ is the best of 0, 0.05, …, 2 by balanced accuracy, or by the mean over the classes
    of their NLL, where `prior` is ``uniform``; for another one, which says what the shares will be, it is 1.
    The test images choose nothing.

    Args:
        run: finished or not.
        overrides: where the images are by now, ``data.root=DIR`` and the like.
        prior: ``uniform``, ``train`` or a file, see `class_shares`.
        tau: τ; None chooses it.
        by: what chooses it.

    Raises:
        InputError: the run held no validation images out, or its images are not there or have changed.

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 9.
    """
    if tau is not None and not 0 <= tau < float("inf"):
        raise InputError("tau is not negative", where="--tau", got=tau, allowed="0 or more")
    recipe, checkpoint = loaded(run, overrides)
    names, counts = class_names(checkpoint), checkpoint.identity["class_counts"]
    shares = class_shares(prior, names, counts)
    dataset = open_dataset(recipe.data)
    refuse_changed(run, recipe, checkpoint, dataset)
    if dataset.validation is None:
        what = "the run held no validation images out, on which to fit an adjustment"
        fix = "train with some: data.validation=0.1"
        raise InputError(what, where=run.path, got=f"data.validation={recipe.data.validation:g}", fix=fix)
    found = {
        name: logits_of(recipe, checkpoint, in_classes(checkpoint, dataset, split))
        for name, split in (("validation", dataset.validation), ("test", dataset.test))
    }
    logits, labels = found["validation"]
    if not bool(logits.isfinite().all()):
        raise InputError("the network's output is not finite on a validation image", where=run.path)
    temperature, ratio = fitted_temperature(logits, labels), log_ratio(shares, counts)

    chooses = tau is None and prior == "uniform"
    chosen = _best_tau(logits / temperature, ratio, labels, by) if chooses else 1.0 if tau is None else tau
    reached: dict[str, Any] = checkpoint.state["reached"]
    adjustment = Adjustment(
        temperature=temperature,
        tau=chosen,
        prior=dict(zip(names, shares, strict=True)),
        chosen_by=by if chooses else "given",
        validation_images=len(labels),
        epoch=reached["epoch"],
        step=reached["step"],
        before={name: calibration(*one, counts, recipe.data.cut) for name, one in found.items()},
        after={
            name: calibration(given / temperature + chosen * ratio, target, counts, recipe.data.cut)
            for name, (given, target) in found.items()
        },
    )
    write_json(run.path / FILE, adjustment.model_dump())
    return adjustment


def _best_tau(logits: Tensor, ratio: Tensor, labels: Tensor, by: Criterion) -> float:
    """The τ for which z + τ·ratio does best on these images; of equal ones the smallest."""

    def score(tau: float) -> float:
        adjusted = logits + tau * ratio
        return -balanced_nll(adjusted, labels) if by == "nll" else balanced_accuracy(adjusted, labels)

    return max(TAUS, key=score)
