"""`torch.compile` where it works, and the network as it is where it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ffds.training.backend.folding import fold_batch_norms

__all__ = ["backend", "compile_model"]

# With it on, torch takes the gradient of batch norm and ReLU for hard to vectorize, and then sums it over the
# pixels of 16 channels on one thread, whatever their number.
_OFF = "enable_tiling_heuristics"


def compile_model(model: nn.Module, device: torch.device) -> nn.Module:
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
    found: Any = torch.compile(model, dynamic=False, backend=backend)
    network: nn.Module = found
    return network


def backend(graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """For `torch.compile`: its usual backend, with fewer operations where there are no gradients.

    Args:
        graph: what Dynamo saw.
        inputs: examples, all of them tensors.
    """
    # Takes a second to import, and is imported already where something is compiled.
    import torch._inductor as inductor
    from torch._inductor import config

    if not torch.is_grad_enabled():
        fold_batch_norms(graph)
    options = {f"cpp.{_OFF}": False} if hasattr(config.cpp, _OFF) else {}
    found: Callable[..., Any] = inductor.compile(graph, inputs, options)
    return found


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _reason(error: BaseException) -> str:
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    return (str(innermost).strip() or type(innermost).__name__).splitlines()[0]
