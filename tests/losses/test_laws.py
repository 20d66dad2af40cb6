"""Whatever holds for a loss as such holds for each of them."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ffds.errors import InputError
from ffds.losses import FFDSLoss, class_balanced_weights
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
    kinds_of_target,
    mixed,
    twin,
    warm,
)

CLASSES = len(COUNTS)
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]
stateful = pytest.mark.parametrize("name", STATEFUL)


def gradients(value: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value.sum(), inputs, materialize_grads=True)


@every_state
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 3e-5)])
def test_value_and_gradients_equal_the_twin(name, made, dtype, rtol):
    loss, data = made(name, reduction="none"), batch(20).to(dtype)
    inputs = data.logits.requires_grad_(), data.features.requires_grad_()
    expected = twin(loss, data)
    value = data.given_to(loss)
    torch.testing.assert_close(value, expected.to(dtype), rtol=rtol, atol=1e-3 * rtol)
    torch.testing.assert_close(gradients(value, inputs), gradients(expected, inputs), rtol=rtol, atol=rtol)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(sorted(LOSSES)), st.integers(2, 5))
def test_any_logits_and_labels_give_the_value_of_the_twin(data, name, classes):
    loss = LOSSES[name](COUNTS[:classes], reduction="none")
    if isinstance(loss, FFDSLoss):
        loss.group_means = torch.tensor(
            data.draw(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2))
        )
    rows = st.lists(st.floats(-8, 8, width=32), min_size=classes, max_size=classes)
    logits = torch.tensor(data.draw(st.lists(rows, min_size=1, max_size=3)), dtype=torch.float64)
    target = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=3, max_size=3)))
    given_batch = Batch(logits, target[: len(logits)], torch.ones(len(logits), WIDTH, dtype=torch.float64))
    torch.testing.assert_close(given_batch.given_to(loss), twin(loss, given_batch), rtol=1e-6, atol=1e-12)


def differentiable(name, kind, **how):
    """The loss of logits and features, FFDS with a weight that does not depend on the logits."""
    loss = LOSSES[name](COUNTS, **how)
    if name in STATEFUL:
        loss.gamma.zero_()
        loss.group_means.fill_(0.5)
    data = kind(batch(3, spread=0.4).to(torch.float64))
    inputs = data.logits.requires_grad_(), data.features.requires_grad_()
    return lambda *inputs: Batch(inputs[0], data.target, inputs[1]).given_to(loss), inputs


@every_loss
@kinds_of_target
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_first_and_second_derivatives_equal_finite_differences(name, kind, reduction):
    function, inputs = differentiable(name, kind, reduction=reduction)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@every_state
def test_second_derivative_equals_that_of_the_twin(name, made):
    """Also where the weight of FFDS, a constant for the gradient, depends on the logits."""
    loss, data = made(name, reduction="none"), batch(2).to(torch.float64)
    hessians = [
        torch.autograd.functional.hessian(lambda z, f=function: f(data._replace(logits=z)).sum(), data.logits)
        for function in (lambda d: d.given_to(loss), lambda d: twin(loss, d))
    ]
    torch.testing.assert_close(*hessians, rtol=1e-8, atol=1e-10)


@every_state
@kinds_of_target
@pytest.mark.parametrize(
    "laid_out",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.stack([x, x], dim=2)[:, :, 1],
        lambda x: torch.cat([x, x])[: len(x)],
        lambda x: x.flip(0).flip(0),
    ],
    ids=["transposed", "strided", "part", "flipped"],
)
def test_the_memory_layout_of_the_logits_changes_nothing(name, made, kind, laid_out):
    data = kind(batch())
    other = data._replace(logits=laid_out(data.logits))
    losses = [made(name, reduction="none") for _ in range(2)]
    torch.testing.assert_close(other.given_to(losses[0]), data.given_to(losses[1]), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(other.gradient(losses[0]), data.gradient(losses[1]), rtol=1e-5, atol=1e-7)
    assert_same_state(*losses, rtol=1e-6)


@every_state
@kinds_of_target
def test_gradients_per_sample_equal_those_of_single_batches(name, made, kind):
    loss, data = made(name), kind(batch())
    before = copy.deepcopy(loss.state_dict())

    def value(logits, target, features):
        return Batch(logits[None], target[None], features[None]).given_to(loss)

    each = torch.func.vmap(torch.func.grad(value))(*data)
    one = torch.func.grad(value)(*data.rows(0))
    for key, buffer in loss.state_dict().items():
        torch.testing.assert_close(buffer, before[key], rtol=0, atol=0, equal_nan=True)
    alone = torch.cat([data.rows(slice(i, i + 1)).gradient(loss) for i in range(8)])
    torch.testing.assert_close(each, alone, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one, alone[0], rtol=1e-5, atol=1e-7)


@every_state
@pytest.mark.parametrize("mask", [-torch.inf, "smallest"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_masked_classes_have_no_term(name, made, mask, dtype):
    """Classes 3 and 4 are never the label. Under label smoothing they have no share of it."""
    data = batch().to(dtype)._replace(target=torch.arange(8) % 3)
    data.logits[:, 3:] = torch.finfo(dtype).min if mask == "smallest" else mask
    loss = made(name, reduction="none")
    expected = twin(loss, data)
    for kind in (data, data.one_hot()):
        tolerance = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(kind.given_to(loss).double(), expected, **tolerance)
        gradient = kind.gradient(loss)
        assert gradient.isfinite().all()
        assert (gradient[:, 3:] == 0).all()
    end_epoch(loss)
    assert data.given_to(loss).isfinite().all()


@every_state
@kinds_of_target
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_give_finite_values_and_gradients(name, made, kind, dtype):
    at_label = 1e4 * (2 * torch.eye(CLASSES) - 1)
    logits = torch.cat([at_label, -at_label, torch.full((CLASSES, CLASSES), -1e4), torch.zeros(1, CLASSES)])
    target = torch.cat([torch.arange(CLASSES).repeat(3), torch.tensor([0])])
    features = torch.linspace(-100, 100, len(target) * WIDTH).view(-1, WIDTH)
    data = kind(Batch(logits, target, features).to(dtype))
    loss = made(name, reduction="none")
    value = data.given_to(loss)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert data.gradient(loss).isfinite().all()
    end_epoch(loss)
    assert data.given_to(loss).isfinite().all()


@every_state
@kinds_of_target
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(name, made, kind, dtype):
    half = kind(batch().to(dtype))
    full = half.to(torch.float32)
    one, other = made(name, reduction="none"), made(name, reduction="none")
    assert torch.equal(half.given_to(one), full.given_to(other))
    gradient = half.gradient(one)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, full.gradient(other).to(dtype))
    assert_same_state(one, other)


@every_state
@kinds_of_target
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(name, made, kind, dtype):
    data = kind(batch().to(dtype))
    one, other = made(name, reduction="none"), made(name, reduction="none")
    with torch.autocast("cpu", torch.bfloat16):
        inside, gradient = data.given_to(one), data.gradient(one)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, data.given_to(other))
    assert torch.equal(gradient, data.gradient(other))
    assert_same_state(one, other)


@every_state
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_another_default_type_changes_nothing(name, made, default):
    data, before = batch(), torch.get_default_dtype()
    expected, plain = data.given_to(made(name)), made(name).state_dict()
    torch.set_default_dtype(default)
    try:
        loss = made(name)
        value = data.given_to(loss)
    finally:
        torch.set_default_dtype(before)
    assert {key: buffer.dtype for key, buffer in loss.state_dict().items()} == {
        key: buffer.dtype for key, buffer in plain.items()
    }
    torch.testing.assert_close(value, expected, rtol=1e-2 if made is warm else 0, atol=0)


@every_state
@pytest.mark.parametrize("how", ["assign", "to_empty", "one by one"])
def test_built_without_storage_and_filled_it_is_the_same(name, made, how):
    source, data = made(name), batch()
    with torch.device("meta"):
        loss = LOSSES[name](COUNTS)
    assert {buffer.device.type for buffer in loss.buffers()} <= {"meta"}
    if how == "to_empty":
        loss.to_empty(device="cpu")
    if how == "one by one":
        for key, value in source.state_dict().items():
            owner, _, leaf = key.rpartition(".")
            setattr(loss.get_submodule(owner), leaf, value.clone())
    else:
        loss.load_state_dict(copy.deepcopy(source.state_dict()), assign=how == "assign")
    assert all(torch.equal(a, b) for a, b in zip(steps(loss), steps(source), strict=True))
    assert data.given_to(loss) == data.given_to(source)
    assert_same_state(loss, source)


@every_loss
def test_a_buffer_counts_however_it_was_set(name):
    data, names = batch(), [key for key, _ in warm(name).named_buffers(recurse=False)]
    for key in names:
        if key == "class_group":
            continue
        before, assigned, written = (warm(name).eval() for _ in range(3))
        new = getattr(before, key) * 0.5 + 0.1
        setattr(assigned, key, new)
        getattr(written, key).copy_(new)
        assert torch.equal(data.given_to(assigned), data.given_to(written))
        assert not torch.equal(data.given_to(assigned), data.given_to(before))


@every_state
@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_every_integer_type_are_the_same(name, made, dtype):
    one, other, data = made(name), made(name), batch()
    assert data._replace(target=data.target.to(dtype)).given_to(one) == data.given_to(other)
    assert_same_state(one, other)


@every_state
@pytest.mark.parametrize("ignored", [-100, 3])
def test_ignored_samples_are_as_if_they_were_not_there(name, made, ignored):
    data = batch(8)._replace(target=torch.tensor([0, 1, ignored, 4, ignored, 2, 1, ignored]))
    kept = data.target != ignored
    data.logits[~kept, 0] = -torch.inf  # nothing of such a sample is finite
    some = data.rows(kept)
    for reduction in ("mean", "sum", "none"):
        whole, part = (made(name, reduction=reduction, ignore_index=ignored) for _ in range(2))
        value = data.given_to(whole)
        if reduction == "none":
            assert (value[~kept] == 0).all()
            value = value[kept]
        torch.testing.assert_close(value, some.given_to(part), rtol=1e-6, atol=0)
        gradient = data.gradient(whole)
        assert (gradient[~kept] == 0).all()
        torch.testing.assert_close(gradient[kept], some.gradient(part), rtol=1e-6, atol=1e-9)
        assert_same_state(whole, part, rtol=1e-6)


@every_state
def test_a_batch_of_ignored_samples_has_no_mean_and_a_sum_of_nothing(name, made):
    """As in torch."""
    data = batch()._replace(target=torch.full((8,), -100))
    assert data.given_to(made(name)).isnan()
    loss = made(name, reduction="sum")
    before = copy.deepcopy(loss.state_dict())
    assert data.given_to(loss) == 0
    assert (data.gradient(loss) == 0).all()
    for key, buffer in loss.state_dict().items():
        torch.testing.assert_close(buffer, before[key], rtol=0, atol=0, equal_nan=True)


@every_state
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_certain_probabilities_are_labels(name, made, reduction):
    data = batch()
    one, other = made(name, reduction=reduction), made(name, reduction=reduction)
    torch.testing.assert_close(data.one_hot().given_to(one), data.given_to(other), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(data.one_hot().gradient(one), data.gradient(other), rtol=1e-4, atol=1e-5)
    assert_same_state(one, other, rtol=1e-6)


@every_state
def test_the_loss_of_probabilities_is_the_expectation_over_the_label(name, made):
    loss, data = made(name, reduction="none"), batch().to(torch.float64)
    soft = mixed(data)
    of_labels = [
        data._replace(target=torch.full((8,), c)).given_to(made(name, reduction="none"))
        for c in range(CLASSES)
    ]
    expected = (soft.target * torch.stack(of_labels, dim=1)).sum(dim=1)
    torch.testing.assert_close(soft.given_to(loss), expected, rtol=1e-9, atol=1e-12)
    q = soft.target.clone().requires_grad_()
    (slope,) = gradients(soft._replace(target=q).given_to(made(name, reduction="none")), (q,))
    torch.testing.assert_close(slope, torch.stack(of_labels, dim=1), rtol=1e-9, atol=1e-12)


@every_state
def test_the_mean_of_probabilities_divides_as_that_of_labels(name, made):
    data = mixed(batch().to(torch.float64))
    each, mean = (data.given_to(made(name, reduction=reduction)) for reduction in ("none", "mean"))
    weight = class_balanced_weights(COUNTS).double() if name == "ldam-drw" else torch.ones(CLASSES).double()
    torch.testing.assert_close(mean, each.sum() / (data.target * weight).sum())


@every_state
def test_a_batch_of_one_sample(name, made):
    data = batch(3)
    alone = data.rows(slice(1, 2))
    one, all_of_them = made(name, reduction="none"), made(name, reduction="none")
    torch.testing.assert_close(alone.given_to(one)[0], data.given_to(all_of_them)[1])
    assert alone.given_to(made(name)).shape == ()
    assert alone.gradient(one).isfinite().all()


@every_state
@pytest.mark.parametrize("counts", [[9, 4], [5] * 5])
def test_two_classes_and_equal_counts(name, made, counts):
    loss = made(name, counts)
    data = batch(6, classes=len(counts))
    assert data.given_to(loss).isfinite()
    assert data.gradient(loss).isfinite().all()


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
        expected = buffer[order] if len(buffer) == CLASSES else buffer
        torch.testing.assert_close(other.state_dict()[key], expected, rtol=1e-5, atol=1e-6)


@every_state
def test_each_sample_counts_for_itself(name, made):
    data = batch()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(4))
    one, other = made(name, reduction="none"), made(name, reduction="none")
    assert torch.equal(data.rows(order).given_to(other), data.given_to(one)[order])
    end_epoch(one)
    end_epoch(other)
    assert_same_state(one, other, rtol=1e-6)


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
    assert data.given_to(made(name)) == mean, "the default"


@every_state
@kinds_of_target
def test_inputs_are_not_changed(name, made, kind):
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    loss, data = made(name, counts), kind(batch())
    before = [part.clone() for part in data]
    versions = [part._version for part in data]
    data.gradient(loss)
    data.given_to(loss)
    end_epoch(loss)
    for part, copied, version in zip(data, before, versions, strict=True):
        assert torch.equal(part, copied)
        assert part._version == version, "not even written to and restored"
    assert counts.tolist() == COUNTS


@pytest.mark.parametrize("name", ["focal", "ldam", "ib-focal"])
@pytest.mark.parametrize("maker", [list, np.array, torch.tensor])
def test_weights_may_be_a_list_an_array_or_a_tensor_and_are_copied(name, maker):
    expected = class_balanced_weights(COUNTS)
    weight = maker(expected.tolist())
    one, other = (LOSSES[name](COUNTS, weight=w) for w in (weight, expected))
    assert batch().given_to(one) == batch().given_to(other)
    assert_same_state(one, other)
    one.weight.fill_(3.0)
    assert list(weight) == expected.tolist()


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
def test_all_tensors_it_owns_are_buffers_that_its_state_holds(name):
    loss = warm(name)
    assert not [key for key, value in vars(loss).items() if isinstance(value, Tensor)]
    assert not list(loss.parameters())
    assert {key for key, _ in loss.named_buffers()} == set(loss.state_dict())


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


@stateful
@kinds_of_target
@pytest.mark.parametrize("place", [torch.no_grad, torch.inference_mode, nullcontext])
def test_evaluation_gathers_nothing(name, kind, place):
    """The released code lets test images into the means; so would a loss outside of the model, never told."""
    loss, untouched = warm(name), warm(name)
    loss.train(place is not nullcontext)
    with place():
        kind(batch(seed=3)).given_to(loss)
    assert_same_state(loss, untouched)


@stateful
@pytest.mark.parametrize("after", [lambda x: x, lambda x: x.exp() * x], ids=["last", "followed by more"])
@pytest.mark.parametrize("how", [{"use_reentrant": True}, {"use_reentrant": False}, {"early_stop": False}])
def test_with_activation_checkpointing_each_sample_counts_once(name, after, how):
    loss, plain, data = warm(name), warm(name), batch()
    how = {"use_reentrant": False, **how}
    for _ in range(2):
        logits = data.logits.clone().requires_grad_()
        checkpoint(lambda z: after(data._replace(logits=2 * z).given_to(loss)), logits, **how).backward()
        gradient = data._replace(logits=2 * data.logits).gradient(lambda *args: after(plain(*args)))
        torch.testing.assert_close(logits.grad, 2 * gradient)
    assert_same_state(loss, plain)


@every_loss
@pytest.mark.parametrize("label", [-1, CLASSES, 255])
def test_a_label_that_is_no_class_is_refused_on_the_cpu(name, label):
    """On a GPU and in compiled code it is an assertion of torch's."""
    data = batch(3)._replace(target=torch.tensor([0, label, -100]))
    with pytest.raises(InputError, match=rf"label is no class\n +got: +\[{label}\]\n.*0 to 4, or -100"):
        data.given_to(cold(name))
