"""Fabric on the devices a recipe asks for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from lightning_fabric import Fabric

from ffds.recipes.schema import Trainer
from ffds.training.allocator import keep_freed_memory

__all__ = ["launched"]

_PRECISIONS: Final[dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]]] = {
    "32": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


def launched(trainer: Trainer) -> Fabric:
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
