"""Repeated work on a GPU as CUDA graphs: captured once, then launched as one instead of kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ffds.errors import InputError, tell
from ffds.recipes.schema import Recipe

__all__ = ["MAX_GRAPHS", "CudaGraphs", "Graph", "allows_cuda_graphs"]

Result = TypeVar("Result", bound=Tensor | None)
MAX_GRAPHS = 8
"""Graphs kept at a time: full and last batches, in training and on both evaluation sets, and some more."""


class CudaGraphs:
    """Runs a function eagerly, or captures it as a CUDA graph on its second call and replays it.

    A small network's step launches hundreds of kernels, and Python takes longer to launch one than the GPU to
    run it. A graph launches all at once, with the same results. Compilation and the optimizer's initial state
    happen in the first call, which is eager.

    A replay does not run Python. So the function may only read and write tensors in place, all that changes
    between calls must be in its inputs or in its key, and it must not wait for the GPU. Where a capture
    fails, everything runs eagerly from then on, with a warning. All tensors have to be on one CUDA device.
    """

    def __init__(self, *, on: bool) -> None:
        self.on = on
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, Graph] = {}
        self._pool: Any = None

    def __call__(self, key: Hashable, function: Callable[..., Result], *inputs: Tensor) -> Result:
        """The function's result; a graph's is overwritten by the next capture or replay.

        The key names everything the function depends on beside its inputs, unless it changes in place.
        """
        if not self.on:
            return function(*inputs)
        whole = (key, *((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs))
        graph = self._graphs.get(whole)
        if graph is None and whole in self._seen:
            graph = self._capture(whole, function, inputs)
        self._seen.add(whole)
        if graph is None:
            return function(*inputs)
        output: Result = graph.replay(*inputs)
        return output

    def _capture(
        self, key: Hashable, function: Callable[..., Any], inputs: tuple[Tensor, ...]
    ) -> Graph | None:
        generator = _generator()
        before = generator and generator.get_state()
        try:
            graph = Graph(function, inputs, self._pool)
        except Exception as error:  # whatever the network does that a graph does not allow
            if generator is not None:
                # A capture that fails leaves the generator registered with it, and unable to draw.
                generator.graphsafe_set_state(torch.Generator(generator.device))
                generator.set_state(before)
            self.on = False
            self._graphs.clear()
            what = "a step cannot be recorded as a CUDA graph; training goes on without, slower"
            got = (str(error).strip() or type(error).__name__).splitlines()[0]
            fix = "a network that does not wait for the GPU, or trainer.cuda_graphs=false"
            tell(f"warning: {InputError(what, got=got, fix=fix)}")
            return None
        # Drop the oldest only after the new one exists: the memory pool lives as long as any graph uses it.
        self._pool, self._graphs[key] = graph.pool, graph
        if len(self._graphs) > MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return graph


def allows_cuda_graphs(fabric: Fabric, recipe: Recipe) -> bool:
    """Whether the steps of a run can be captured: on one GPU, without a loss scaler or a user's own loss.

    Ranks would have to capture at the same time; the scaler waits for the GPU, and such a loss may do so too.
    """
    alone = fabric.world_size == 1 and fabric.device.type == "cuda"
    trainer = recipe.trainer
    return trainer.cuda_graphs and alone and trainer.precision != "16" and recipe.method.name != "custom"


def _generator() -> Any:
    """The random generator of the current GPU, None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.default_generators[torch.cuda.current_device()]


class Graph:
    """A captured function: inputs of its own, whose shapes and layouts are fixed, and its output."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Tensor, ...], pool: Any) -> None:
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._output = function(*self._inputs)
        self.pool = self._graph.pool()

    def replay(self, *inputs: Tensor) -> Any:
        """The output for other values of the inputs."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output
