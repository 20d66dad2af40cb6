"""Fabric on the devices a recipe asks for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import torch
from lightning_fabric import Fabric

from ffds.recipes.schema import Trainer
from ffds.training.backend.memory import keep_freed_memory

__all__ = ["launch_fabric", "precision_flags"]

_PRECISIONS: Final[dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]]] = {
    "32": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


def launch_fabric(trainer: Trainer) -> Fabric:
    """Fabric, launched; under torchrun, on the devices that torchrun gives."""
    devices, num_nodes = trainer.devices, trainer.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    with _warnings_alone():
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if devices * num_nodes > 1 else "auto",
            precision=_PRECISIONS[trainer.precision],
        )
        fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


@contextmanager
def _warnings_alone() -> Iterator[None]:
    """Not Fabric's advice on the precision of products, which the recipe decides, nor what is no news."""
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def precision_flags(trainer: Trainer) -> Iterator[None]:
    """Products in TensorFloat-32 only with `precision` ``tf32``, deterministic kernels with `deterministic`.

    Where not deterministic, cuDNN tries its kernels for each shape and takes the fastest.

    Left alone, torch computes convolutions in TensorFloat-32, with 10 bits of a factor in place of 23, where
    a GPU can, and matrix products in float32.

    Args:
        trainer: of the recipe.
    """
    tf32, same = trainer.precision == "tf32", trainer.deterministic
    with _convolutions(tf32=tf32, fastest=not same), _products(tf32=tf32), _determinism(on=same):
        yield


@contextmanager
def _convolutions(*, tf32: bool, fastest: bool) -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, cudnn.benchmark = tf32, fastest
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark = before


@contextmanager
def _products(*, tf32: bool) -> Iterator[None]:
    matrices = torch.backends.cuda.matmul
    before = matrices.allow_tf32
    matrices.allow_tf32 = tf32
    try:
        yield
    finally:
        matrices.allow_tf32 = before


@contextmanager
def _determinism(*, on: bool) -> Iterator[None]:
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
