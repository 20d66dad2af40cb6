"""What Fabric is asked for and logs, and torch's flags during a training."""

import logging

import pytest
import torch
from lightning_fabric import Fabric

from ffds.recipes.schema import Trainer
from ffds.training.backend.devices import launch_fabric, precision_flags

LOGGER = logging.getLogger("lightning_fabric")


@pytest.fixture
def logged():
    """What Fabric logs; its logger does not propagate."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    LOGGER.addHandler(handler)
    yield records
    LOGGER.removeHandler(handler)


def test_fabric_does_not_repeat_the_recipe(logged):
    before = LOGGER.level
    fabric = launch_fabric(Trainer(precision="bf16", accelerator="cpu"))
    assert fabric.strategy.precision.precision == "bf16-mixed"
    assert not logged
    Fabric(precision="bf16-mixed", accelerator="cpu", devices=1)
    assert len(logged) == 1, "a Fabric of somebody else logs as ever"
    assert LOGGER.level == before


def test_fabric_still_warns(logged, monkeypatch):
    monkeypatch.setattr(Fabric, "launch", lambda _: LOGGER.warning("no rank 1"))
    launch_fabric(Trainer(accelerator="cpu"))
    assert [record.getMessage() for record in logged] == ["no rank 1"]


def flags():
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    return *tf32, torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["32", "tf32", "bf16", "16"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_flags_hold_during_training_and_are_restored_even_if_it_fails(precision, deterministic, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, tf32 = flags(), precision == "tf32"
    trainer, during = Trainer(precision=precision, deterministic=deterministic), []
    with pytest.raises(ZeroDivisionError), precision_flags(trainer):
        during.append(flags()) or 1 / 0
    assert during == [(tf32, tf32, not deterministic, deterministic)]
    assert flags() == before
