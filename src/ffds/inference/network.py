"""The trained network of a run, built again from its recipe and a checkpoint, without its data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ffds.errors import InputError
from ffds.models.build import Classifier, build_model
from ffds.recipes.schema import Recipe
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoint, Checkpoints

__all__ = ["class_names", "kept_checkpoint", "trained_network"]


def kept_checkpoint(run: Run) -> Checkpoint:
    """The checkpoint that a run keeps for use: that of its best epoch, or the newest one that verifies.

    Raises:
        InputError: there is none, or none can be read.
    """
    checkpoint = Checkpoints(run.checkpoints).kept()
    if checkpoint is None:
        raise InputError("the run has no checkpoint yet", where=run.checkpoints)
    return checkpoint


def class_names(checkpoint: Checkpoint) -> list[str]:
    """The classes in label order; those of a checkpoint without names have numbers."""
    numbers = [str(label) for label in range(len(checkpoint.identity["class_counts"]))]
    return list(checkpoint.identity.get("class_names", numbers))


def trained_network(recipe: Recipe, checkpoint: Checkpoint) -> tuple[Classifier, int]:
    """The network with the weights of a checkpoint, on the CPU, and the channels C of its images.

    Raises:
        InputError: the checkpoint is that of another network.
    """
    classes = len(checkpoint.identity["class_counts"])
    for channels in (1, 3):
        network = build_model(
            recipe.model.untrained,
            head=recipe.head,
            head_scale=recipe.head_scale,
            num_classes=classes,
            in_channels=channels,
            seed=0,
        )
        if _shapes(network.state_dict()) == _shapes(checkpoint.model):
            break
    try:
        network.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise InputError("the checkpoint does not fit the network of its recipe", got=error) from error
    return network, channels


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
