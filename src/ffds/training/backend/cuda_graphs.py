"""Work on a GPU recorded as a CUDA graph: from then on launched as one, not kernel by kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["CudaGraphs"]

Result = TypeVar("Result", bound=Tensor | None)
KEPT = 8
"""Recordings at a time: of whole and last batches, in training and of both sets that are scored, and more."""


class CudaGraphs:
    """Does work as it is, or has a GPU repeat what it has seen of it.

    A training step of a small network launches hundreds of kernels of some µs each, and Python takes longer
    to launch one than the GPU to run it. A recorded step is launched at once; its kernels, and so its
    numbers, are the same.

    Work is recorded when it is asked for a second time: what happens but once, as compilation or the first
    state of an optimizer, has happened by then. While it is recorded, Python runs; when it is repeated,
    Python does not. So it may read and write tensors in place only, and all that differs from time to time
    must be in its inputs, or in its key. It must not wait for the GPU; work that does stays as it is, with a
    warning.

    Args:
        on: whether to record; all tensors are on one CUDA device then.
    """

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._met: set[Hashable] = set()
        self._graphs: dict[Hashable, _Graph] = {}
        self._memory: Any = None

    def __call__(self, key: Hashable, work: Callable[..., Result], *inputs: Tensor) -> Result:
        """Do the work.

        Args:
            key: all that it depends on beside its inputs, as long as that does not change in place.
            work: inputs → a tensor, or None.
            inputs: whose values differ from time to time, and whose shapes may.

        Returns:
            What the work gave; of a graph, to be used before anything is recorded or repeated again.
        """
        if not self._on:
            return work(*inputs)
        whole = (key, *((tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs))
        graph = self._graphs.get(whole)
        if graph is None and whole in self._met:
            graph = self._recorded(whole, work, inputs)
        self._met.add(whole)
        if graph is None:
            return work(*inputs)
        output: Result = graph.replay(*inputs)
        return output

    def _recorded(
        self, key: Hashable, work: Callable[..., Result], inputs: tuple[Tensor, ...]
    ) -> _Graph | None:
        try:
            with _draws_as_before():
                graph = _Graph(work, inputs, self._memory)
        except Exception as error:  # whatever a network does that a graph cannot hold
            self._on = False
            self._graphs.clear()
            print(
                "warning: a step cannot be recorded as a CUDA graph; training goes on without, slower\n"
                f"  got: {(str(error).strip() or type(error).__name__).splitlines()[0]}\n"
                "  fix: a network that does not wait for the GPU, or trainer.cuda_graphs=false",
                file=sys.stderr,
                flush=True,
            )
            return None
        # One more before one goes: its memory is shared as long as there is one.
        self._memory, self._graphs[key] = graph.memory, graph
        if len(self._graphs) > KEPT:
            del self._graphs[next(iter(self._graphs))]
        return graph


@contextmanager
def _draws_as_before() -> Iterator[None]:
    """A graph that breaks off leaves a generator that believes in it, and refuses to draw."""
    if not torch.cuda.is_available():
        yield
        return
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.get_state()
    try:
        yield
    except Exception:
        generator.graphsafe_set_state(torch.Generator(generator.device))
        generator.set_state(before)
        raise


class _Graph:
    """One graph, its inputs and its output, each in its own place in memory."""

    def __init__(self, work: Callable[..., Result], inputs: tuple[Tensor, ...], memory: Any) -> None:
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=memory):
            self._output = work(*self._inputs)
        self.memory = self._graph.pool()

    def replay(self, *inputs: Tensor) -> Any:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output
