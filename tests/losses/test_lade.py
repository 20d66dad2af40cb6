"""LADE, whose regulariser belongs to the batch, not to a sample: what of the laws can hold for it."""

import copy

import pytest
import torch

from ffds.errors import InputError
from ffds.losses import LADELoss, LogitAdjustedLoss
from tests.losses import naive
from tests.losses.battery import COUNTS, Batch, batch, kinds_of_target, mixed


def lade(**how):
    return LADELoss(COUNTS, **{"alpha": 0.3, "penalty": 0.2, **how})


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 3e-5)])
@pytest.mark.parametrize("samples", [1, 3, 20])
def test_value_and_gradient_equal_the_twin(samples, dtype, rtol):
    data = batch(samples).to(dtype)
    logits = data.logits.requires_grad_()
    value = data.given_to(lade())
    expected = naive.lade(logits, data.target, COUNTS, 0.3, 0.2)
    torch.testing.assert_close(value, expected.to(dtype), rtol=rtol, atol=0)
    ours, theirs = (torch.autograd.grad(v, logits)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)


@kinds_of_target
def test_without_alpha_it_is_balanced_softmax(kind):
    data = kind(batch())
    assert data.given_to(lade(alpha=0.0)) == data.given_to(LogitAdjustedLoss(COUNTS))


def test_the_regulariser_is_0_where_the_logits_hold_no_class():
    """With uniform counts and logits 0 every b and every a is 0."""
    data = batch()._replace(logits=torch.zeros(8, 5))
    value = LADELoss([9] * 5, alpha=7.0, penalty=2.0).regulariser(data.logits, data.target)
    torch.testing.assert_close(value, torch.tensor(0.0))


def test_labels_equal_their_probabilities_and_all_reductions_agree():
    for data in (batch(), mixed(batch())):
        each, total, mean = (data.given_to(lade(reduction=how)) for how in ("none", "sum", "mean"))
        torch.testing.assert_close(total, each.sum())
        torch.testing.assert_close(mean, each.mean())
    data = batch()
    torch.testing.assert_close(data.given_to(lade()), data.one_hot().given_to(lade()))
    torch.testing.assert_close(data.gradient(lade()), data.one_hot().gradient(lade()))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ignored_samples_are_as_if_they_were_not_there(reduction):
    data = batch(8)._replace(target=torch.tensor([0, 1, -100, 4, -100, 2, 1, -100]))
    kept = data.target >= 0
    data.logits[~kept, 0] = -torch.inf
    some, loss = data.rows(kept), lade(reduction=reduction)
    torch.testing.assert_close(data.given_to(loss), some.given_to(loss))
    gradient = data.gradient(loss)
    assert (gradient[~kept] == 0).all()
    torch.testing.assert_close(gradient[kept], some.gradient(loss))
    nothing = batch()._replace(target=torch.full((8,), -100))
    assert nothing.given_to(lade()).isnan()
    assert (nothing.gradient(lade(reduction="sum")) == 0).all()


@kinds_of_target
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_less_precise_logits_are_computed_in_float32_and_extreme_ones_stay_finite(kind, dtype):
    data = kind(batch().to(dtype))
    assert torch.equal(data.given_to(lade()), data.to(torch.float32).given_to(lade()))
    data = kind(Batch(1e4 * (2 * torch.eye(5) - 1), torch.arange(5), torch.zeros(5, 6)).to(dtype))
    assert data.given_to(lade()).isfinite()
    assert data.gradient(lade()).isfinite().all()


@kinds_of_target
def test_one_compiled_graph_equals_the_loss(kind):
    torch._dynamo.reset()
    eager, data = lade(), kind(batch())
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(data.gradient(compiled), data.gradient(eager), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("setting", [{"alpha": -1.0}, {"penalty": float("nan")}, {"alpha": float("inf")}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InputError, match="finite alpha, penalty >= 0"):
        lade(**setting)
