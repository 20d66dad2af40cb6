"""Finished runs written without training: plausible numbers in the files that tables and figures read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from ffds.errors import FfdsError
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.manifest import manifest_text

ENVIRONMENT = {
    **{"hardware": "2 cores of X", "versions": {"python": "3.11", "torch": "2.13"}},
    **{"commit": "abc", "command": "ffds table 1a"},
}
FINAL = {"ce": (63.0, 34.0, 6.0), "cb-fl": (55.0, 36.0, 16.0), "ffds": (54.0, 38.0, 24.0)}
"""Test accuracy of head, middle and tail that a method ends with; D-FFDS takes that of FFDS."""


def recipe(*overrides: str, name: str = "cifar100-lt-100", method: str = "d-ffds") -> Recipe:
    return load_recipe(name, overrides, method=method).recipe


def write_run(
    out: Path,
    one: Recipe,
    *,
    last: float = 40.0,
    best: float | None = 41.0,
    environment: dict[str, object] = ENVIRONMENT,
    classes: int = 100,
    checkpoint: bool = True,
    counts: Sequence[int] | None = None,
) -> Run:
    """A finished run below `out`."""
    run = Run.of(one, out)
    run.path.mkdir(parents=True)
    run.start(one, environment)
    noise = np.random.default_rng(one.trainer.seed)
    summary = _summary(one, last, best)
    for epoch in range(1, one.schedule.epochs + 1):
        entry = _epoch(one, epoch, classes, noise)
        if epoch == one.schedule.epochs:
            entry["test"] |= {"accuracy": last} | {
                group: summary[group] for group in ("head", "middle", "tail")
            }
        run.add_epoch(entry)
    run.finish(summary)
    if checkpoint:
        _checkpoint(run, one, classes, noise, counts)
    return run


def train_by_hand(patch: pytest.MonkeyPatch, **failing: FfdsError) -> list[tuple[str, int]]:
    """Have `train_all` write finished runs; those of the methods that are named fail.

    Returns:
        Method and seed of each run that was asked for, filled as it is called.
    """
    asked: list[tuple[str, int]] = []

    def train_all(recipes: Sequence[Recipe], *, out: str | Path, **_: object) -> dict[Path, FfdsError]:
        asked.extend((one.method.name, one.trainer.seed) for one in recipes)
        failed = [one for one in recipes if one.method.name in failing]
        for one in recipes:
            if one not in failed:
                write_run(Path(out), one, last=40.0 + one.trainer.seed)
        return {Run.of(one, out).path: failing[one.method.name] for one in failed}

    patch.setattr("ffds.jobs.engine.train_all", train_all)
    return asked


def _epoch(one: Recipe, epoch: int, classes: int, noise: np.random.Generator) -> dict[str, Any]:
    grown = 1 - math.exp(-4 * epoch / one.schedule.epochs)
    final = FINAL.get(one.method.name, FINAL["ffds"])
    test = [max(value * grown + noise.normal(0, 1.5), 0.0) for value in final]
    gaps = (30, 45, 65) if one.method.name == "cb-fl" else (20, 28, 40)
    train = [min(value + gap * grown, 100.0) for value, gap in zip(test, gaps, strict=True)]
    by_rank = np.interp(np.linspace(0, 1, classes), (0, 0.5, 1), test) + noise.normal(0, 6, classes)
    tested = {"accuracy": 40.0, **_groups(test), "per_class": np.clip(by_rank, 0, 100).round().tolist()}
    return {
        **{"epoch": epoch, "phase": one.method.name, "lr": 0.1},
        **{"train": {"loss": 1.0, "accuracy": 50.0, **_groups(train)}, "test": tested, "validation": None},
        **{"seconds": 1.0, "images_per_second": 1000.0},
    }


def _groups(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("head", "middle", "tail"), values, strict=True))


def _summary(one: Recipe, last: float, best: float | None) -> dict[str, object]:
    return {
        **{"recipe": one.name, "method": one.method.name, "seed": one.trainer.seed},
        **{"config_hash": one.config_hash, "epochs": one.schedule.epochs},
        "accuracy": {"last": last, "best_on_test": best, "best_epoch": None if best is None else 3},
        **{"balanced_accuracy": last, "macro_f1": last, "ece": 20.0},
        **{"head": 60.0, "middle": 35.0, "tail": 5.5, "many": 60.0, "medium": 35.0, "few": None},
        **{"train_accuracy": 90.0, "seconds": 12.5, "images_per_second": 1000.0},
    }


def _checkpoint(
    run: Run, one: Recipe, classes: int, noise: np.random.Generator, counts: Sequence[int] | None
) -> None:
    directory = run.checkpoints / f"epoch-{one.schedule.epochs:04d}"
    directory.mkdir(parents=True)
    steepness = {"ce": 0.9, "cb-fl": 0.5}.get(one.method.name, 0.15)
    lengths = 2 - steepness * np.linspace(0, 1, classes) + noise.normal(0, 0.05, classes)
    weight = np.zeros((classes, 4), dtype=np.float32)
    weight[np.arange(classes), np.arange(classes) % 4] = lengths
    model = save({"head.weight": weight, "head.bias": weight[:, 0].copy()})
    (directory / "model.safetensors").write_bytes(model)
    counts = counts or [int(500 * 100 ** (-c / (classes - 1))) for c in range(classes)]
    manifest = manifest_text({"class_counts": counts}, {"model.safetensors": model})
    (directory / "manifest.json").write_text(manifest)
