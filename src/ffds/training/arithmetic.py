"""Torch's settings for the whole process, as a recipe asks for them, and then as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ffds.recipes.schema import Trainer

__all__ = ["arithmetic"]


@contextmanager
def arithmetic(trainer: Trainer) -> Iterator[None]:
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
