"""No graph break, no wait for the device, little more memory than cross-entropy."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ffds.losses import FFDSLoss
from tests.host_sync import HostSyncError, NoHostSync
from tests.losses.battery import (
    EACH_KIND,
    Batch,
    assert_same_state,
    batch,
    cold,
    end_epoch,
    every_state,
    kinds_of_target,
    mixed,
)


@pytest.mark.parametrize(
    ("name", "kind", "backend"),
    [
        *((name, kind, "aot_eager") for name in EACH_KIND for kind in (Batch._replace, mixed)),
        ("ffds", Batch._replace, "inductor"),
    ],
)
def test_one_compiled_graph_serves_all_epochs_and_equals_the_loss(name, kind, backend):
    torch._dynamo.reset()
    eager, compiled = cold(name), cold(name)
    compiled.compile(fullgraph=True, backend=backend, dynamic=backend == "aot_eager")
    for epoch in range(3):
        for step, samples in enumerate([8, 5] if backend == "aot_eager" else [8]):
            data = kind(batch(samples, seed=10 * epoch + step))
            if data.target.ndim == 1:
                data.target[samples // 2] = -100
            with torch._dynamo.config.patch(error_on_recompile=epoch + step > 0):
                ours = data.gradient(compiled)
            # LDAM's scale times the label's p − 1, which is as exact as 1 is.
            rounding = 30 * torch.finfo(data.logits.dtype).eps
            torch.testing.assert_close(ours, data.gradient(eager), rtol=1e-5, atol=rounding)
            assert_same_state(compiled, eager, rtol=1e-6)
        end_epoch(compiled)
        end_epoch(eager)
    ours, theirs = (kind(batch()).given_to(loss.eval()) for loss in (compiled, eager))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "synchronising", [float, Tensor.nonzero, lambda x: x[x > 0], lambda x: x[x.long()[1] :]]
)
def test_the_watch_for_host_syncs_sees_them(synchronising):
    with pytest.raises(HostSyncError), NoHostSync():
        synchronising(torch.ones(1) if synchronising is float else torch.arange(4.0))


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


def peak_bytes(step: Callable[[], object]) -> int:
    """Largest amount of memory held at once above that at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        step()
    events = measured.profiler.kineto_results.events()
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


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
