"""Fabric on the devices that a recipe asks for, and the precision of torch's kernels."""

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
        fabric.launch()
    finally:
        logger.setLevel(level)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


@contextmanager
def precision_flags(trainer: Trainer) -> Iterator[None]:
    """Set torch's global flags for `precision` and `deterministic`, and restore them on exit.

    Convolutions and matrix products use TensorFloat-32, with 10 bits of mantissa in place of 23, only with
    precision ``tf32``; by default torch would use it for convolutions on any GPU that can. Unless
    deterministic, cuDNN measures its kernels for each shape and takes the fastest.

    Args:
        trainer: of the recipe.
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
