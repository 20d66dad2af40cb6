"""An adjustment of logits, temperature and class prior, as it is saved beside a run."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ffds.errors import InputError
from ffds.inference.calibration import Calibration
from ffds.inference.network import class_names
from ffds.inference.priors import Adjusted, log_ratio
from ffds.run_contents import checked
from ffds.run_directory import Run
from ffds.training.checkpoint import Checkpoint

__all__ = ["FILE", "Adjustment", "saved_adjustment"]

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
