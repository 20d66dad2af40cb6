"""A classifier in closed form in place of training steps, one of several where validation images choose."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from ffds.data.dataset import Dataset
from ffds.errors import note
from ffds.methods.base import ClosedForm
from ffds.models.build import Classifier
from ffds.recipes.schema import Recipe
from ffds.training.features import class_means, features_of, training_features

__all__ = ["Fitted", "fitted"]


class Fitted(NamedTuple):
    """A classifier by the names of its tensors, its logits (N, C) of training images, and their labels."""

    head: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor


@torch.no_grad()
def fitted(
    fabric: Fabric, recipe: Recipe, network: Classifier, dataset: Dataset, fit: ClosedForm, *, shown: bool
) -> Fitted:
    """The classifier that takes the place of the network's, the same on every rank.

    Of several candidates it is the one with the best balanced accuracy on the validation images; of equal
    ones the first.
    """
    means = partial(class_means, fabric, recipe, network, dataset.train, shown=shown)
    head = {name: tensor.detach() for name, tensor in network.head.state_dict().items()}
    candidates = fit.candidates(head, dataset.class_counts, means)
    chosen = next(iter(candidates))
    if len(candidates) > 1 and dataset.validation is not None:
        held = dataset.validation
        features = features_of(fabric, recipe.data, network, held, "validation", shown=shown)
        scores = {
            key: _balanced_accuracy(_logits(network.head, one, features), held.labels)
            for key, one in candidates.items()
        }
        chosen = fabric.broadcast(max(scores, key=lambda key: scores[key]))
        if shown and fabric.is_global_zero:
            best = f"balanced accuracy {scores[chosen]:.2f} % on {len(held):,} validation images"
            note(f"τ = {chosen:g} is chosen: {best}")
    features = training_features(fabric, recipe, network, dataset.train, shown=shown)
    labels = torch.from_numpy(dataset.train.labels)
    return Fitted(candidates[chosen], _logits(network.head, candidates[chosen], features), labels)


def _logits(head: nn.Module, values: Mapping[str, Tensor], features: NDArray[np.float32]) -> Tensor:
    """Logits (N, C) on the CPU that a head with these values makes of features (N, D)."""
    other = copy.deepcopy(head)
    other.load_state_dict(values)
    logits: Tensor = other.cpu()(torch.from_numpy(np.asarray(features)))
    return logits


def _balanced_accuracy(logits: Tensor, labels: NDArray[np.int64]) -> float:
    """Mean over the classes that have images of their accuracy, in percent."""
    right = (logits.argmax(1).numpy() == labels).astype(np.float64)
    return 100 * float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
