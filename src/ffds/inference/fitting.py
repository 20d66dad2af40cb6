"""Fits temperature and logit adjustment on the validation images of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from ffds.data.open import open_dataset
from ffds.errors import InputError
from ffds.files import write_json
from ffds.inference.adjustment import FILE, Adjustment
from ffds.inference.calibration import balanced_accuracy, balanced_nll, calibration, fitted_temperature
from ffds.inference.load import in_classes, loaded, logits_of, refuse_changed
from ffds.inference.network import class_names
from ffds.inference.priors import class_shares, log_ratio
from ffds.run_directory import Run

__all__ = ["Criterion", "adjust_run"]

TAUS = tuple(step / 20 for step in range(41))
"""Strengths that are tried: 0 to 2."""

Criterion = Literal["balanced_accuracy", "nll"]


def adjust_run(
    run: Run,
    overrides: Sequence[str] = (),
    *,
    prior: str = "uniform",
    tau: float | None = None,
    by: Criterion = "balanced_accuracy",
) -> Adjustment:
    """Fit temperature and τ on the validation images of a run, and save them beside it.

    T minimises the NLL. τ is the best of 0, 0.05, …, 2 by balanced accuracy, or by the mean over the classes
    of their NLL, where `prior` is ``uniform``; for another one, which says what the shares will be, it is 1.
    The test images choose nothing.

    Args:
        run: finished or not.
        overrides: where the images are by now, ``data.root=DIR`` and the like.
        prior: ``uniform``, ``train`` or a file, see `class_shares`.
        tau: τ; None chooses it.
        by: what chooses it.

    Raises:
        InputError: the run held no validation images out, or its images are not there or have changed.

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 9.
    """
    if tau is not None and not 0 <= tau < float("inf"):
        raise InputError("tau is not negative", where="--tau", got=tau, allowed="0 or more")
    recipe, checkpoint = loaded(run, overrides)
    names, counts = class_names(checkpoint), checkpoint.identity["class_counts"]
    shares = class_shares(prior, names, counts)
    dataset = open_dataset(recipe.data)
    refuse_changed(run, recipe, checkpoint, dataset)
    if dataset.validation is None:
        what = "the run held no validation images out, on which to fit an adjustment"
        fix = "train with some: data.validation=0.1"
        raise InputError(what, where=run.path, got=f"data.validation={recipe.data.validation:g}", fix=fix)
    found = {
        name: logits_of(recipe, checkpoint, in_classes(checkpoint, dataset, split))
        for name, split in (("validation", dataset.validation), ("test", dataset.test))
    }
    logits, labels = found["validation"]
    if not bool(logits.isfinite().all()):
        raise InputError("the network's output is not finite on a validation image", where=run.path)
    temperature, ratio = fitted_temperature(logits, labels), log_ratio(shares, counts)

    def adjusted(strength: float, given: Tensor) -> Tensor:
        return given / temperature + strength * ratio

    def score(strength: float) -> float:
        if by == "nll":
            return -balanced_nll(adjusted(strength, logits), labels)
        return balanced_accuracy(adjusted(strength, logits), labels)

    chosen = tau if tau is not None else max(TAUS, key=score) if prior == "uniform" else 1.0
    reached: dict[str, Any] = checkpoint.state["reached"]
    adjustment = Adjustment(
        temperature=temperature,
        tau=chosen,
        prior=dict(zip(names, shares, strict=True)),
        chosen_by=by if tau is None and prior == "uniform" else "given",
        validation_images=len(labels),
        epoch=reached["epoch"],
        step=reached["step"],
        before={name: calibration(*one, counts, recipe.data.cut) for name, one in found.items()},
        after={
            name: calibration(adjusted(chosen, given), target, counts, recipe.data.cut)
            for name, (given, target) in found.items()
        },
    )
    write_json(run.path / FILE, adjustment.model_dump())
    return adjustment
