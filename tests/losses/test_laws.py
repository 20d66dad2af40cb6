"""One battery for all losses: whatever holds for a loss as such holds for each of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ffds.losses
from ffds.errors import InputError
from ffds.losses import (
    FFDSLoss,
    FocalLoss,
    InfluenceBalancedLoss,
    LDAMLoss,
    class_balanced_weights,
    inverse_frequency_weights,
)

COUNTS = [40, 500, 7, 120, 3]
WIDTH = 6

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "ffds": lambda counts, **how: FFDSLoss(counts, num_groups=2, **how),
    "ffds-unsmoothed": lambda counts, **how: FFDSLoss(counts, num_groups=2, cold_start="unsmoothed", **how),
    "ffds-linear": lambda counts, **how: FFDSLoss(counts, num_groups=1, curve="linear", gamma_min=0.5, **how),
    "ffds-convex": lambda counts, **how: FFDSLoss(counts, num_groups=2, curve="convex", k=0.5, **how),
    "ce": lambda counts, **how: FocalLoss(0.0, **how),
    "focal-below-one": lambda counts, **how: FocalLoss(0.5, **how),
    "focal": lambda counts, **how: FocalLoss(2.0, **how),
    "cb-focal": lambda counts, **how: FocalLoss(1.0, weight=class_balanced_weights(counts), **how),
    "ldam": LDAMLoss,
    "ldam-drw": lambda counts, **how: LDAMLoss(counts, weight=class_balanced_weights(counts), **how),
    "ib": lambda counts, **how: InfluenceBalancedLoss(weight=inverse_frequency_weights(counts), **how),
    "ib-focal": lambda counts, **how: InfluenceBalancedLoss(gamma=1.0, alpha=2.0, epsilon=0.5, **how),
}
STATEFUL = [name for name in LOSSES if name.startswith("ffds")]
every_loss = pytest.mark.parametrize("name", LOSSES)


class Batch(NamedTuple):
    logits: Tensor
    target: Tensor
    features: Tensor

    def given_to(self, loss: nn.Module) -> Tensor:
        return loss(*self) if isinstance(loss, InfluenceBalancedLoss) else loss(self.logits, self.target)

    def to(self, dtype: torch.dtype) -> Batch:
        return Batch(self.logits.to(dtype), self.target, self.features.to(dtype))

    def gradient(self, loss: nn.Module) -> Tensor:
        logits = self.logits.detach().requires_grad_()
        return torch.autograd.grad(self._replace(logits=logits).given_to(loss).sum(), logits)[0]


def batch(samples: int = 8, classes: int = len(COUNTS), seed: int = 0, spread: float = 2.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        spread * torch.randn(samples, classes, generator=generator),
        torch.randint(classes, (samples,), generator=generator),
        torch.randn(samples, WIDTH, generator=generator),
    )


def end_epoch(loss: nn.Module) -> None:
    if isinstance(loss, FFDSLoss):
        loss.end_epoch()


def warm(name: str, counts: list[int] | Tensor = COUNTS, **how: str) -> nn.Module:
    """A loss after one epoch and in the middle of the next."""
    loss = LOSSES[name](counts, **how)
    classes = len(counts)
    batch(16, classes, seed=11).given_to(loss)
    end_epoch(loss)
    batch(4, classes, seed=12).given_to(loss)
    return loss


def cold(name: str, counts: list[int] | Tensor = COUNTS, **how: str) -> nn.Module:
    return LOSSES[name](counts, **how)


every_state = pytest.mark.parametrize(
    ("name", "made"), [*((name, cold) for name in LOSSES), *((name, warm) for name in STATEFUL)]
)


@every_state
def test_gradient_exists_is_finite_and_pulls_to_the_label(name, made):
    data = batch()._replace(target=torch.arange(8) % len(COUNTS))
    gradient = data.gradient(made(name))
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(dim=1) > 0).all(), "every sample teaches"
    assert (gradient.gather(1, data.target[:, None]) < 0).all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in STATEFUL])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradient_equals_finite_differences(name, reduction):
    loss = LOSSES[name](COUNTS, reduction=reduction)
    data = batch(5, spread=0.4).to(torch.float64)

    def value(logits: Tensor, features: Tensor) -> Tensor:
        return Batch(logits, data.target, features).given_to(loss)

    inputs = (data.logits.requires_grad_(), data.features.requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("made", [cold, warm])
def test_gradient_of_a_constant_weight_is_weight_times_that_of_the_smoothed_cross_entropy(name, made):
    loss = made(name, reduction="none")
    data = batch().to(torch.float64)
    epsilon = 0.0 if made is cold and loss.cold_start == "cross_entropy" else loss.label_smoothing
    classes = len(COUNTS)
    logits = data.logits.requires_grad_()
    plain = F.cross_entropy(
        logits, data.target, reduction="none", label_smoothing=epsilon * classes / (classes - 1)
    )
    weight = (data.given_to(loss) / plain).detach()
    expected = torch.autograd.grad((weight * plain).sum(), logits)[0]
    torch.testing.assert_close(data.gradient(loss), expected, rtol=1e-9, atol=1e-12)


@every_state
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_give_finite_values_and_gradients(name, made, dtype):
    classes = len(COUNTS)
    at_label = 1e4 * (2 * torch.eye(classes) - 1)
    logits = torch.cat([at_label, -at_label, torch.full((classes, classes), -1e4), torch.zeros(1, classes)])
    target = torch.cat([torch.arange(classes).repeat(3), torch.tensor([0])])
    features = torch.linspace(-100, 100, len(target) * WIDTH).view(-1, WIDTH)
    data = Batch(logits, target, features).to(dtype)
    loss = made(name, reduction="none")
    value = data.given_to(loss)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert data.gradient(loss).isfinite().all()
    end_epoch(loss)
    assert data.given_to(loss).isfinite().all()


@every_state
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(name, made, dtype):
    half = batch().to(dtype)
    one, other = made(name, reduction="none"), made(name, reduction="none")
    assert torch.equal(half.given_to(one), half.to(torch.float32).given_to(other))
    gradient = half.gradient(one)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, half.to(torch.float32).gradient(other).to(dtype))
    assert_same_state(one, other)


@every_state
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(name, made, dtype):
    data = batch().to(dtype)
    one, other = made(name, reduction="none"), made(name, reduction="none")
    with torch.autocast("cpu", torch.bfloat16):
        inside, gradient = data.given_to(one), data.gradient(one)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, data.given_to(other))
    assert torch.equal(gradient, data.gradient(other))
    assert_same_state(one, other)


@every_state
def test_double_precision_inputs_are_computed_in_double_precision(name, made):
    data = batch().to(torch.float64)
    exact, rounded = data.given_to(made(name)), data.to(torch.float32).given_to(made(name))
    assert exact.dtype == torch.float64
    assert exact.item() != rounded.item()
    torch.testing.assert_close(exact, rounded.double(), rtol=1e-5, atol=0)


@every_state
def test_a_batch_of_one_sample(name, made):
    data = batch(3)
    alone = Batch(*(part[1:2] for part in data))
    one, all_of_them = made(name, reduction="none"), made(name, reduction="none")
    torch.testing.assert_close(alone.given_to(one)[0], data.given_to(all_of_them)[1])
    assert alone.given_to(made(name)).shape == ()
    assert alone.gradient(one).isfinite().all()


@every_state
def test_two_classes(name, made):
    loss = made(name, [9, 4])
    data = batch(6, classes=2)
    assert data.given_to(loss).isfinite()
    assert data.gradient(loss).isfinite().all()


@every_state
def test_equal_counts(name, made):
    data = batch()
    assert data.given_to(made(name, [5] * 5)).isfinite()


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for key, buffer in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], buffer, rtol=0, atol=0, equal_nan=True)


@every_loss
@pytest.mark.parametrize("permutation", [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_naming_the_classes_otherwise_changes_nothing(name, permutation):
    order = torch.tensor(permutation)
    new_label = order.argsort()
    one = LOSSES[name](COUNTS, reduction="none")
    other = LOSSES[name]([COUNTS[c] for c in permutation], reduction="none")
    for epoch in range(3):
        data = batch(seed=epoch)
        renamed = data._replace(logits=data.logits[:, order], target=new_label[data.target])
        torch.testing.assert_close(renamed.given_to(other), data.given_to(one), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            renamed.gradient(other), data.gradient(one)[:, order], rtol=1e-4, atol=1e-6
        )
        end_epoch(one)
        end_epoch(other)
    for key, buffer in one.state_dict().items():
        expected = buffer[order] if len(buffer) == len(COUNTS) else buffer
        torch.testing.assert_close(other.state_dict()[key], expected, rtol=1e-5, atol=1e-6)


@every_state
def test_each_sample_counts_for_itself(name, made):
    data = batch()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(4))
    shuffled = Batch(*(part[order] for part in data))
    one, other = made(name, reduction="none"), made(name, reduction="none")
    assert torch.equal(shuffled.given_to(other), data.given_to(one)[order])
    end_epoch(one)
    end_epoch(other)
    for key, buffer in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], buffer, rtol=1e-6, atol=0, equal_nan=True)


@every_state
def test_reductions_agree(name, made):
    data = batch().to(torch.float64)
    each, total, mean = (
        data.given_to(made(name, reduction=reduction)) for reduction in ("none", "sum", "mean")
    )
    assert each.shape == (8,)
    assert total.shape == mean.shape == ()
    torch.testing.assert_close(total, each.sum())
    divisor = class_balanced_weights(COUNTS)[data.target].double().sum() if name == "ldam-drw" else 8
    torch.testing.assert_close(mean, each.sum() / divisor)


@every_loss
def test_the_default_reduction_is_the_mean(name):
    assert batch().given_to(cold(name)) == batch().given_to(cold(name, reduction="mean"))


@every_state
def test_inputs_are_not_changed(name, made):
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    loss, data = made(name, counts), batch()
    before = [part.clone() for part in data]
    data.gradient(loss)
    data.given_to(loss)
    end_epoch(loss)
    for part, copied in zip(data, before, strict=True):
        assert torch.equal(part, copied)
        assert part._version == 0, "not even written to and restored"
    assert counts.tolist() == COUNTS


def steps(loss: nn.Module) -> list[Tensor]:
    values = [batch(seed=20).given_to(loss), batch(1, seed=21).given_to(loss)]
    end_epoch(loss)
    return [*values, batch(seed=22).given_to(loss)]


@every_state
def test_saved_and_loaded_it_goes_on_exactly(name, made):
    loss, resumed = made(name), cold(name)
    saved = {key: bytes(buffer.numpy().tobytes()) for key, buffer in loss.state_dict().items()}
    empty = resumed.state_dict()
    resumed.load_state_dict(
        {
            key: torch.frombuffer(bytearray(saved[key]), dtype=buffer.dtype).view_as(buffer)
            for key, buffer in empty.items()
        }
    )
    assert all(torch.equal(a, b) for a, b in zip(steps(loss), steps(resumed), strict=True))
    assert_same_state(loss, resumed)


@every_state
def test_a_deep_copy_goes_on_alike_and_apart(name, made):
    loss = made(name)
    before = {key: buffer.clone() for key, buffer in loss.state_dict().items()}
    copied = copy.deepcopy(loss)
    values = steps(copied)
    for key, buffer in loss.state_dict().items():
        torch.testing.assert_close(buffer, before[key], rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(a, b) for a, b in zip(values, steps(loss), strict=True))


@every_loss
def test_all_tensors_it_owns_are_persistent_buffers(name):
    loss = warm(name)
    owned = {key for key, value in vars(loss).items() if isinstance(value, Tensor)}
    assert not owned
    assert not list(loss.parameters())
    assert {key for key, _ in loss.named_buffers()} == set(loss.state_dict())


@pytest.mark.parametrize("name", ["ffds", "cb-focal", "ldam-drw", "ib-focal"])
def test_compiled_without_a_graph_break_it_equals_itself(name):
    torch._dynamo.reset()
    eager, compiled = cold(name), cold(name)
    compiled.compile(fullgraph=True, backend="aot_eager")
    for epoch in range(3):
        for step, samples in enumerate([8, 5, 1]):
            data = batch(samples, seed=10 * epoch + step)
            assert torch.equal(data.gradient(compiled), data.gradient(eager))
            assert_same_state(compiled, eager)
        assert torch.equal(batch().given_to(compiled.eval()), batch().given_to(eager.eval()))
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


class HostSyncError(RuntimeError):
    pass


class NoHostSync(TorchDispatchMode):
    """Fails where a value, or a shape that depends on values, would have to come back from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        selectors = [x for x in tree_leaves(args[1:]) if isinstance(x, Tensor)]
        masked = any(x.dtype in (torch.bool, torch.uint8) for x in selectors)
        if name in ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal"):
            raise HostSyncError(name)
        if name in ("index", "index_put", "index_put_") and masked:
            raise HostSyncError(f"{name} with a mask")
        return func(*args, **(kwargs or {}))


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
def test_no_step_waits_for_the_device(name, made):
    loss, data = made(name), batch()
    with NoHostSync():
        data.gradient(loss)
        if isinstance(loss, FFDSLoss):
            loss.observe(data.logits, data.target)
            loss.end_epoch()
            data.gradient(loss.eval())


@every_loss
def test_a_step_needs_no_values_at_all(name):
    """On the meta device there are none to look at."""
    loss = cold(name).to("meta")
    data = Batch(*(part.to("meta") for part in batch()))
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
def test_no_tensor_is_larger_than_the_logits(name, made):
    classes, samples = 2000, 4
    loss, data = made(name, list(range(classes, 0, -1))), batch(samples, classes)
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


@pytest.mark.parametrize(
    ("name", "bound"),
    [("ffds", 1.5), ("cb-focal", 1.5), ("ib", 1.5), ("ib-focal", 1.5), ("ldam-drw", 2.0)],
)
def test_memory_is_that_of_cross_entropy_times_a_small_factor(name, bound):
    classes, samples = 8142, 1024
    loss = cold(name, list(range(classes, 0, -1)))
    data = batch(samples, classes)
    logits = data.logits.requires_grad_()
    reference = peak_bytes(lambda: F.cross_entropy(logits, data.target).backward())
    logits.grad = None
    assert reference >= 2 * logits.nbytes, "log-probabilities and their gradient"
    assert peak_bytes(lambda: data.given_to(loss).backward()) <= bound * reference


@every_loss
@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (torch.zeros(3, 5), torch.tensor([0, 1])),
        (torch.zeros(3, 5), torch.zeros(3, 5)),
        (torch.zeros(3, 5), torch.zeros(3, 1, dtype=torch.int64)),
        (torch.zeros(5), torch.tensor(1)),
        (torch.zeros(2, 5, 4), torch.zeros(2, 4, dtype=torch.int64)),
        (torch.zeros(5, 5), torch.ones(5, dtype=torch.uint8)),
        (torch.zeros(5, 5), torch.ones(5, dtype=torch.int32)),
        (torch.zeros(5, 5), torch.ones(5)),
    ],
)
def test_logits_and_target_that_do_not_fit_are_refused(name, logits, target):
    with pytest.raises(InputError, match=r"allowed: logits \(N, C\), target \(N,\) int64"):
        Batch(logits, target, torch.zeros(len(logits), WIDTH)).given_to(cold(name))


@pytest.mark.parametrize("name", ["ffds", "cb-focal", "ldam", "ldam-drw", "ib"])
@pytest.mark.parametrize("classes", [4, 6])
def test_logits_of_another_number_of_classes_are_refused(name, classes):
    with pytest.raises(InputError, match="number of classes"):
        batch(3, classes)._replace(target=torch.tensor([0, 1, 2])).given_to(cold(name))


@every_loss
@pytest.mark.parametrize("label", [-100, -1, len(COUNTS)])
def test_a_label_that_is_no_class_is_never_passed_over(name, label):
    """torch's cross-entropy ignores -100 without a word; on a GPU it is a device-side assertion here."""
    data = batch(2)._replace(target=torch.tensor([0, label]))
    with pytest.raises((IndexError, RuntimeError), match=r"out of (bounds|range)"):
        data.given_to(cold(name))


@every_loss
@pytest.mark.parametrize("reduction", ["average", None, ""])
def test_an_unknown_reduction_is_refused_and_the_known_ones_named(name, reduction):
    with pytest.raises(InputError, match="mean, sum, none"):
        cold(name, reduction=reduction)


def test_public_names_and_their_options():
    """A promise to users: a change here is a change of the interface."""
    options = {
        name: [
            (p.name, p.kind.name[0], None if p.default is p.empty else p.default)
            for p in inspect.signature(getattr(ffds.losses, name)).parameters.values()
        ]
        for name in ffds.losses.__all__
    }
    assert options == {
        "FFDSLoss": [
            ("class_counts", "P", None),
            ("beta", "K", 0.9999),
            ("k", "K", 0.9),
            ("num_groups", "K", 10),
            ("gamma_min", "K", 0.0),
            ("gamma_max", "K", 3.0),
            ("curve", "K", "concave"),
            ("label_smoothing", "K", 0.1),
            ("weight_scale", "K", "mean"),
            ("cold_start", "K", "cross_entropy"),
            ("reduction", "K", "mean"),
        ],
        "FocalLoss": [("gamma", "P", 1.0), ("weight", "K", None), ("reduction", "K", "mean")],
        "InfluenceBalancedLoss": [
            ("alpha", "K", 1000.0),
            ("epsilon", "K", 0.001),
            ("gamma", "K", 0.0),
            ("weight", "K", None),
            ("reduction", "K", "mean"),
        ],
        "LDAMLoss": [
            ("class_counts", "P", None),
            ("max_margin", "K", 0.5),
            ("scale", "K", 30.0),
            ("weight", "K", None),
            ("reduction", "K", "mean"),
        ],
        "class_balanced_weights": [
            ("class_counts", "P", None),
            ("beta", "P", 0.9999),
            ("scale", "P", "mean"),
        ],
        "inverse_frequency_weights": [
            ("class_counts", "P", None),
            ("power", "P", 1.0),
            ("scale", "P", "mean"),
        ],
    }
