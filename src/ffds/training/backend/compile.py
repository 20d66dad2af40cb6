"""`torch.compile` where it works; a warning and the network uncompiled where it does not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ffds.errors import InputError

__all__ = ["compile_model"]

_STDERR = 2


def compile_model(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, compiled at its first call; the model itself where no compiler works.

    A function of one line is compiled first, so that a missing compiler is a warning now and not an error in
    the first training step.

    Args:
        model: a network.
        device: where it will run: the CPU needs a C++ compiler, a GPU needs Triton.
    """
    try:
        with _silent_stderr():
            torch.compile(_probe)(torch.zeros(1, device=device))
    except Exception as error:  # torch wraps a compiler's failure in various exceptions
        what = (
            "trainer.compile is on, but torch.compile does not work here; training goes on without it, slower"
        )
        fix = "install a C++ compiler (g++), or trainer.compile=false"
        print(f"warning: {InputError(what, got=_cause(error), fix=fix)}", file=sys.stderr, flush=True)
        return model
    compiled: Any = torch.compile(model, dynamic=False, options=_options())
    network: nn.Module = compiled
    return network


def _options() -> dict[str, Any]:
    """Where this version of torch has tiling heuristics, turn them off.

    With them, torch does not vectorize the gradient of batch norm and ReLU on a CPU, and sums it over the
    pixels of 16 channels on a single thread.
    """
    from torch._inductor import config  # takes a second to import

    return {"cpp.enable_tiling_heuristics": False} if hasattr(config.cpp, "enable_tiling_heuristics") else {}


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what compilers write to standard error; that they fail is known from the exception."""
    sys.stderr.flush()
    with Path(os.devnull).open("w") as nowhere:
        terminal = os.dup(_STDERR)
        os.dup2(nowhere.fileno(), _STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            os.close(terminal)


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _cause(error: BaseException) -> str:
    """First line of the innermost exception's message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
