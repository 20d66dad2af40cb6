"""The moving average of weights: what a step adds, and what one that is not taken leaves alone."""

import math

import pytest
import torch
from torch import nn

from ffds.errors import NonFiniteLossError
from ffds.training.kept.average import WeightAverage, holding
from tests.training import tiny
from tests.training.test_step import Broken


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_every_weight_and_buffer_moves_by_the_rate_of_the_step():
    model = network()
    average = WeightAverage(model, 0.9, torch.device("cpu"))
    before = {name: one.clone() for name, one in average.averages.items()}
    assert before.keys() == {*model.state_dict()} - {"1.num_batches_tracked"}
    with torch.no_grad():
        for weight in model.state_dict().values():
            weight.add_(1)
    for step, decay in [(1, 2 / 11), (1000, 0.9)]:
        average.restore(before)
        average.start_step(step)
        average.update(torch.tensor(True))
        for name, value in average.averages.items():
            torch.testing.assert_close(value, before[name] + 1 - decay)


def test_a_step_that_is_not_taken_changes_no_bit():
    model = network()
    average = WeightAverage(model, 0.9, torch.device("cpu"))
    before = {name: one.clone() for name, one in average.averages.items()}
    model[1].running_mean.fill_(math.nan)
    model[0].weight.data.fill_(math.inf)
    average.start_step(5)
    average.update(torch.tensor(False))
    assert all(torch.equal(value, before[name]) for name, value in average.averages.items())


def test_in_use_also_where_it_ends_in_an_error():
    model = network()
    average = WeightAverage(model, 0.9, torch.device("cpu"))
    averaged, place = average.averages["0.weight"].clone(), model[0].weight.data_ptr()
    model[0].weight.data.fill_(7)

    def stopped():
        with holding(model, average.averages):
            assert torch.equal(model[0].weight, averaged)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (model[0].weight == 7).all()
    assert model[0].weight.data_ptr() == place, "a CUDA graph reads it there"


def test_a_run_that_is_not_finite_leaves_the_averages_of_the_step_before(tmp_path):
    recipe = tiny.own("trainer.ema=0.9")
    good = tiny.loop(tmp_path / "good", recipe, loss=Broken("nan", 10**9), polls=tiny.POLLS + 1)
    with pytest.raises(Exception, match="SIGTERM"):
        good.train()
    loop = tiny.loop(tmp_path / "bad", recipe, loss=Broken("nan", tiny.STEPS + 2))
    with pytest.raises(NonFiniteLossError):
        loop.train()
    for name, average in good.state.average.averages.items():
        assert torch.equal(loop.state.average.averages[name], average), name
