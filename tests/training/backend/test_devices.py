"""What Fabric is asked for, and what of its talk a user sees."""

import logging

import pytest
from lightning_fabric import Fabric

from ffds.recipes.schema import Trainer
from ffds.training.backend.devices import launch_fabric

LOGGER = logging.getLogger("lightning_fabric")


@pytest.fixture
def told():
    """What Fabric logs: its logger does not hand it on."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    LOGGER.addHandler(handler)
    yield records
    LOGGER.removeHandler(handler)


def test_it_does_not_tell_what_the_recipe_says(told):
    before = LOGGER.level
    assert (
        launch_fabric(Trainer(precision="bf16", accelerator="cpu")).strategy.precision.precision
        == "bf16-mixed"
    )
    assert not told
    Fabric(precision="bf16-mixed", accelerator="cpu", devices=1)
    assert len(told) == 1, "Fabric's own voice is as it was"
    assert LOGGER.level == before


def test_it_still_warns(told, monkeypatch):
    monkeypatch.setattr(Fabric, "launch", lambda _: LOGGER.warning("no rank 1 in sight"))
    launch_fabric(Trainer(accelerator="cpu"))
    assert [record.getMessage() for record in told] == ["no rank 1 in sight"]
