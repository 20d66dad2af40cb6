"""The conventional training loop: images one by one through PIL in loader workers, an eager network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ffds.data.dataset import Split
from ffds.recipes.schema import Data

__all__ = ["PictureDataset", "eval_transform", "evaluate", "loader", "train_epoch", "train_transform"]

Batches = Iterable[tuple[Tensor, Tensor]]


class PictureDataset(Dataset[tuple[Tensor, int]]):
    """An array of images that gives transformed PIL images, like ``torchvision.datasets.CIFAR10``.

    Args:
        split: the images.
        transform: PIL image → tensor.
    """

    def __init__(self, split: Split, transform: transforms.Compose) -> None:
        self.data = split.images
        self.targets: list[int] = split.labels.tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.data[index].squeeze())
        return self.transform(picture), self.targets[index]

    def __len__(self) -> int:
        return len(self.data)


def train_transform(data: Data, side: int) -> transforms.Compose:
    """Random crop of the padded image, random mirror image, tensor, normalisation.

    Args:
        data: the recipe's section.
        side: of the images.
    """
    return transforms.Compose(
        [
            transforms.RandomCrop(side, padding=data.padding),
            transforms.RandomHorizontalFlip(),
            *eval_transform(data).transforms,
        ]
    )


def eval_transform(data: Data) -> transforms.Compose:
    """Tensor, normalisation."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])


def loader(
    dataset: PictureDataset, *, batch_size: int, shuffle: bool, workers: int = 2, pinned: bool = False
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of pictures, made by worker processes.

    Args:
        dataset: the pictures.
        batch_size: of all batches but the last.
        shuffle: for training.
        workers: processes; 0 makes the batches in this one.
        pinned: batches in memory that a GPU reads directly, and workers that stay from epoch to epoch.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=pinned,
    )


def train_epoch(model: nn.Module, batches: Batches, loss: nn.Module, optimizer: Optimizer) -> float:
    """Train on every batch once, on the device of the network.

    Returns:
        Training accuracy in percent.
    """
    model.train()
    device = next(model.parameters()).device
    loss_sum, correct, total = 0.0, 0, 0
    for images, given in batches:
        labels = given.to(device, non_blocking=True)
        logits = model(images.to(device, non_blocking=True))
        value = loss(logits, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        loss_sum += value.item() * len(labels)
        correct += int((logits.argmax(dim=1) == labels).sum())
        total += len(labels)
    if not torch.isfinite(torch.tensor(loss_sum)):
        raise FloatingPointError("the conventional loop's loss is not finite")
    return 100 * correct / total


def evaluate(model: nn.Module, batches: Batches) -> float:
    """Accuracy in percent."""
    model.eval()
    correct, total = 0, 0
    with torch.no_grad():
        for images, labels in batches:
            correct += int((model(images).argmax(dim=1) == labels).sum())
            total += len(labels)
    return 100 * correct / total
