"""A loss of the user's own: what it has to be, and a trial of it before anything is trained."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffds.errors import InputError
from ffds.losses.base import EpochStatistics, RenewedByAccuracy

__all__ = ["check_is_loss", "try_loss"]

EXPECTED = "a torch.nn.Module that takes logits (N, C) and labels (N,) and returns a scalar to minimise"
MIXED = "take probabilities (N, C) as target: mixup and CutMix give them; or data.mixup=0 data.cutmix=0"
CALLS = 3


def check_is_loss(given: object) -> None:
    """Refuse what is not a module, and a module whose state is more than parameters and buffers.

    A function is refused because nothing would tell one function from another when a run goes on.
    """
    if not isinstance(given, nn.Module):
        fix = "put it into the forward of a torch.nn.Module"
        if isinstance(given, type) and issubclass(given, nn.Module):
            fix = f"give an instance: loss={given.__name__}(…)"
        raise InputError("this is not a loss", got=f"loss={given!r}", allowed=EXPECTED, fix=fix)
    tensors = {name for name, _ in (*given.named_parameters(), *given.named_buffers())}
    if others := sorted(given.state_dict().keys() - tensors):
        fix = "keep its state in parameters and buffers: self.register_buffer(NAME, TENSOR)"
        raise InputError("a checkpoint cannot hold the state of the loss", got=", ".join(others), fix=fix)


def try_loss(loss: nn.Module, num_classes: int, device: torch.device, *, mixes: bool = False) -> None:
    """Call a copy of the loss on made logits as a training would; among several ranks, on all of them.

    Where images are mixed, by mixup or CutMix, it is given probabilities (N, C) instead of labels.

    Raises:
        InputError: it fails, returns no scalar that depends on the logits, or changes state that is neither
            parameter nor buffer, which a run that goes on from a checkpoint would lose. Attributes whose name
            begins with an underscore are not looked at.
    """
    rows = 9 if num_classes == 8 else 8  # never as many as classes: no dimension stands for the other
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(rows, device=device) % num_classes
    if mixes:
        target = F.one_hot(target, num_classes).float()
        target = 0.75 * target + 0.25 * target.roll(1, dims=0)
    try:
        tried = copy.deepcopy(loss).to(device).train()
        shapes, before = _shapes(tried), dict(_unsaved(tried))
        for _ in range(CALLS):
            logits = torch.randn(rows, num_classes, generator=generator).to(device).requires_grad_()
            value = tried(logits, target)
            _check_scalar(value)
            value.backward()
            if logits.grad is None:
                raise _refused(f"its value does not depend on the logits: {value}")
        if isinstance(tried, EpochStatistics):
            tried.end_epoch()
        if isinstance(tried, RenewedByAccuracy):
            tried.renew(torch.full((num_classes,), 0.5, dtype=torch.float64))
    except InputError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise _refused(f"{type(error).__name__}: {error}", MIXED if mixes else "") from error
    after = dict(_unsaved(tried))
    changed = [name for name in after if after[name] != before.get(name)]
    changed += [name for name, shape in _shapes(tried).items() if shape != shapes.get(name)]
    if changed:
        what = "the loss changes state that no checkpoint could restore"
        fix = (
            "make it a buffer of fixed shape in __init__ (self.register_buffer), random numbers torch's own; "
        )
        fix += "what is no state may be an attribute whose name begins with _"
        raise InputError(what, got=", ".join(changed), fix=fix)


def _check_scalar(value: Any) -> None:
    if not isinstance(value, Tensor):
        raise _refused(f"it returns {type(value).__name__}")
    if value.shape != ():
        raise _refused(f"it returns a tensor {tuple(value.shape)}", fix='reduction="mean"')
    if not value.requires_grad:
        raise _refused("its value has no gradient")


def _refused(got: str, fix: str = "") -> InputError:
    return InputError("the loss cannot be trained with", got=got, allowed=EXPECTED, fix=fix)


def _shapes(loss: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in loss.state_dict().items()}


def _unsaved(loss: nn.Module) -> Iterator[tuple[str, bytes]]:
    """Everything a loss may remember beside what its `state_dict` holds, pickled."""
    saved = loss.state_dict().keys()
    kept: dict[str, object] = {name: one for name, one in loss.named_buffers() if name not in saved}
    for place, module in loss.named_modules():
        public = {name: one for name, one in vars(module).items() if not name.startswith("_")}
        kept |= {
            f"{place}.{name}".removeprefix("."): one for name, one in public.items() if name != "training"
        }
    kept |= {"random": random.getstate(), "numpy.random": np.random.get_state()}  # noqa: NPY002
    for name, value in kept.items():
        try:
            yield name, pickle.dumps(value)
        except Exception:  # a lock, a lambda: nothing that counts steps
            continue
