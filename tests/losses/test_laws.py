"""Whatever holds for a loss as such holds for each of them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffds.losses import (
    class_balanced_weights,
)
from tests.losses.battery import (
    COUNTS,
    LOSSES,
    STATEFUL,
    WIDTH,
    Batch,
    assert_same_state,
    batch,
    cold,
    end_epoch,
    every_loss,
    every_state,
    warm,
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
def test_all_tensors_it_owns_are_buffers_that_its_state_restores(name):
    loss, loaded = warm(name), cold(name)
    owned = {key for key, value in vars(loss).items() if isinstance(value, Tensor)}
    assert not owned
    assert not list(loss.parameters())
    loaded.load_state_dict(loss.state_dict())
    for (key, buffer), (same, restored) in zip(loss.named_buffers(), loaded.named_buffers(), strict=True):
        assert key == same
        torch.testing.assert_close(restored, buffer, rtol=0, atol=0, equal_nan=True)


@every_state
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_is_cast_leaves_its_loss_in_full_precision(name, made, dtype):
    kept, model = made(name), nn.Sequential(nn.Linear(2, 2), made(name)).to(dtype)
    assert model[0].weight.dtype == dtype
    for _ in range(100):
        data = batch().to(dtype)
        torch.testing.assert_close(data.given_to(model[1]), data.given_to(kept), rtol=0, atol=0)
    end_epoch(model[1])
    end_epoch(kept)
    assert_same_state(kept, model[1])


@every_loss
def test_a_loss_made_under_a_default_device_is_on_it_as_a_whole(name):
    with torch.device("meta"):
        loss = LOSSES[name](COUNTS)
    assert {buffer.device.type for buffer in loss.buffers()} <= {"meta"}
