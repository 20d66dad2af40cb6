"""What a training asks of devices: Fabric and its ranks, precision, kept memory, a compiled network."""

from __future__ import annotations

import atexit
import ctypes
import logging
import mmap
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.accelerators.cpu import CPUAccelerator
from torch import nn

from ffds.environment import usable_cores
from ffds.errors import FfdsError, InputError, tell
from ffds.recipes.schema import Trainer

__all__ = ["compile_model", "keep_freed_memory", "launch_fabric", "naming_failed_ranks", "precision_flags"]

ANSWER = timedelta(seconds=2)
"""How long a rank waits for the reason of another one's end."""

_PRECISIONS: Final[dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]]] = {
    "32": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}
# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MAPPED_ABOVE = 2**30
"""Larger blocks get a mapping of their own, which is given back to the system when it is freed."""


def launch_fabric(trainer: Trainer) -> Fabric:
    """Fabric, launched; under torchrun, on the devices that torchrun gives.

    Raises:
        InputError: the CPU is asked for more processes than it has cores.
    """
    devices, num_nodes = trainer.devices, trainer.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    # Fabric's information repeats the recipe; its warnings are shown.
    logger.setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if devices * num_nodes > 1 else "auto",
            precision=_PRECISIONS[trainer.precision],
        )
        if isinstance(fabric.strategy.accelerator, CPUAccelerator):
            _check_processes(trainer.devices)
        fabric.launch()
    finally:
        logger.setLevel(level)
    if fabric.world_size > 1:
        atexit.register(_leave_group)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


def _check_processes(devices: int) -> None:
    # On a CPU a device is a process: a thousand of them would take all memory before they did anything.
    if devices > (most := max(2, usable_cores())):
        what, fix = "the CPU has fewer cores than processes are asked for", "lower trainer.devices"
        raise InputError(what, got=f"trainer.devices={devices}", allowed=f"1 to {most}", fix=fix)


def _leave_group() -> None:
    # Threads of a group that is still there when the process ends abort it now and then.
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def naming_failed_ranks(fabric: Fabric, work: str) -> Iterator[None]:
    """Among several ranks, end those that lose another one with the name of that rank and why it failed.

    A rank that fails leaves its error in the store of the process group, under the name of the work, which
    is the same on all ranks; one that is killed leaves nothing.

    Raises:
        FfdsError: a collective operation failed because another rank has ended.
    """
    if fabric.world_size == 1:
        yield
        return
    rank, store = fabric.global_rank, dist.distributed_c10d._get_default_store()
    keys = [f"ffds/{work}/{one}" for one in range(fabric.world_size)]
    try:
        yield
    except Exception as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        with suppress(RuntimeError):  # the store ends with the rank that holds it
            store.set(keys[rank], "" if lost else f"{type(error).__name__}: {error}")
        if not lost:
            raise
        others = {one: key for one, key in enumerate(keys) if one != rank}
        answers = {one: _answer(store, key, alone=len(others) == 1) for one, key in others.items()}
        failed = {one: f"failed with {answer}" for one, answer in answers.items() if answer}
        silent = dict.fromkeys(
            [one for one, answer in answers.items() if answer is None], "ended without a word"
        )
        named = "; ".join(f"rank {one} {how}" for one, how in (failed or silent).items())
        ended = FfdsError(f"{named or 'the connection between the ranks broke'}; the same command goes on")
        if 0 in silent and rank == min({*answers, rank} - {*silent}):
            tell(f"error: {ended}")  # in place of the first rank, which speaks for all
        raise ended from None


def _answer(store: Any, key: str, *, alone: bool) -> str | None:
    """What another rank has left, None if nothing comes within seconds; a survivor answers with nothing.

    One that is alone is the failed one itself, and leaves its error before it ends.
    """
    try:
        if not alone:
            store.wait([key], ANSWER)
        answer: str | None = store.get(key).decode() if store.check([key]) else None
        return answer
    except RuntimeError:
        return None


@contextmanager
def precision_flags(trainer: Trainer) -> Iterator[None]:
    """Set torch's global flags for `precision` and `deterministic`, and restore them on exit.

    Convolutions and matrix products use TensorFloat-32, with 10 bits of mantissa in place of 23, only with
    precision ``tf32``; by default torch would use it for convolutions on any GPU that can. Unless
    deterministic, cuDNN measures its kernels for each shape and takes the fastest.
    """
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    tf32, deterministic = trainer.precision == "tf32", trainer.deterministic
    before = cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32 = tf32, not deterministic, tf32
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32 = before
        torch.use_deterministic_algorithms(was_deterministic, warn_only=warned_only)


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that this process frees; whether this is glibc and accepted that.

    A training step on the CPU frees its activations and allocates them again; for memory that went back to
    the system in between, the kernel clears every page anew, a fifth of the time of a ResNet-32 step. Pages
    of 2 MiB save another 7 % of a step. The process never holds more than its own peak.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: _MAPPED_ABOVE, _TOP_PAD: 2**26}
    if not all(libc.mallopt(name, value) == 1 for name, value in settings.items()):
        return False
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Reserve almost a GiB of address space at the end of the heap, and ask for huge pages there.
    start = -(-libc.sbrk(0) // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.free(libc.malloc(_MAPPED_ABOVE - 2**20))
    length = libc.sbrk(0) - start
    if length > 0:
        libc.madvise(start, length, mmap.MADV_HUGEPAGE)  # refused by a kernel without them: no harm
    return True


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
        tell(f"warning: {InputError(what, got=got, fix=fix)}")
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
