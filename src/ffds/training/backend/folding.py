"""Batch norm folded into the convolution before it, where a compiled network only evaluates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

__all__ = ["fold_batch_norms"]

_CONVOLUTIONS = (torch.conv2d, F.conv2d)
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def fold_batch_norms(graph: fx.GraphModule) -> int:
    """Make (w * x − μ)·s + b, with s = γ/√(σ² + ε), the one convolution (s·w) * x + (b − s·μ).

    Weights and statistics are read anew at each call, so nothing is stale when they have changed. A batch
    norm that follows no convolution, or one whose result is also used elsewhere, stays as it is.

    Args:
        graph: changed in place.

    Returns:
        How many were folded.
    """
    folded = 0
    for norm in list(graph.graph.nodes):
        if norm.target is F.batch_norm and (found := _foldable(norm)):
            with graph.graph.inserting_before(norm):
                _fold(graph.graph, norm, found)
            folded += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return folded


def _foldable(norm: fx.Node) -> fx.Node | None:
    """The convolution that a batch norm of running statistics can become a part of."""
    given = _norm(norm)
    source = given["input"]
    alone = isinstance(source, fx.Node) and source.target in _CONVOLUTIONS and len(source.users) == 1
    return source if alone and not given["training"] else None


def _fold(graph: fx.Graph, norm: fx.Node, convolution: fx.Node) -> None:
    def of(function: Callable[..., Any], *arguments: Any) -> fx.Node:
        return graph.call_function(function, arguments)

    given, whole = _norm(norm), _named(convolution, _CONVOLUTION)
    scale = of(torch.rsqrt, of(torch.add, given["running_var"], given["eps"]))
    if given["weight"] is not None:
        scale = of(torch.mul, scale, given["weight"])
    centre, before = given["running_mean"], whole.get("bias")
    shift = of(torch.mul, scale, of(torch.neg, centre) if before is None else of(torch.sub, before, centre))
    if given["bias"] is not None:
        shift = of(torch.add, shift, given["bias"])
    whole["weight"] = of(torch.mul, whole["weight"], of(torch.reshape, scale, (-1, 1, 1, 1)))
    whole["bias"] = shift
    norm.replace_all_uses_with(graph.call_function(torch.conv2d, kwargs=whole))


def _norm(node: fx.Node) -> dict[str, Any]:
    return {"weight": None, "bias": None, "training": False, "eps": 1e-5} | _named(node, _NORM)


def _named(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    return dict(zip(names, node.args, strict=False)) | node.kwargs
