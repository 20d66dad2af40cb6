"""What the page of one run shows, section by section: numbers, charts and pictures for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ffds.data.dataset import Split
from ffds.data.sources.registry import titled
from ffds.errors import InputError, one_line
from ffds.evaluation.measures import MEASURES, mean
from ffds.recipes.load import dump_recipe
from ffds.reports.bootstrap import RESAMPLES, Interval, interval, resampled_measures
from ffds.reports.charts import Axis, Dot, bar, dots, linear, lines, logarithmic, percent_axis, reliability
from ffds.reports.confusion import confusion_matrix
from ffds.reports.finished import FinishedRun, Pair
from ffds.reports.pictures import Pictures
from ffds.reports.run_records import changed_settings
from ffds.training.checkpoint import Checkpoints

__all__ = ["GROUPS", "about_run", "by_epoch", "calibration", "data_facts", "definitions", "measured"]
__all__ += ["run_page"]

GROUPS = ("head", "middle", "tail")
LOSSES, PAIRS_WITH_PICTURES, PICTURES_OF_A_PAIR, PAIRS = 24, 6, 4, 200


def run_page(found: FinishedRun, test: Split | None = None) -> dict[str, Any]:
    """Everything that ``run.html`` shows; `test` are the test images, None: opened again where they lie."""
    losses, pairs = found.largest_losses(LOSSES), found.mistakes
    examples = {pair: _examples(found, pair) for pair in pairs[:PAIRS_WITH_PICTURES]}
    shown = [*losses, *(row for rows in examples.values() for row in rows)]
    pictures = Pictures.of(found, test, shown)
    return {
        "title": f"{titled(found.recipe.data.name, found.recipe.name)} · {found.title}",
        "found": found,
        "facts": data_facts(found),
        "measures": [_measure_row(found, name, one) for name, one in measured([found])[0].items()],
        "ece": found.scores.measures["ece"],
        "resamples": RESAMPLES,
        "single": int((found.support == 1).sum()),
        "counts": _count_chart(found),
        "scatter": _accuracy_chart(found),
        "classes": class_rows(found),
        "confusion": confusion_matrix(found),
        "pairs": [_pair(found, pair) for pair in pairs[:PAIRS]],
        "all_pairs": len(pairs),
        "examples": [
            _pair(found, pair) | {"images": _images(found, pictures, rows)} for pair, rows in examples.items()
        ],
        "losses": _images(found, pictures, losses),
        "pictures": pictures,
        "calibration": calibration(found),
        "curves": curves(found),
        "norms": _norm_chart(found),
        "kept": kept_epoch(found),
        "about": about_run(found),
    }


def measured(runs: Sequence[FinishedRun]) -> list[dict[str, Interval | None]]:
    """Each measure but ECE of each run with its interval; None without a test image for it."""
    first = runs[0]
    resampled = resampled_measures(
        first.label, [one.prediction for one in runs], first.groups, len(first.names)
    )
    return [
        {
            measure.name: None
            if (value := found.scores.measures[measure.name]) is None
            else interval(value, own[measure.name])
            for measure in MEASURES
            if measure.name != "ece"
        }
        for found, own in zip(runs, resampled, strict=True)
    ]


def definitions(found: FinishedRun) -> dict[str, str]:
    """What each measure is, in words, with the classes of each group."""
    groups = found.groups
    texts = {
        "accuracy": "correct images of all test images",
        "balanced_accuracy": "mean of the accuracies of the classes: every class counts the same",
        "macro_f1": "mean of the F1 of the classes; F1 = 2·precision·recall / (precision + recall)",
        "many": "classes with more than 100 training images",
        "medium": "classes with 20 to 100 training images",
        "few": "classes with fewer than 20 training images",
    }
    place = {"head": "most", "middle": "next most", "tail": "fewest"}
    for name in GROUPS:
        texts[name] = f"{_classes(len(groups[name]))} with the {place[name]} training images"
    for name, labels in groups.items():
        counts = [int(found.train[label]) for label in labels]
        if not counts:
            texts[name] += ": none"
            continue
        size = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
        texts[name] += (
            f" ({size}{' each' if len(counts) > 1 else ''})" if name in GROUPS else f": {len(labels):,}"
        )
        if untested := sum(found.support[label] == 0 for label in labels):
            texts[name] += f"; {_classes(untested)} of them without a test image, not counted"
    return texts


def _measure_row(found: FinishedRun, name: str, one: Interval | None) -> dict[str, Any]:
    title = next(measure.title for measure in MEASURES if measure.name == name)
    chart = one and bar(*one, f"{title} {one.value:.2f} percent, interval {one.low:.2f} to {one.high:.2f}")
    return {"name": name, "title": title, "about": definitions(found)[name], "interval": one, "bar": chart}


def data_facts(found: FinishedRun) -> str:
    """Classes and images in one line."""
    train = found.train
    factor = train.max() / max(train.min(), 1)
    return (
        f"{_classes(len(train))}, {train.sum():,} training images ({train.max():,} to {train.min():,} a "
        f"class, imbalance factor {factor:.3g}), {len(found.label):,} test images"
    )


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count:,} classes"


def class_rows(found: FinishedRun) -> list[dict[str, Any]]:
    """One row a class, by falling training count; percent, None without test images or predictions."""
    wrong: dict[int, Pair] = {}
    for pair in found.mistakes:
        wrong.setdefault(pair.label, pair)
    return [
        {
            "label": label,
            "name": found.names[label],
            "group": found.group_of[label],
            "train": int(found.train[label]),
            "test": (support := int(found.support[label])),
            "precision": 100 * right / taken if (taken := int(found.predicted[label])) else None,
            "recall": 100 * right / support if support else None,
            "f1": 200 * right / (support + taken) if support else None,
            "wrong": found.names[wrong[label].prediction] if label in wrong else "",
            "wrong_images": wrong[label].images if label in wrong else 0,
        }
        for label in found.order
        for right in (int(found.correct[label]),)
    ]


def _count_chart(found: FinishedRun) -> Markup:
    order = found.order
    axes = (
        linear("rank of the class", [1, len(order)], whole=True),
        logarithmic("training images", found.train.tolist()),
    )
    points = [
        Dot(rank, max(int(found.train[label]), 1), found.group_of[label], _told(found, label))
        for rank, label in enumerate(order, 1)
    ]
    return dots(*axes, points, "Training images of each class, by rank").markup


def _accuracy_chart(found: FinishedRun) -> Markup:
    points = [
        Dot(row["train"], row["recall"], row["group"], _told(found, row["label"], row["recall"]), row["name"])
        for row in class_rows(found)
        if row["recall"] is not None and row["train"]
    ]
    axes = logarithmic("training images", found.train.tolist()), percent_axis()
    means = {name: mean(point.y for point in points if point.kind == name) for name in GROUPS}
    levels = {name: level for name, level in means.items() if level is not None}
    return dots(*axes, points, "Accuracy of each class against its training images", levels=levels).markup


def _told(found: FinishedRun, label: int, recall: float | None = None) -> str:
    text = f"{found.names[label]}: {int(found.train[label]):,} training images"
    return text if recall is None else f"{text}, {recall:.1f} % of {int(found.support[label]):,} test images"


def _pair(found: FinishedRun, pair: Pair) -> dict[str, Any]:
    return {
        "label": found.names[pair.label],
        "prediction": found.names[pair.prediction],
        "count": pair.images,
        "share": 100 * pair.images / int(found.support[pair.label]),
        "label_train": int(found.train[pair.label]),
        "prediction_train": int(found.train[pair.prediction]),
    }


def _examples(found: FinishedRun, pair: Pair) -> list[int]:
    """Rows of the images of a pair of which the network was most sure."""
    rows = np.flatnonzero((found.label == pair.label) & (found.prediction == pair.prediction))
    surest = rows[np.argsort(-found.confidence[rows], kind="stable")]
    return [int(row) for row in surest[:PICTURES_OF_A_PAIR]]


def _images(found: FinishedRun, pictures: Pictures, rows: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "uri": pictures.uris.get(int(found.index[row])),
            "name": pictures.name(int(found.index[row])),
            "label": found.names[found.label[row]],
            "prediction": found.names[found.prediction[row]],
            "confidence": 100 * found.confidence[row],
            "label_probability": 100 * found.label_probability[row],
            "loss": -math.log(max(float(found.label_probability[row]), 1e-38)),
        }
        for row in rows
    ]


def calibration(found: FinishedRun) -> list[dict[str, Any]]:
    """Confidence and accuracy of all images and of those of each group, with a reliability diagram."""
    whole = {"all images": np.ones(len(found.label), dtype=bool)}
    masks = whole | {name: found.of_group(name) for name in GROUPS}
    rows = []
    for name, chosen in masks.items():
        bins = found.bins(chosen)
        if not (images := int(bins.images.sum())):
            rows.append({"name": name, "images": 0})
            continue
        columns = (bins.images.tolist(), bins.correct.tolist(), bins.confidence.tolist())
        about = f"Reliability diagram of {name}"
        kind = "all" if name == "all images" else name
        confidence, accuracy = (100 * one.sum() / images for one in (bins.confidence, bins.correct))
        diagram = reliability(*columns, kind, about)
        row = {"name": name, "images": images, "confidence": confidence, "accuracy": accuracy}
        rows.append(row | {"gap": confidence - accuracy, "error": bins.error, "diagram": diagram})
    return rows


def curves(found: FinishedRun) -> list[dict[str, Any]]:
    """Accuracy, loss and learning rate by epoch: charts with their legends."""
    metrics = found.run.metrics
    if not metrics:
        return []
    epochs = linear("epoch", [entry["epoch"] for entry in metrics], floor=0, whole=True)
    phases: dict[float, str] = {}
    for before, entry in zip([None, *metrics], metrics, strict=False):
        if before is None or before["phase"] != entry["phase"]:
            phases[entry["epoch"] - 1] = one_line(str(entry["phase"]))
    marks = phases if len(phases) > 1 else {}
    if kept := found.summary.get("kept"):
        marks[kept["epoch"]] = "kept"
    percent = percent_axis()
    sets = {name: by_epoch(metrics, name, "accuracy") for name in ("train", "validation", "test")}
    groups = {f"group {name}": by_epoch(metrics, "test", name) for name in GROUPS}
    loss = {"train": by_epoch(metrics, "train", "loss")}
    rate = {"rate": [(entry["epoch"], entry["lr"]) for entry in metrics if entry["lr"] > 0]}
    charts: list[tuple[str, Axis, Mapping[str, list[tuple[float, float]]]]] = [
        ("Accuracy", percent, sets),
        ("Test accuracy of each group", percent, groups),
        ("Loss on the training images", linear("loss", _values(loss), floor=0), loss),
        ("Learning rate", logarithmic("learning rate", _values(rate)), rate),
    ]
    return [
        {
            "title": title,
            "chart": lines(epochs, axis, series, f"{title} by epoch", marks).markup,
            "legend": [kind for kind, points in series.items() if points] if len(series) > 1 else [],
        }
        for title, axis, series in charts
        if _values(series)
    ]


def kept_epoch(found: FinishedRun) -> str:
    """Which epoch's network the results are of, and why, in a sentence."""
    kept, by = found.summary.get("kept"), found.recipe.trainer.best_by
    if not kept:
        return "The results are those of the last epoch."
    name = next(measure.title for measure in MEASURES if measure.name == by)
    return (
        f"The results are those of epoch {kept['epoch']}, whose network is kept: of the epochs of the last "
        f"phase it has the best {name} on the validation images, {kept['validation']:.2f} percent. "
        "The test images chose nothing."
    )


def by_epoch(metrics: Sequence[Mapping[str, Any]], part: str, name: str) -> list[tuple[float, float]]:
    """Epoch and value of a measure of the training, validation or test images, where it was measured."""
    values = ((entry["epoch"], (entry[part] or {}).get(name)) for entry in metrics)
    return [(epoch, value) for epoch, value in values if value is not None]


def _values(series: Mapping[str, Sequence[tuple[float, float]]]) -> list[float]:
    return [y for points in series.values() for _, y in points]


def _norm_chart(found: FinishedRun) -> Markup | None:
    """‖w_c‖₂ of the classifier against the training count; None without a checkpoint that has them."""
    checkpoints = Checkpoints(found.run.checkpoints)
    try:
        weight = checkpoints.parameter(checkpoints.kept_epoch(), "head.weight")
    except InputError:
        return None
    if weight is None or weight.ndim != 2 or len(weight) != len(found.names):
        return None
    norms = np.linalg.norm(weight.astype(np.float64), axis=1).tolist()
    points = [
        Dot(
            max(int(found.train[label]), 1),
            norms[label],
            found.group_of[label],
            f"{_told(found, label)}, norm {norms[label]:.3g}",
        )
        for label in found.order
    ]
    axes = logarithmic("training images", found.train.tolist()), linear("norm of w", norms, floor=0)
    return dots(*axes, points, "Norm of the classifier's weights of each class").markup


def about_run(found: FinishedRun) -> dict[str, Any]:
    """What was trained with what."""
    environment, summary = found.run.environment, found.summary
    return {
        "settings": [text.partition("=")[::2] for text in changed_settings(found.recipe)],
        "recipe": dump_recipe(found.recipe),
        "hardware": environment["hardware"],
        "versions": ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
        "commit": environment["commit"] or "unknown (an installed package)",
        "command": environment["command"],
        "earlier": environment.get("earlier", []),
        "time": duration(summary["seconds"]),
        "rate": f"{summary['images_per_second']:,.0f}",
    }


def duration(seconds: float) -> str:
    """A time in words.

    >>> [duration(one) for one in (9.4, 95, 7384)]
    ['9.4 s', '1 min 35 s', '2 h 3 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {round(seconds % 60):d} s"
