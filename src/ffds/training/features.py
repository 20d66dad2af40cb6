"""Features of a frozen backbone, computed once, so that its classifier trains in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ffds.data.cache import cached
from ffds.data.dataset import Dataset, Split
from ffds.data.loader import EvalBatches
from ffds.data.source import Decoded, OnBad, Origin
from ffds.errors import note
from ffds.models.build import Classifier
from ffds.progress import Progress
from ffds.recipes.schema import Data, Recipe
from ffds.settings import json_digest
from ffds.training.evaluate import BATCH_SIZE

__all__ = ["are_constant", "class_means", "features_of", "training_features", "with_features"]

PREPROCESSING = ("image_size", "eval_resize", "interpolation", "mean", "std")
"""Settings of `data` that decide the pixels that the backbone sees."""


def are_constant(recipe: Recipe) -> bool:
    """Whether the features of an image are the same in every epoch.

    They are if the backbone is frozen throughout and no image is augmented.
    """
    return recipe.schedule.frozen_epochs == "all" and not recipe.augments


def with_features(
    fabric: Fabric, recipe: Recipe, network: Classifier, dataset: Dataset, *, shown: bool = True
) -> Dataset:
    """The dataset with the features that the network's backbone makes of each image, from the cache if there.

    The first process of each machine computes them, the others read what it has put into the cache. If
    `shown`, a line on standard error says which of both was done, and a terminal shows the progress.
    """
    shown = shown and fabric.is_global_zero
    splits = {"training": dataset.train, "test": dataset.test, "validation": dataset.validation}
    splits["training and synthetic"] = dataset.drawn
    # Without augmentation, training images are resized to data.image_size whole, not cropped to it.
    whole = recipe.data.model_copy(update={"eval_resize": None})
    how = {"training": whole, "training and synthetic": whole}
    with fabric.rank_zero_first(local=True):
        done = {
            name: replace(
                split, features=_features(fabric, how.get(name, recipe.data), network, split, name, shown)
            )
            for name, split in splits.items()
            if split is not None
        }
    test, validation, drawn = done["test"], done.get("validation"), done.get("training and synthetic")
    return replace(dataset, train=done["training"], test=test, validation=validation, drawn=drawn)


def class_means(
    fabric: Fabric, recipe: Recipe, network: Classifier, train: Split, *, shown: bool = True
) -> Tensor:
    """Mean of the backbone's features over the training images of each class, float32 (C, D), on every rank.

    Images are not augmented, but cut as in evaluation, after their short side was resized to the size of the
    network's input; a split that has features already is taken as it is.

    Source: Shi et al. 2024 (LIFT), section 4.2, and its released code.
    """
    features = training_features(fabric, recipe, network, train, shown=shown)
    labels = torch.from_numpy(train.labels)
    counts = labels.bincount()
    sums = torch.zeros(len(counts), features.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, torch.from_numpy(features).double())
    means = (sums / counts[:, None]).float().to(fabric.device)
    if fabric.world_size > 1:  # other hardware may round otherwise
        dist.broadcast(means, src=0)
    return means


def training_features(
    fabric: Fabric, recipe: Recipe, network: Classifier, train: Split, *, shown: bool = True
) -> NDArray[np.float32]:
    """Features (N, D) of the training images as `class_means` takes them, on every rank."""
    resize = recipe.data.eval_resize and recipe.data.image_size
    data = recipe.data.model_copy(update={"eval_resize": resize})
    return features_of(fabric, data, network, train, "training", shown=shown)


def features_of(
    fabric: Fabric, data: Data, network: Classifier, split: Split, name: str, *, shown: bool = True
) -> NDArray[np.float32]:
    """Features (N, D) of the images of a split, its own if it has them, on every rank."""
    if split.features is not None:
        return split.features
    with fabric.rank_zero_first(local=True):
        return _features(fabric, data, network, split, name, shown and fabric.is_global_zero)


def _features(
    fabric: Fabric, data: Data, network: Classifier, split: Split, name: str, shown: bool
) -> NDArray[np.float32]:
    images = FeaturesOfImages(fabric, data, network, split, name, shown)
    rows = np.arange(len(split))
    features: Any = (cached(images, rows, "stop") if data.cache else images.read(rows, "stop")).images
    if shown and not images.computed:
        note(f"features of {len(split):,} {name} images: read from the cache")
    return np.asarray(features, dtype=np.float32)


@dataclass
class FeaturesOfImages:
    """Features of the images of a split: what the cache keeps as it keeps decoded images.

    `computed` says whether they had to be; if `shown`, people are told when that begins.
    """

    fabric: Fabric
    data: Data
    network: Classifier
    split: Split
    name: str
    shown: bool
    computed: bool = False

    def read(self, rows: NDArray[np.int64], on_bad: OnBad) -> Decoded:
        """Features float32 (N, D) of the images at `rows`."""
        network, split = self.network, self.split.take(rows)
        self.computed = True
        if self.shown:
            kept = "computed, and kept in the cache" if self.data.cache else "computed"
            note(f"features of {len(split):,} {self.name} images: {kept}")
        batches = EvalBatches(split, self.data, batch_size=BATCH_SIZE, device=self.fabric.device)
        parts, was_training = [], network.training
        network.eval()
        title = f"features of the {self.name} images"
        with Progress(title, len(split), "images", shown=self.shown) as progress:
            for batch in batches:
                with torch.inference_mode(), self.fabric.autocast():
                    parts.append(network.backbone(batch.images).float().cpu())
                progress.advance(len(batch.labels))
        network.train(was_training)
        return Decoded(torch.cat(parts).numpy(), {})

    def origin(self, rows: NDArray[np.int64]) -> Origin:
        """All that decides the features: images, preprocessing, weights of the backbone, precision."""
        decided = {
            "images": self.split.digest,
            "preprocessing": {key: getattr(self.data, key) for key in PREPROCESSING},
            "backbone": _digest(self.network.backbone.state_dict()),
            "precision": str(self.fabric.strategy.precision.precision),
            "torch": torch.__version__,
        }
        place = f"{self.data.root or self.data.name} (features of the {self.name} images)"
        return Origin((Path(place) / "features",), json_digest(decided))


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
