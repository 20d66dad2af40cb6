"""One training step: it never waits for the device."""

import pytest

from ffds.methods.registry import METHODS
from tests.host_sync import NoHostSync
from tests.training import tiny


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(method, tmp_path):
    """From the batch to the update, in the first epoch and in the last, whatever is observed."""
    loop = tiny.loop(tmp_path, tiny.recipe(method=method))
    for epoch in (0, tiny.EPOCHS - 1):
        loop.reached.epoch = epoch
        for batch in loop.batches.epoch(epoch, tiny.STEPS - 2):
            with NoHostSync():
                loop.step(loop._phase, batch, observed=True)


def test_no_batch_waits_for_the_device(tmp_path):
    loop = tiny.loop(tmp_path, tiny.recipe())
    with NoHostSync():
        assert len(list(loop.batches.epoch(1))) == tiny.STEPS
