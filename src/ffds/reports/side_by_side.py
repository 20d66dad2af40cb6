"""What the page of several runs shows: their measures side by side, and the differences to the first one."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
from markupsafe import Markup

from ffds.data.sources.registry import titled
from ffds.errors import InputError
from ffds.evaluation.measures import MEASURES
from ffds.reports.bootstrap import RESAMPLES, Interval, interval, resampled_measures
from ffds.reports.charts import Dot, dots, linear, lines, logarithmic, percent_axis
from ffds.reports.finished import FinishedRun
from ffds.reports.page import GROUPS, about_run, by_epoch, calibration, data_facts, definitions

__all__ = ["side_by_side"]


def side_by_side(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Everything that ``several.html`` shows; the groups of classes are those of the first run.

    Raises:
        InputError: the runs were tested on different images or classes, or there are more than 26.
    """
    _refuse_different_images(runs)
    first, letters = runs[0], ascii_uppercase[: len(runs)]
    names = {titled(one.recipe.data.name, one.recipe.name) for one in runs}
    calibrated = [{row["name"]: row for row in calibration(one)} for one in runs]
    return {
        "title": f"{' and '.join(sorted(names))} · {len(runs)} runs",
        "facts": data_facts(first),
        "runs": [
            {"letter": letter, "title": one.title, "recipe": one.recipe.name, "path": one.run.name}
            | {"epochs": one.summary["epochs"], "about": about_run(one)}
            for letter, one in zip(letters, runs, strict=True)
        ],
        "measures": _measures(runs),
        "resamples": RESAMPLES,
        "other_counts": any((one.train != first.train).any() for one in runs),
        "agreement": [
            {"letter": letter} | _agreement(first, one)
            for letter, one in zip(letters[1:], runs[1:], strict=True)
        ],
        "differences": [
            {"letter": letter, "chart": _difference_chart(first, one)}
            for letter, one in zip(letters[1:], runs[1:], strict=True)
        ],
        "calibration": [
            {"name": name, "errors": [own[name].get("error") for own in calibrated]} for name in calibrated[0]
        ],
        "curves": _curves(runs, letters),
        "classes": _classes(runs),
    }


def _refuse_different_images(runs: Sequence[FinishedRun]) -> None:
    """Differences of runs mean something only where every image is the same for both."""
    first = runs[0]
    if len({one.run.path.resolve() for one in runs}) < len(runs):
        raise InputError("a run is named twice", got=", ".join(str(one.run.path) for one in runs))
    if len(runs) > len(ascii_uppercase):
        allowed = f"{len(ascii_uppercase)} runs"
        raise InputError("too many runs for one page", got=f"{len(runs)} runs", allowed=allowed)
    for one in runs[1:]:
        reason = ""
        if one.names != first.names:
            reason = f"{len(one.names)} classes and {len(first.names)}, or others"
        elif not (np.array_equal(one.index, first.index) and np.array_equal(one.label, first.label)):
            reason = f"{len(one.label):,} images and {len(first.label):,}, or other labels"
        elif len({found.identity.get("test_images") for found in (one, first)} - {None}) > 1:
            reason = "other content of the images"
        if reason:
            what = "these runs were tested on different images, so their differences mean nothing"
            where = f"{first.run.path} and {one.run.path}"
            raise InputError(what, where=where, got=reason, fix="give runs with the same test images")


def _measures(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """One row a measure: each run's value with its interval, and the paired difference to the first run."""
    first = runs[0]
    scores = [one.scores_by(first.groups).measures for one in runs]
    resampled = resampled_measures(
        first.label, [one.prediction for one in runs], first.groups, len(first.names)
    )
    rows = []
    for measure in MEASURES:
        name = measure.name
        if name == "ece":
            continue
        values: list[Interval | None] = []
        differences: list[Interval | None] = []
        for own, drawn in zip(scores, resampled, strict=True):
            value, base = own[name], scores[0][name]
            if value is None or base is None:
                values.append(None)
                differences.append(None)
                continue
            values.append(interval(value, drawn[name]))
            differences.append(interval(value - base, drawn[name] - resampled[0][name], low=-100.0))
        about = definitions(first)[name]
        rows.append({"name": name, "title": measure.title, "about": about, "values": values})
        rows[-1]["differences"] = differences[1:]
    return rows


def _agreement(first: FinishedRun, other: FinishedRun) -> dict[str, int]:
    """How many test images both classify correctly, only one of them, or neither."""
    one, two = (found.prediction == found.label for found in (first, other))
    parts = {"both": one & two, "first": one & ~two, "other": ~one & two, "neither": ~one & ~two}
    return {name: int(chosen.sum()) for name, chosen in parts.items()}


def _recalls(found: FinishedRun) -> list[float | None]:
    pairs = zip(found.correct.tolist(), found.support.tolist(), strict=True)
    return [100 * right / images if images else None for right, images in pairs]


def _difference_chart(first: FinishedRun, other: FinishedRun) -> Markup:
    points = [
        Dot(
            int(first.train[label]),
            two - one,
            first.group_of[label],
            f"{first.names[label]}: {one:.1f} % → {two:.1f} %, {int(first.train[label]):,} training images",
            first.names[label],
        )
        for label, (one, two) in enumerate(zip(_recalls(first), _recalls(other), strict=True))
        if one is not None and two is not None and first.train[label]
    ]
    axes = (
        logarithmic("training images", first.train.tolist()),
        linear("difference, points", [0.0, *(point.y for point in points)]),
    )
    levels = {
        name: float(np.mean([point.y for point in points if point.kind == name]))
        for name in GROUPS
        if any(point.kind == name for point in points)
    }
    return dots(*axes, points, "Difference in accuracy of each class", levels=levels).markup


def _curves(runs: Sequence[FinishedRun], letters: str) -> list[dict[str, Any]]:
    """Test accuracy and that of the tail by epoch, one line a run."""
    charts = []
    for title, name in (("Test accuracy", "accuracy"), ("Test accuracy of the tail", "tail")):
        series = {
            f"run{place % 6} {letter}": by_epoch(one.run.metrics, "test", name)
            for place, (letter, one) in enumerate(zip(letters, runs, strict=True))
        }
        ends = [epoch for points in series.values() for epoch, _ in points]
        if ends:
            axes = linear("epoch", ends, floor=0, whole=True), percent_axis()
            chart = lines(*axes, series, f"{title} by epoch", {}).markup
            charts.append({"title": title, "chart": chart, "legend": list(series)})
    return charts


def _classes(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    first, recalls = runs[0], [_recalls(one) for one in runs]
    return [
        {
            "name": first.names[label],
            "group": first.group_of[label],
            "train": int(first.train[label]),
            "test": int(first.support[label]),
            "recalls": [own[label] for own in recalls],
            "differences": [
                None if (base := recalls[0][label]) is None or (value := own[label]) is None else value - base
                for own in recalls[1:]
            ],
        }
        for label in first.order
    ]
