"""An adjustment of logits, temperature and shares of the classes, as it is saved beside a run."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ffds.data.sources.folder import read_text
from ffds.errors import InputError, nearest
from ffds.inference.network import class_names
from ffds.run_contents import checked
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoint

__all__ = ["FILE", "Adjusted", "Adjustment", "Calibration", "class_shares", "log_ratio", "saved_adjustment"]

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


Calibration = dict[str, dict[str, float | None]]
"""For all images and each group: accuracy and ECE in percent, mean NLL in nats."""


FILE = "adjustment.json"
"""In the run directory."""


class Adjustment(BaseModel):
    """How logits z of a run become others: z_c / T + τ (log π_new(c) − log π_train(c)).

    With uniform π_new this is temperature scaling and the post-hoc logit adjustment of Menon et al. 2021.

    Attributes:
        temperature: T.
        tau: τ.
        prior: π_new by class name.
        chosen_by: what chose τ on the validation images; ``given`` where the user did.
        validation_images: how many there were.
        epoch: of the checkpoint it was fitted to.
        step: of the epoch after that.
        before: accuracy, ECE and NLL on validation and test images, without it.
        after: the same with it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    temperature: float = Field(gt=0, allow_inf_nan=False)
    tau: float = Field(ge=0, allow_inf_nan=False)
    prior: dict[str, float]
    chosen_by: str
    validation_images: int
    epoch: int
    step: int
    before: dict[str, Calibration]
    after: dict[str, Calibration]

    def bias(self, names: Sequence[str], class_counts: Sequence[int]) -> Tensor:
        """τ (log π_new(c) − log π_train(c)), float64 (classes,)."""
        return self.tau * log_ratio([self.prior[name] for name in names], class_counts)

    def applied_to(self, network: nn.Module, checkpoint: Checkpoint) -> Adjusted:
        """A network that gives the adjusted logits."""
        bias = self.bias(class_names(checkpoint), checkpoint.identity["class_counts"])
        return Adjusted(network, self.temperature, bias)

    def __str__(self) -> str:
        return f"temperature {self.temperature:.3f}, tau {self.tau:g}"


def saved_adjustment(run: Run, checkpoint: Checkpoint) -> Adjustment | None:
    """The adjustment beside a run, None if there is none.

    Raises:
        InputError: it is damaged, or was fitted to another checkpoint or other classes.
    """
    file, fix = run.path / FILE, "fit it again: ffds adjust RUN; or leave it out: --raw"
    if not file.is_file():
        return None
    try:
        found = Adjustment.model_validate(checked(file.read_bytes(), Adjustment))
    except (OSError, ValueError) as error:
        raise InputError("an adjustment cannot be read", where=file, got=error, fix=fix) from error
    reached = checkpoint.state["reached"]
    if (found.epoch, found.step) != (reached["epoch"], reached["step"]):
        what, got = "the adjustment was fitted to another checkpoint", f"that of epoch {found.epoch}"
        raise InputError(what, where=file, got=got, allowed=f"that of epoch {reached['epoch']}", fix=fix)
    if list(found.prior) != class_names(checkpoint):
        raise InputError("the adjustment is one of other classes", where=file, fix=fix)
    return found
