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


def compile_model(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, compiled at its first call; the model itself, with a warning, where no compiler works."""
    try:
        # A function of one line first: a missing compiler is a warning now, not an error in the first step.
        with _silent_stderr():
            torch.compile(lambda x: x + 1)(torch.zeros(1, device=device))
    except Exception as error:  # torch wraps a compiler's failure in various exceptions
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        what = "trainer.compile is on, but torch.compile does not work here; training goes on without, slower"
        got = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        fix = "install a C++ compiler (g++), or trainer.compile=false"
        print(f"warning: {InputError(what, got=got, fix=fix)}", file=sys.stderr, flush=True)
        return model
    from torch._inductor import config  # takes a second to import

    # With tiling heuristics, where this torch has them, the gradient of batch norm and ReLU is not vectorized
    # on a CPU, and is summed over the pixels of 16 channels on a single thread.
    has_heuristics = hasattr(config.cpp, "enable_tiling_heuristics")
    options: dict[str, Any] = {"cpp.enable_tiling_heuristics": False} if has_heuristics else {}
    compiled: Any = torch.compile(model, dynamic=False, options=options)
    network: nn.Module = compiled
    return network


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what compilers write to standard error; that they fail is known from the exception."""
    sys.stderr.flush()
    with Path(os.devnull).open("w") as nowhere:
        terminal = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
