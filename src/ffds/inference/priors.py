"""Shares of the classes where a network is used, which may be others than where it was trained."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ffds.data.sources.folder import read_text
from ffds.errors import InputError, nearest

__all__ = ["Adjusted", "class_shares", "log_ratio"]

FORMS = 'lines CLASS,SHARE in FILE.csv, or {"CLASS": SHARE, …} in FILE.json, or uniform, or train'


class Adjusted(nn.Module):
    """Logits z of a network as z / T + b, with a temperature T and one bias b_c for each class."""

    bias: Tensor

    def __init__(self, network: nn.Module, temperature: float, bias: Tensor) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        self.register_buffer("bias", bias.float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, …) → logits (N, classes)."""
        logits: Tensor = self.network(images).float() / self.temperature + self.bias
        return logits


def log_ratio(shares: Sequence[float], class_counts: Sequence[int]) -> Tensor:
    """Log π_new(c) − log π_train(c), float64 (classes,), where π_train are the shares of the training images.

    Added to logits it turns the probabilities p of a network into p'(c) ∝ p(c) · π_new(c) / π_train(c).
    """
    train = torch.tensor(class_counts, dtype=torch.float64)
    return torch.tensor(shares, dtype=torch.float64).log() - (train / train.sum()).log()


def class_shares(asked: str, class_names: Sequence[str], class_counts: Sequence[int]) -> tuple[float, ...]:
    """The shares of the classes, which add up to 1: ``uniform``, ``train``, or those in a file.

    Raises:
        InputError: the file cannot be read, names no such class or one twice, lacks one, or a share is not
            above 0.
    """
    if asked == "uniform":
        return (1 / len(class_names),) * len(class_names)
    if asked == "train":
        return tuple(count / sum(class_counts) for count in class_counts)
    file = Path(asked)
    pairs = _pairs(file)
    shares: dict[str, float] = {}
    for name, share in pairs:
        if name not in class_names:
            fix = nearest(name, class_names)
            raise InputError("no such class", where=file, got=name, allowed=", ".join(class_names), fix=fix)
        if name in shares:
            raise InputError("a class has two shares", where=file, got=name)
        if not (share > 0 and math.isfinite(share)):
            raise InputError("the share of a class is not above 0", where=file, got=f"{name}: {share}")
        shares[name] = share
    if missing := [name for name in class_names if name not in shares]:
        raise InputError("classes have no share", where=file, got=", ".join(missing), allowed=FORMS)
    return tuple(shares[name] / sum(shares.values()) for name in class_names)


def _pairs(file: Path) -> list[tuple[str, float]]:
    text = read_text(file, FORMS)
    try:
        if file.suffix.lower() == ".json":
            return [(name, float(share)) for name, share in json.loads(text).items()]
        rows = [row for row in csv.reader(text.splitlines()) if row]
        if rows and not _is_number(rows[0][-1]):
            del rows[0]  # the names of the columns
        return [(name.strip(), float(share)) for name, share in rows]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise InputError("no shares of classes", where=file, got=error, allowed=FORMS) from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
