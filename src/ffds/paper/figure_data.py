"""The numbers behind each figure, one row a point: from run directories, the paper and its formulas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffds.data.long_tail import long_tail_counts
from ffds.data.sources.ictext.layout import CHARACTERS, PAPER
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.evaluation.groups import class_groups
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoints

__all__ = ["ClassCount", "Curve", "EpochAccuracy", "Gain", "LossPoint", "Norm", "SmoothedProbability"]
__all__ += ["accuracies_by_epoch", "area", "class_counts", "class_order", "focusing_curves", "gains"]
__all__ += ["loss_curves", "norms", "sharpness", "smoothed_probabilities"]

Floats = NDArray[np.float64]
GROUPS = ("head", "middle", "tail")


class EpochAccuracy(NamedTuple):
    """Accuracy of a group of classes in one epoch, in percent."""

    method: str
    group: str
    epoch: int
    train: float
    test: float


class LossPoint(NamedTuple):
    """Loss of a sample whose label has this probability; `parameter` is γ of FL and p̄ of D-FFDS."""

    loss: str
    parameter: float
    probability: float
    value: float


class Curve(NamedTuple):
    """γ of a class with so many training images."""

    curve: str
    images: int
    gamma: float


class SmoothedProbability(NamedTuple):
    """p of the label of one training image before and after DynaSmooth, and its group's mean p̄."""

    group: int
    before: float
    after: float
    group_mean: float


class ClassCount(NamedTuple):
    """Training images of one class of ICText-LT."""

    character: str
    if_18: int
    if_100: int


class Gain(NamedTuple):
    """Test accuracy of one class with two methods, in percent; rank 0 is the most frequent class."""

    rank: int
    label: int
    group: str
    ce: float
    d_ffds: float
    difference: float


class Norm(NamedTuple):
    """Length of the classifier's weight vector of one class; rank 0 is the most frequent class."""

    method: str
    rank: int
    label: int
    norm: float


def accuracies_by_epoch(runs: Iterable[Run]) -> list[EpochAccuracy]:
    """Figure 1: training and test accuracy of head, middle and tail in every epoch that was scored.

    The training accuracy is that of the epoch's own steps, on augmented images. A group without classes is an
    InputError.
    """
    rows = [
        EpochAccuracy(method, group, line["epoch"], line["train"].get(group), line["test"].get(group))
        for method, run in ((run.recipe.method.name, run) for run in runs)
        for group in GROUPS
        for line in run.metrics
        if line["test"] is not None
    ]
    if empty := sorted({row.group for row in rows if row.train is None or row.test is None}):
        got = f"no accuracy of {', '.join(empty)}"
        fix = "give each group classes with data.cut"
        raise InputError("figure 1 shows head, middle and tail", got=got, fix=fix)
    return rows


def area(rows: Sequence[EpochAccuracy]) -> float:
    """Figure 1: Σ_e (train − test) / 100 over the epochs, of one method and group.

    The paper does not define its areas, up to 117.74 over 200 epochs; as a sum of fractions that is a mean
    gap of 59 points. An epoch that was evaluated stands for those since the one before it; one in which the
    test is better counts negative.

    >>> area([EpochAccuracy("ce", "tail", 1, 50.0, 30.0), EpochAccuracy("ce", "tail", 2, 90.0, 30.0)])
    0.8
    """
    epochs = np.array([row.epoch for row in rows])
    gap = np.array([row.train - row.test for row in rows])
    return float((gap * np.diff(epochs, prepend=0)).sum() / 100)


def loss_curves(k: float = 0.9) -> list[LossPoint]:
    """Figure 2a: the focal loss for three γ, and D-FFDS with γ = 1 for four p̄, without class weight."""
    import torch

    from ffds.losses.focal import focal

    p = np.geomspace(0.001, 1, 300)
    log_p = np.log(p)
    curves = [("FL", gamma, focal(torch.from_numpy(log_p), gamma).numpy()) for gamma in (0.0, 0.5, 1.0)]
    curves += [("D-FFDS", mean, (1 - _smoothed(p, mean, k)) * -log_p) for mean in (0.3, 0.5, 0.7, 0.9)]
    return [
        LossPoint(name, parameter, probability, value)
        for name, parameter, values in curves
        for probability, value in zip(p.tolist(), values.tolist(), strict=True)
    ]


def focusing_curves(fewest: int, most: int, gamma_min: float, gamma_max: float) -> list[Curve]:
    """Figure 2b: γ of classes with `fewest` to `most` images, along each curve of FreqFocus."""
    from ffds.losses.ffds import focusing_parameters

    images = np.unique(np.linspace(fewest, most, 200).round().astype(int)).tolist()
    names: tuple[Literal["concave", "convex", "linear"], ...] = ("concave", "convex", "linear")
    rows = []
    for name in names:
        gammas = focusing_parameters(images, gamma_min, gamma_max, name).tolist()
        rows += [Curve(name, n, gamma) for n, gamma in zip(images, gammas, strict=True)]
    return rows


def smoothed_probabilities(
    probability: Floats, group: NDArray[np.int64], group_means: Floats, k: float
) -> list[SmoothedProbability]:
    """Figure 3: p of every training image before and after DynaSmooth, from p and group of its label.

    `group_means` is p̄ of each group, and k the strength of DynaSmooth.
    """
    mean = group_means[group]
    columns = (group, probability, _smoothed(probability, mean, k), mean)
    return list(map(SmoothedProbability, *(column.tolist() for column in columns)))


def _smoothed(p: Floats, group_mean: Floats | float, k: float) -> Floats:
    """p̂ of DynaSmooth, by the formula of the loss."""
    import torch

    from ffds.losses.ffds import dynamic_smoothing

    mean = torch.as_tensor(group_mean, dtype=torch.float64)
    p_hat: Floats = dynamic_smoothing(torch.from_numpy(p), mean, k).numpy()
    return p_hat


def class_counts() -> list[ClassCount]:
    """Figure 4: training images of ICText-LT by class, as the paper prints them."""
    cut = long_tail_counts(PAPER.head, len(CHARACTERS), 100)
    return list(map(ClassCount, CHARACTERS, PAPER.natural, cut))


def sharpness(images: NDArray[np.uint8]) -> Floats:
    """Figure 4: focus of images (N, h, w, channels), as the variance of the Laplacian of their brightness."""
    grey = images.mean(axis=3)
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    variance: Floats = laplacian.var(axis=(1, 2))
    return variance


def gains(ce: Run, d_ffds: Run) -> list[Gain]:
    """Figure 5a: test accuracy after the last epoch, D-FFDS less CE, of each class that has test images."""
    first, second = (run.metrics[-1]["test"]["per_class"] for run in (ce, d_ffds))
    order = class_order(d_ffds)
    # Ranks fall with the count, so any falling counts give the groups of the ranks.
    groups = class_groups(range(len(order), 0, -1), d_ffds.recipe.data.cut)
    names = [name for name, ranks in groups.items() for _ in ranks]
    return [
        Gain(rank, label, names[rank], first[label], second[label], second[label] - first[label])
        for rank, label in enumerate(order)
        if first[label] is not None and second[label] is not None
    ]


def norms(runs: Iterable[Run]) -> list[Norm]:
    """Figure 5b: ‖w_c‖₂ of the classifier after the last epoch, class by class.

    A run without a checkpoint of its last epoch is an InputError.
    """
    rows = []
    for run in runs:
        weight = Checkpoints(run.checkpoints).parameter(run.summary["epochs"], "head.weight")
        if weight is None:
            raise InputError("the run has no checkpoint of its last epoch", where=run.checkpoints)
        lengths = np.linalg.norm(weight, axis=1).tolist()
        order = enumerate(class_order(run))
        rows += [Norm(run.recipe.method.name, rank, label, lengths[label]) for rank, label in order]
    return rows


def class_order(run: Run) -> list[int]:
    """Labels by falling number of training images; equal counts keep the order of the labels.

    Where no checkpoint tells the counts and the data have no known order, that is an InputError.
    """
    counts = Checkpoints(run.checkpoints).newest_identity().get("class_counts")
    if counts is not None:
        return sorted(range(len(counts)), key=lambda label: -counts[label])
    if SOURCES[run.recipe.data.name].cut_in_label_order:
        return list(range(len(run.metrics[-1]["test"]["per_class"])))
    raise InputError("the class counts of this run are not known", where=run.checkpoints, got="no checkpoint")
