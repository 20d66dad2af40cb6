"""A finished run read for a page: classes, predictions and what they count, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ffds.errors import InputError, one_line
from ffds.evaluation.groups import class_groups, shot_groups
from ffds.evaluation.measures import Counts, Scores
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoints

__all__ = ["BINS", "Bins", "FinishedRun", "Pair"]

BINS = 15
"""Equal bins of the confidence, as in the measure ECE."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_COLUMNS = ("index", "label", "prediction", "confidence", "label_probability")


@dataclass(frozen=True)
class Pair:
    """Test images of one class (`label`) that were taken for another one (`prediction`)."""

    label: int
    prediction: int
    images: int


@dataclass(frozen=True)
class Bins:
    """Images, correct images and the sum of the confidence in each bin (lower, upper] of the confidence."""

    images: Integers
    correct: Integers
    confidence: Floats

    @property
    def error(self) -> float | None:
        """Expected calibration error Σ_b n_b/N · |accuracy_b − confidence_b| in percent; None of no image."""
        total = int(self.images.sum())
        return 100 * float(np.abs(self.correct - self.confidence).sum()) / total if total else None


@dataclass(frozen=True)
class FinishedRun:
    """Everything a page shows of a run but the images.

    Attributes:
        run: its directory.
        names: of the classes, in label order, each in one line that can be printed.
        train: training images of each class, int64 (C,).
        index: place of each of the N test images in the test set, int64 (N,), rising.
        label: its class.
        prediction: the class it was taken for; −1 where a logit was not finite.
        confidence: the largest probability.
        label_probability: the probability of its label.
    """

    run: Run
    recipe: Recipe
    summary: Mapping[str, Any]
    identity: Mapping[str, Any]
    names: tuple[str, ...]
    train: Integers
    index: Integers
    label: Integers
    prediction: Integers
    confidence: Floats
    label_probability: Floats

    @classmethod
    def read(cls, run: Run) -> FinishedRun:
        """The run in a directory.

        Raises:
            InputError: it is not done, a file is missing or damaged, or its class counts are not known.
        """
        summary, recipe = run.summary, run.recipe
        identity = Checkpoints(run.checkpoints).newest_identity()
        classes = run.classes or [
            {"name": name, "train": count}
            for count, name in zip(
                identity.get("class_counts", ()),
                identity.get("class_names") or range(len(identity.get("class_counts", ()))),
                strict=True,
            )
        ]
        if not classes:
            what, got = "the classes of this run are not known", "neither classes.json nor a checkpoint"
            raise InputError(what, where=run.path, got=got, fix="restore one of its checkpoints")
        names = tuple(one_line(str(one["name"])) for one in classes)
        counts = np.array([one["train"] for one in classes], dtype=np.int64)
        columns = _predictions(run, len(classes))
        found = cls(run, recipe, summary, identity, names, counts, *columns)
        accuracy = summary["accuracy"]
        if abs((found.scores.accuracy or 0.0) - accuracy.get("kept", accuracy["last"])) > 0.01:
            what = "the predictions of this run do not give the accuracy of its summary"
            got = f"{found.scores.accuracy:.2f} and {summary['accuracy']['last']:.2f} percent"
            raise _unusable(run, what, got)
        return found

    @property
    def title(self) -> str:
        """Method and seed, which tell the runs of a recipe apart."""
        return f"{self.recipe.method.name}, seed {self.recipe.trainer.seed}"

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Labels by group: head, middle, tail, many, medium and few."""
        counts = self.train.tolist()
        return class_groups(counts, self.recipe.data.cut) | shot_groups(counts)

    @cached_property
    def group_of(self) -> list[str]:
        """``head``, ``middle`` or ``tail`` of each class."""
        labels = {label: name for name in ("head", "middle", "tail") for label in self.groups[name]}
        return [labels[label] for label in range(len(self.names))]

    @property
    def order(self) -> list[int]:
        """Labels by falling training count; equal counts keep the order of the labels."""
        return sorted(range(len(self.names)), key=lambda label: -int(self.train[label]))

    @cached_property
    def support(self) -> Integers:
        """Test images of each class (C,)."""
        return np.bincount(self.label, minlength=len(self.names))

    @cached_property
    def correct(self) -> Integers:
        """Those of them that were classified correctly (C,)."""
        return np.bincount(self.label[self.label == self.prediction], minlength=len(self.names))

    @cached_property
    def predicted(self) -> Integers:
        """Test images that were taken for each class (C,)."""
        return np.bincount(self.prediction[self.prediction >= 0], minlength=len(self.names))

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        """Which images have a prediction (N,)."""
        return (self.prediction >= 0) & np.isfinite(self.confidence)

    @cached_property
    def scores(self) -> Scores:
        """Every measure, computed from the predictions."""
        return self.scores_by(self.groups)

    def scores_by(self, groups: Mapping[str, list[int]]) -> Scores:
        """The same with other groups of classes, for instance those of another run."""
        bins = self.bins(np.ones(len(self.label), dtype=bool))
        counts = Counts(
            support=self.support.tolist(),
            correct=self.correct.tolist(),
            predicted=self.predicted.tolist(),
            bin_correct=bins.correct.tolist(),
            bin_confidence=bins.confidence.tolist(),
            finite=bool(self.finite.all()),
            groups=groups,
        )
        return Scores.of(counts)

    def bins(self, chosen: NDArray[np.bool_]) -> Bins:
        """Some of the images, a mask (N,), in bins of their confidence."""
        chosen = chosen & self.finite
        edges = np.linspace(0, 1, BINS + 1, dtype=np.float32)[1:-1]
        place = np.searchsorted(edges, self.confidence[chosen].astype(np.float32), side="left")
        right = (self.label == self.prediction)[chosen]
        images, correct = (np.bincount(one, minlength=BINS) for one in (place, place[right]))
        confidence: Floats = np.bincount(place, self.confidence[chosen], BINS).astype(np.float64)
        return Bins(images, correct, confidence)

    def of_group(self, group: str) -> NDArray[np.bool_]:
        """Which images have a label of this group (N,)."""
        return np.isin(self.label, self.groups[group])

    @cached_property
    def confusions(self) -> list[Pair]:
        """Every pair of label and prediction that occurs, the right ones too, the most frequent first."""
        known, classes = self.prediction >= 0, len(self.names)
        cells, images = np.unique(self.label[known] * classes + self.prediction[known], return_counts=True)
        rows = zip((cells // classes).tolist(), (cells % classes).tolist(), images.tolist(), strict=True)
        return sorted((Pair(*row) for row in rows), key=lambda pair: (-pair.images, pair.label))

    @property
    def mistakes(self) -> list[Pair]:
        """Those of them whose prediction is wrong."""
        return [pair for pair in self.confusions if pair.label != pair.prediction]

    def largest_losses(self, most: int) -> list[int]:
        """Rows of the wrongly classified images with the smallest probability of their label, in order."""
        probability = np.where(self.finite & (self.label != self.prediction), self.label_probability, np.inf)
        rows = np.argsort(probability, kind="stable")[:most]
        return [int(row) for row in rows if np.isfinite(probability[row])]


def _predictions(run: Run, classes: int) -> tuple[Any, ...]:
    """The columns of ``predictions.parquet`` by rising index."""
    try:
        table = pq.read_table(run.predictions, columns=list(_COLUMNS))
        columns = {name: table[name].to_numpy() for name in _COLUMNS}
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
        raise _unusable(run, "the predictions of this run cannot be read", error) from error
    label, prediction = columns["label"], columns["prediction"]
    if len(label) == 0 or label.min() < 0 or max(label.max(), prediction.max()) >= classes:
        what = "the predictions of this run are not of its classes"
        raise _unusable(run, what, f"labels and predictions of other than {classes} classes")
    order = np.argsort(columns["index"], kind="stable")
    kinds = (np.int64, np.int64, np.int64, np.float64, np.float64)
    return tuple(columns[name][order].astype(kind) for name, kind in zip(_COLUMNS, kinds, strict=True))


def _unusable(run: Run, what: str, got: object) -> InputError:
    fix = f"write them again: ffds eval {run.path} --predictions {run.predictions}"
    return InputError(what, where=run.predictions, got=got, fix=fix)
