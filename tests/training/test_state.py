"""All of a run's state goes into a checkpoint, and comes back out of it."""

import json
import math

import pytest
import torch

from ffds.errors import InputError
from ffds.training.checkpoint import Checkpoint, Checkpoints
from ffds.training.state import Reached
from tests.training import tiny


@pytest.mark.parametrize(
    ("accuracies", "best", "epoch"),
    [
        ([50.0, 60.0, 55.0], 60.0, 2),
        ([50.0, 50.0], 50.0, 1),
        ([0.0], 0.0, 1),
        ([math.nan, 40.0, math.nan], 40.0, 2),
        ([math.nan], None, None),
        ([None, 40.0, None], 40.0, 2),
        ([30.0, math.nan, 20.0], 30.0, 1),
        ([], None, None),
    ],
)
def test_the_best_epoch(accuracies, best, epoch):
    reached = Reached()
    for number, accuracy in enumerate(accuracies, 1):
        reached.consider(accuracy, number)
    assert (reached.best_on_test, reached.best_epoch) == (best, epoch)


def trained(path, *overrides, polls=2 * tiny.POLLS + 2):
    """In the middle of the third epoch, the observed one."""
    loop = tiny.loop(path, tiny.recipe(*overrides), polls=polls)
    with pytest.raises(Exception, match="SIGTERM"):
        loop.train()
    return loop


def everything(loop):
    state = loop.state
    tensors = dict(state.model.state_dict()) | {f"loss {k}": v for k, v in state.losses.state_dict().items()}
    tensors |= {f"observed {k}": v for k, v in state.observed.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"{name} {key}"] = value
    counts = {"correct": state.accuracy.correct, "total": state.accuracy.total, "loss": state.loss_sum}
    return {key: value.clone() for key, value in (tensors | counts).items()}


@pytest.mark.parametrize("channels_last", ["true", "false"])
def test_comes_back_through_the_disk(channels_last, tmp_path):
    loop = trained(tmp_path / "run", f"trainer.channels_last={channels_last}")
    before, reached = everything(loop), loop.state.reached
    assert all(before[f"{name} momentum_buffer"].any() for name, _ in loop.state.model.named_parameters())
    assert before["observed counts"].sum() == 64
    assert before["loss"] > 0
    store = Checkpoints(tmp_path / "copy", {})
    store.save(loop.state.checkpoint(), reached.epoch, reached.step)

    recipe = tiny.recipe(f"trainer.channels_last={channels_last}", "trainer.seed=9")
    other = tiny.loop(tmp_path / "other", recipe)
    other.state.restore(store.latest())
    after = everything(other)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name].nan_to_num(7), tensor.nan_to_num(7)), name
    assert other.state.reached == reached
    for name, tensor in before.items():
        if tensor.ndim == 4 and tensor.shape[1] > 1:
            assert after[name].stride() == tensor.stride(), name


def test_the_state_is_json(tmp_path):
    state = trained(tmp_path).state.checkpoint().state
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert state["reached"]["images"] == 2 * 95 + 64
    assert state["world_size"] == 1


def test_within_an_epoch_the_number_of_processes_has_to_be_the_same(tmp_path):
    loop = trained(tmp_path)
    saved = loop.state.checkpoint()
    of_four = Checkpoint(saved.model, saved.optimizer, saved.loss, saved.state | {"world_size": 4})
    with pytest.raises(InputError, match="another number of processes") as caught:
        loop.state.restore(of_four)
    assert "allowed: 4" in str(caught.value)
    between = of_four.state | {"reached": saved.state["reached"] | {"step": 0}}
    loop.state.restore(Checkpoint(saved.model, saved.optimizer, saved.loss, between))
    assert loop.state.reached.step == 0


def test_running_counts_begin_anew(tmp_path):
    state = trained(tmp_path).state
    assert state.accuracy.total.sum() == 64
    loss = state.loss_sum.item() / 64
    assert state.finish_epoch()["loss"] == pytest.approx(loss)
    assert not state.accuracy.total.any()
    assert not state.accuracy.correct.any()
    assert state.loss_sum == 0
    assert state.observed.counts.sum() == 64, "what is observed counts for itself"
