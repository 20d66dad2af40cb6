"""No graph break, no wait for the device, little more memory than cross-entropy."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ffds.losses import FFDSLoss
from tests.host_sync import HostSyncError, NoHostSync
from tests.losses.battery import (
    EACH_KIND,
    Batch,
    assert_same_state,
    batch,
    cold,
    end_epoch,
    every_loss,
    every_state,
    kinds_of_target,
)


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "aot_eager") for name in EACH_KIND), ("ffds", "inductor")]
)
@kinds_of_target
def test_compiled_without_a_graph_break_it_equals_itself(name, backend, kind):
    torch._dynamo.reset()
    eager, compiled = cold(name), cold(name)
    compiled.compile(fullgraph=True, backend=backend)
    for epoch in range(3):
        for step, samples in enumerate([8, 5, 1] if backend == "aot_eager" else [8]):
            data = kind(batch(samples, seed=10 * epoch + step))
            if data.target.ndim == 1:
                data.target[samples // 2] = -100
            # LDAM's scale times the label's p − 1, which is as exact as 1 is.
            rounding = 30 * torch.finfo(data.logits.dtype).eps
            torch.testing.assert_close(
                data.gradient(compiled), data.gradient(eager), rtol=1e-5, atol=rounding
            )
            assert_same_state(compiled, eager, rtol=1e-6)
        ours, theirs = (kind(batch()).given_to(loss.eval()) for loss in (compiled, eager))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
        for loss in compiled.train(), eager.train():
            end_epoch(loss)
    if isinstance(compiled, FFDSLoss):
        assert compiled.group_means.isfinite().all()


@every_loss
def test_one_graph_without_a_break_serves_all_epochs(name):
    torch._dynamo.reset()
    loss = cold(name)
    loss.compile(fullgraph=True, backend="eager")
    batch().given_to(loss)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for epoch in range(3):
            batch(seed=epoch).given_to(loss)
            end_epoch(loss)


@pytest.mark.parametrize(
    "synchronising",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: float(x[0]),
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x[x.argmax() :],
    ],
)
def test_the_watch_for_host_syncs_sees_them(synchronising):
    with pytest.raises(HostSyncError), NoHostSync():
        synchronising(torch.arange(4.0))


@every_state
@kinds_of_target
def test_no_step_waits_for_the_device(name, made, kind):
    loss, data = made(name), kind(batch())
    with NoHostSync():
        data.gradient(loss)
        if isinstance(loss, FFDSLoss):
            loss.observe(data.logits, data.target)
            loss.end_epoch()
            data.gradient(loss.eval())


@every_loss
@kinds_of_target
def test_a_step_needs_no_values_at_all(name, kind):
    """On the meta device there are none to look at."""
    loss = cold(name).to("meta")
    data = Batch(*(part.to("meta") for part in kind(batch())))
    assert data.gradient(loss).shape == data.logits.shape
    end_epoch(loss)


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(made) if isinstance(x, Tensor)]
        self.numel = max([self.numel, *sizes])
        return made


@every_state
@kinds_of_target
def test_no_tensor_is_larger_than_the_logits(name, made, kind):
    classes, samples = 2000, 4
    loss, data = made(name, list(range(classes, 0, -1))), kind(batch(samples, classes))
    with LargestTensor() as largest:
        data.gradient(loss)
        if isinstance(loss, FFDSLoss):
            loss.observe(data.logits, data.target)
    assert largest.numel == samples * classes


def peak_bytes(step: Callable[[], object]) -> int:
    """Largest amount of memory held at once above that at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        step()
    events = measured.profiler.kineto_results.events()
    return max(_running_sums(event.nbytes() for event in events if event.name() == "[memory]"))


def _running_sums(sizes: Iterator[int]) -> Iterator[int]:
    held = 0
    for size in sizes:
        held += size
        yield held


@pytest.mark.parametrize("name", EACH_KIND)
def test_memory_is_less_than_twice_and_a_half_that_of_cross_entropy(name):
    classes, samples = 8142, 1024
    loss = cold(name, list(range(classes, 0, -1)))
    data = batch(samples, classes)
    logits = data.logits.requires_grad_()
    reference = peak_bytes(lambda: F.cross_entropy(logits, data.target).backward())
    logits.grad = None
    assert reference >= 2 * logits.nbytes, "log-probabilities and their gradient"
    assert peak_bytes(lambda: data.given_to(loss).backward()) <= 2.5 * reference
