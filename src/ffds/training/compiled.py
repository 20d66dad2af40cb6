"""`torch.compile` where it works, and the network as it is where it does not."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from ffds.training.folding import folding_compiler

__all__ = ["compiled"]


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, to be compiled when it is first called; as it is where no compiler works.

    A function of one line is compiled first, so that a missing compiler is a warning now and not an error in
    the midst of the first step.

    Args:
        model: a network.
        device: where it will run: a C++ compiler is needed on the CPU, Triton on a GPU.
    """
    try:
        torch.compile(_probe)(torch.zeros(1, device=device))
    except Exception as error:  # whatever torch wraps around the fault of somebody else's compiler
        print(
            "warning: trainer.compile is on, but torch.compile does not work here; training goes on without "
            f"it, slower\n  got: {_reason(error)}\n"
            "  fix: install a C++ compiler (g++), or trainer.compile=false",
            file=sys.stderr,
            flush=True,
        )
        return model
    found: Any = torch.compile(model, dynamic=False, backend=folding_compiler)
    network: nn.Module = found
    return network


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _reason(error: BaseException) -> str:
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    return (str(innermost).strip() or type(innermost).__name__).splitlines()[0]
