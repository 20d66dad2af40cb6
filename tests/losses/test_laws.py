"""Whatever holds for a loss as such holds for each of them."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ffds.losses import (
    FFDSLoss,
    FocalLoss,
    GCLLoss,
    InfluenceBalancedLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    SigmoidFocalLoss,
    VSLoss,
    WeightedCrossEntropyLoss,
    class_balanced_weights,
    inverse_frequency_weights,
)
from tests.losses import naive
from tests.losses.battery import (
    COUNTS,
    LOSSES,
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


@every_state
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 3e-5)])
def test_value_and_gradients_equal_the_twin(name, made, dtype, rtol):
    loss, data = made(name, reduction="none"), batch(20).to(dtype)
    inputs = data.logits.requires_grad_(), data.features.requires_grad_()
    value, expected = data.given_to(loss), twin(loss, data)
    torch.testing.assert_close(value, expected.to(dtype), rtol=rtol, atol=1e-3 * rtol)
    ours, theirs = (torch.autograd.grad(v.sum(), inputs, materialize_grads=True) for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)


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


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        # k·d = 0.9·(0.5 − 0.9), p̂ = 0.25 + 0.1296·0.56: a point of figure 2a
        (FFDSLoss([1, 1], beta=0.0, gamma_min=1.0, label_smoothing=0.0), (1 - 0.322576) * math.log(4)),
        (FocalLoss(2.0, weight=[3.0, 1.0]), 3 * 0.75**2 * math.log(4)),
        (LDAMLoss([1, 16], scale=2.0), math.log1p(9 * math.exp(2 * 0.5))),
        (InfluenceBalancedLoss(alpha=2.0, epsilon=0.5), math.log(4) * 2 / (1.5 * 4 + 0.5)),
        # Of the odds 1 : 3 the counts make 1 : 6, and of their square 1 : 12.
        (LogitAdjustedLoss([10, 20]), math.log(7)),
        (LogitAdjustedLoss([10, 20], tau=2.0), math.log(13)),
        # Δ = ¼ and 1: the label has the odds 4^(−¼) : ¾.
        (VSLoss([1, 16], gamma=0.5, tau=0.0), math.log1p(0.75 * 4**0.25)),
        # σ(log ¼) = 1/5 of the label and σ(−log ¾) = 4/7 of the other class
        (SigmoidFocalLoss(weight=[3.0, 1.0]), 3 * (4 / 5 * math.log(5) + 3 / 7 * math.log(7 / 4))),
    ],
)
def test_by_hand(loss, by_hand):
    """The label has p = 0.25, its group the mean 0.81, the features the norm 4."""
    if isinstance(loss, FFDSLoss):
        loss.group_means.fill_(0.81)
    logits = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    data = Batch(logits, torch.tensor([0]), torch.tensor([[1.0, -3.0]]))
    assert data.given_to(loss).item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(
    ("limit", "simpler"),
    [
        (WeightedCrossEntropyLoss([3.0] * CLASSES), nn.CrossEntropyLoss()),
        (LogitAdjustedLoss(COUNTS, tau=0.0), nn.CrossEntropyLoss()),
        (LogitAdjustedLoss([9] * CLASSES, tau=2.0), nn.CrossEntropyLoss()),
        (VSLoss(COUNTS, gamma=0.0, tau=0.7), LogitAdjustedLoss(COUNTS, tau=0.7)),
        (VSLoss([9] * CLASSES), nn.CrossEntropyLoss()),
    ],
)
def test_in_the_limit_a_loss_is_a_simpler_one(limit, simpler):
    data = batch(20).to(torch.float64)
    for kind in (data, mixed(data)):
        torch.testing.assert_close(kind.given_to(limit), kind.given_to(simpler), rtol=1e-6, atol=0)


@pytest.mark.parametrize("max_margin", [0.5, 0.1])
def test_margins_equal_the_formula(max_margin):
    margin = LDAMLoss(COUNTS, max_margin=max_margin).margin
    torch.testing.assert_close(margin, torch.tensor(naive.margins(COUNTS, max_margin)))
    assert margin[4].item() == pytest.approx(max_margin), "the rarest class has the largest margin"


@every_state
def test_second_derivative_equals_that_of_the_twin(name, made):
    """Also where the weight of FFDS, a constant for the gradient, depends on the logits."""
    loss, data = made(name, reduction="none"), batch(2).to(torch.float64)
    hessians = [
        torch.autograd.functional.hessian(lambda z, f=function: f(data._replace(logits=z)).sum(), data.logits)
        for function in (lambda d: d.given_to(loss), lambda d: twin(loss, d))
    ]
    torch.testing.assert_close(*hessians, rtol=1e-8, atol=1e-10)


@every_loss
@kinds_of_target
def test_first_and_second_derivatives_equal_finite_differences(name, kind):
    """Of FFDS and GCL with a weight that does not depend on the logits."""
    loss, data = cold(name), kind(batch(3).to(torch.float64))
    data = data._replace(logits=0.4 * data.logits)
    if isinstance(loss, GCLLoss):
        loss.gamma = 0.0
    if isinstance(loss, FFDSLoss):
        loss.gamma.zero_()
        loss.group_means.fill_(0.5)

    def function(logits, features):
        return Batch(logits, data.target, features).given_to(loss)

    inputs = data.logits.requires_grad_(), data.features.requires_grad_()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@every_state
@kinds_of_target
@pytest.mark.parametrize(
    "laid_out",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.stack([x, x], dim=2)[:, :, 1],
    ],
    ids=["transposed", "strided"],
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
    loss, untouched, data = made(name), made(name), kind(batch())

    def value(logits, target, features):
        return Batch(logits[None], target[None], features[None]).given_to(loss)

    each = torch.func.vmap(torch.func.grad(value))(*data)
    one = torch.func.grad(value)(*data.rows(0))
    assert_same_state(loss, untouched)
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
def test_probability_on_a_masked_class_costs_infinitely(name, made):
    data = mixed(batch())
    logits = data.logits.clone()
    logits[:, 0] = -torch.inf
    value = data._replace(logits=logits).given_to(made(name, reduction="none"))
    assert value.isposinf().equal(data.target[:, 0] > 0)
    assert value.isposinf().any()


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
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_less_precise_inputs_and_autocast_are_computed_in_float32(name, made, kind, dtype, autocast):
    data, one, other = kind(batch().to(dtype)), made(name, reduction="none"), made(name, reduction="none")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value, gradient = data.given_to(one), data.gradient(one)
    full = data.to(torch.float32)
    assert value.dtype == torch.float32
    assert torch.equal(value, full.given_to(other))
    assert gradient.dtype == dtype
    assert torch.equal(gradient, full.gradient(other).to(dtype))
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


def steps(loss: nn.Module) -> list[Tensor]:
    values = [batch(seed=20).given_to(loss), batch(1, seed=21).given_to(loss)]
    end_epoch(loss)
    return [*values, batch(seed=22).given_to(loss)]


@every_state
@pytest.mark.parametrize("how", ["load", "assign", "to_empty", "one by one"])
def test_built_anew_with_or_without_storage_and_filled_it_goes_on_exactly(name, made, how):
    source, state = made(name), copy.deepcopy(made(name).state_dict())
    with torch.device("cpu" if how == "load" else "meta"):
        loss = cold(name)
    assert how == "load" or all(buffer.is_meta for buffer in loss.buffers())
    if how == "to_empty":
        loss.to_empty(device="cpu")
    if how == "one by one":
        for key, value in state.items():
            owner, _, leaf = key.rpartition(".")
            setattr(loss.get_submodule(owner), leaf, value)
    else:
        loss.load_state_dict(state, assign=how == "assign")
    assert all(torch.equal(a, b) for a, b in zip(steps(loss), steps(source), strict=True))
    assert_same_state(loss, source)


@every_loss
def test_a_buffer_counts_however_it_was_set(name):
    """But for the size of the noise, which there is only in training."""
    for key in {key for key, _ in cold(name).named_buffers(recurse=False)} - {"class_group", "size"}:
        before, assigned, written = (warm(name).eval() for _ in range(3))
        new = getattr(before, key) * 0.5 + 0.1
        setattr(assigned, key, new)
        getattr(written, key).copy_(new)
        assert batch().given_to(assigned) == batch().given_to(written) != batch().given_to(before)


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
    loss, untouched = made(name, reduction="sum"), made(name)
    assert data.given_to(loss) == 0
    assert (data.gradient(loss) == 0).all()
    assert_same_state(loss, untouched)


@every_state
def test_the_loss_of_probabilities_is_the_expectation_over_the_label(name, made):
    loss, data = made(name, reduction="none"), batch().to(torch.float64)
    of_labels = torch.stack(
        [data._replace(target=torch.full((8,), c)).given_to(loss) for c in range(CLASSES)], dim=1
    )
    soft = mixed(data)
    soft.target.requires_grad_()
    value = soft.given_to(loss)
    torch.testing.assert_close(value, (soft.target * of_labels).sum(dim=1), rtol=1e-9, atol=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), soft.target)
    torch.testing.assert_close(slope, of_labels, rtol=1e-9, atol=1e-12)


@every_state
@kinds_of_target
def test_reductions_agree(name, made, kind):
    data = kind(batch().to(torch.float64))
    each, total, mean = (data.given_to(made(name, reduction=how)) for how in ("none", "sum", "mean"))
    assert each.shape == (8,)
    torch.testing.assert_close(total, each.sum())
    weights = {"ldam-drw": class_balanced_weights, "weighted-ce": inverse_frequency_weights}
    weight = weights[name](COUNTS).double() if name in weights else torch.ones(CLASSES).double()
    q = data.target if data.target.ndim == 2 else data.one_hot().target
    torch.testing.assert_close(mean, each.sum() / (q * weight).sum())
    assert data.given_to(made(name)) == mean, "the default"


@every_state
@kinds_of_target
def test_inputs_are_not_changed(name, made, kind):
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    loss, data = made(name, counts), kind(batch())
    before, versions = copy.deepcopy(data), [part._version for part in data]
    data.gradient(loss)
    end_epoch(loss)
    assert all(map(torch.equal, data, before))
    assert [part._version for part in data] == versions, "not even written to and restored"
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


@every_state
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_is_cast_leaves_its_loss_in_full_precision(name, made, dtype):
    kept, model = made(name), nn.Sequential(nn.Linear(2, 2), made(name)).to(dtype)
    assert model[0].weight.dtype == dtype
    data = batch().to(dtype)
    assert data.given_to(model[1]) == data.given_to(kept)
    end_epoch(model[1])
    end_epoch(kept)
    assert_same_state(kept, model[1])
