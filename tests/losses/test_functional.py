import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffds.errors import InputError
from ffds.losses import functional
from tests.losses import naive

CLASSES = 5
unit = st.floats(0, 1)


def logits_and_target(samples: int = 12, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = spread * torch.randn(samples, CLASSES, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.arange(samples) % CLASSES


def gradient(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss.sum(), inputs, retain_graph=True)


def logits_of(probability: float) -> Tensor:
    """Two classes, the first with this probability."""
    return torch.tensor([[math.log(probability), math.log1p(-probability)]], dtype=torch.float64)


def test_cross_entropy_equals_its_twin():
    logits, target = logits_and_target()
    torch.testing.assert_close(
        functional.cross_entropy(logits, target), naive.cross_entropy(logits, target), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.99])
def test_label_smoothed_cross_entropy_equals_its_twin(smoothing):
    logits, target = logits_and_target()
    ours = functional.label_smoothed_cross_entropy(logits, target, smoothing)
    twin = naive.smoothed(logits, target, smoothing)
    torch.testing.assert_close(ours, twin, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(ours, logits), gradient(twin, logits), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_is_that_of_torch_with_a_larger_epsilon(smoothing):
    logits, target = logits_and_target()
    theirs = F.cross_entropy(
        logits, target, reduction="none", label_smoothing=smoothing * CLASSES / (CLASSES - 1)
    )
    ours = functional.label_smoothed_cross_entropy(logits, target, smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_label_smoothing_of_one_half_with_two_classes_forgets_the_label():
    logits = torch.tensor([[2.0, -1.0], [2.0, -1.0]])
    one, other = functional.label_smoothed_cross_entropy(logits, torch.tensor([0, 1]), 0.5)
    assert one.item() == pytest.approx(other.item())


@settings(deadline=None, max_examples=300)
@given(unit, unit, unit)
def test_smoothed_probability_lies_between_probability_and_group_mean(p, mean, k):
    p_hat = functional.dynamic_smoothing(
        torch.tensor(p, dtype=torch.float64), torch.tensor(mean, dtype=torch.float64), k
    ).item()
    assert min(p, mean) - 1e-15 <= p_hat <= max(p, mean) + 1e-15


@settings(deadline=None, max_examples=100)
@given(unit, unit, unit, unit)
def test_more_smoothing_moves_the_probability_further_to_the_group_mean(p, mean, k, other):
    weak, strong = sorted([k, other])
    at = torch.tensor([p, p], dtype=torch.float64)
    p_hat = functional.dynamic_smoothing(at, torch.full_like(at, mean), torch.tensor([weak, strong]))
    near, far = (p_hat - mean).abs().flip(0).tolist()
    assert near <= far + 1e-15


@pytest.mark.parametrize(
    ("p", "mean", "k", "p_hat"),
    [
        (1.0, 0.0, 1.0, 0.0),  # d = 1: all the way to the mean
        (1.0, 0.0, 0.5, 0.75),  # f = 1/4
        (0.25, 0.81, 1.0, 0.3396),  # d = -0.4, f = 0.16: pulled up, 0.25 + 0.16 * 0.56
        (0.81, 0.25, 1.0, 0.7204),  # the same pull, downwards
        (0.25, 0.81, 0.9, 0.322576),  # f = 0.81 * 0.16
        (0.49, 0.49, 1.0, 0.49),
        (0.64, 0.09, 0.0, 0.64),
    ],
)
def test_smoothed_probability_by_hand(p, mean, k, p_hat):
    ours = functional.dynamic_smoothing(torch.tensor(p).double(), torch.tensor(mean).double(), k)
    assert ours.item() == pytest.approx(p_hat, abs=1e-7)


def curve_of_figure_2a(p: float, mean: float, gamma: float = 1.0) -> float:
    """Loss of D-FFDS against p, without weight and label smoothing."""
    value, probability = functional.ffds(
        logits_of(p),
        torch.tensor([0]),
        class_weight=torch.ones(2),
        gamma=torch.full((2,), gamma),
        group_mean=torch.full((2,), mean, dtype=torch.float64),
        k=0.9,
        smoothing=0.0,
    )
    assert probability.item() == pytest.approx(p)
    return value.item()


def test_figure_2a_by_hand():
    assert curve_of_figure_2a(0.25, 0.81) == pytest.approx((1 - 0.322576) * math.log(4))
    # p̄ = 0.09, p = 0.64: d = 0.5, f = 0.2025, p̂ = 0.64 - 0.2025 * 0.55
    assert curve_of_figure_2a(0.64, 0.09) == pytest.approx((1 - 0.528625) * math.log(1 / 0.64))


@pytest.mark.parametrize("mean", [0.3, 0.5, 0.7, 0.9])
def test_figure_2a_crosses_the_focal_loss_at_the_group_mean(mean):
    def above_focal(p: float) -> float:
        return curve_of_figure_2a(p, mean) - functional.focal(logits_of(p), torch.tensor([0])).item()

    assert above_focal(mean) == pytest.approx(0, abs=1e-9)
    assert above_focal(mean / 2) < 0, "below the mean p̂ > p: less loss than the focal loss"
    assert above_focal((1 + mean) / 2) > 0, "above it p̂ < p: more"
    assert curve_of_figure_2a(mean, mean, gamma=0.0) == pytest.approx(-math.log(mean))


SETTINGS = {
    "class_weight": torch.tensor([0.2, 0.6, 1.0, 1.4, 1.8], dtype=torch.float64),
    "gamma": torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64),
    "group_mean": torch.tensor([0.9, 0.9, 0.4, 0.4, 0.1], dtype=torch.float64),
}


def ffds_by_loops(logits, target, class_weight, gamma, group_mean, k, smoothing):
    """The loss with a constant weight, and its gradient w·(p − Q) by hand."""
    probability = naive.softmax(logits.detach())
    values, gradients = [], []
    for p, label, ce in zip(
        probability, target.tolist(), naive.smoothed(logits, target, smoothing), strict=True
    ):
        p_y, p_bar = float(p[label]), float(group_mean[label])
        p_hat = p_y - (k * (p_y**0.5 - p_bar**0.5)) ** 2 * (p_y - p_bar)
        weight = float(class_weight[label]) * (1 - p_hat) ** float(gamma[label])
        q = [1 - smoothing if j == label else smoothing / (len(p) - 1) for j in range(len(p))]
        values.append(weight * ce)
        gradients.append(weight * (p - torch.tensor(q, dtype=torch.float64)))
    return torch.stack(values), torch.stack(gradients)


@pytest.mark.parametrize("k", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ffds_and_its_gradient_equal_a_twin_with_a_constant_weight(k, smoothing):
    logits, target = logits_and_target()
    ours, _ = functional.ffds(logits, target, **SETTINGS, k=k, smoothing=smoothing)
    twin, by_hand = ffds_by_loops(logits, target, **SETTINGS, k=k, smoothing=smoothing)
    torch.testing.assert_close(ours, twin, rtol=1e-10, atol=1e-14)
    (of_ours,) = gradient(ours, logits)
    torch.testing.assert_close(of_ours, by_hand, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(of_ours, *gradient(twin, logits), rtol=1e-10, atol=1e-14)


def test_the_weight_of_ffds_is_not_differentiated():
    """Focal loss of the same value has another gradient."""
    logits, target = logits_and_target()
    plain = {"class_weight": torch.ones(CLASSES), "gamma": torch.ones(CLASSES)}
    ours, probability = functional.ffds(
        logits, target, **plain, group_mean=torch.full((CLASSES,), torch.nan), smoothing=0.0
    )
    focal = functional.focal(logits, target, 1.0)
    torch.testing.assert_close(ours, focal, rtol=1e-12, atol=0)
    assert not torch.allclose(*gradient(ours, logits), *gradient(focal, logits))
    assert not probability.requires_grad


def test_an_unknown_group_mean_leaves_the_probability_as_it_is():
    logits, target = logits_and_target()
    known = SETTINGS["group_mean"]
    some = known.masked_fill(torch.tensor([False, True, False, True, False]), torch.nan)
    partly, _ = functional.ffds(logits, target, **{**SETTINGS, "group_mean": some}, k=0.9)
    smoothed, _ = functional.ffds(logits, target, **SETTINGS, k=0.9)
    unsmoothed, _ = functional.ffds(logits, target, **SETTINGS, k=0.0)
    expected = torch.where(some[target].isnan(), unsmoothed, smoothed)
    torch.testing.assert_close(partly, expected, rtol=1e-12, atol=0)
    assert not torch.allclose(partly, smoothed)


def test_ffds_without_any_of_its_parts_is_cross_entropy():
    logits, target = logits_and_target()
    none = {**SETTINGS, "class_weight": torch.ones(CLASSES), "gamma": torch.zeros(CLASSES)}
    ours, probability = functional.ffds(logits, target, **none, k=0.0, smoothing=0.0)
    theirs = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(probability, torch.exp(-theirs), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits), rtol=1e-12, atol=1e-15)


def test_ffds_with_gamma_zero_is_weighted_smoothed_cross_entropy():
    logits, target = logits_and_target()
    ours, _ = functional.ffds(logits, target, **{**SETTINGS, "gamma": torch.zeros(CLASSES)}, smoothing=0.2)
    expected = SETTINGS["class_weight"][target] * naive.smoothed(logits, target, 0.2)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_ffds_without_smoothing_is_weighted_focal_loss():
    logits, target = logits_and_target()
    gamma = {"gamma": torch.full((CLASSES,), 1.5)}
    ours, _ = functional.ffds(logits, target, **{**SETTINGS, **gamma}, k=0.0, smoothing=0.0)
    expected = naive.focal(logits, target, 1.5, SETTINGS["class_weight"].tolist())
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_equals_its_twin(gamma):
    logits, target = logits_and_target()
    ours, twin = functional.focal(logits, target, gamma), naive.focal(logits, target, gamma)
    torch.testing.assert_close(ours, twin, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(gradient(ours, logits), gradient(twin, logits), rtol=1e-8, atol=1e-12)


def test_focal_with_gamma_zero_is_cross_entropy():
    logits, target = logits_and_target()
    ours, theirs = functional.focal(logits, target, 0.0), F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_ldam_equals_its_twin(scale):
    logits, target = logits_and_target()
    cosines = torch.tanh(logits)
    counts = [500, 3, 40, 120, 7]
    margin = torch.tensor(naive.margins(counts, 0.5), dtype=torch.float64)
    ours = functional.ldam(cosines, target, margin, scale)
    twin = naive.ldam(cosines, target, counts, 0.5, scale)
    torch.testing.assert_close(ours, twin, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient(ours, logits), gradient(twin, logits), rtol=1e-8, atol=1e-12)


def test_ldam_without_margin_is_cross_entropy_of_the_scaled_logits():
    logits, target = logits_and_target()
    ours = functional.ldam(logits, target, torch.zeros(CLASSES), 7.0)
    torch.testing.assert_close(ours, F.cross_entropy(7 * logits, target, reduction="none"))


def ldam_and_cross_entropy(logits, target):
    ours = functional.ldam(logits, target, torch.zeros(logits.shape[1]), 3.0)
    return ours, F.cross_entropy(3 * logits, target, reduction="none")


def smoothed_and_torchs(logits, target):
    """torch spreads ε over all classes, the label's among them."""
    smoothing = 0.1 * logits.shape[1] / (logits.shape[1] - 1)
    ours = functional.label_smoothed_cross_entropy(logits, target, 0.1)
    return ours, F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)


@pytest.mark.parametrize("both", [ldam_and_cross_entropy, smoothed_and_torchs])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 17, 1000, 1025, 8142])
def test_softmax_and_gradient_may_be_written_in_place_at_any_width(both, classes, dtype):
    """torch does not promise it: each row has to be read before it is written. And twice gives the same."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(37, classes, generator=generator, dtype=dtype).requires_grad_()
    ours, theirs = both(logits, torch.randint(classes, (37,), generator=generator))
    torch.testing.assert_close(ours, theirs)
    for _ in range(2):
        torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("alpha", "epsilon"), [(1000.0, 1e-3), (1.0, 0.5)])
def test_influence_balanced_equals_its_twin_also_in_both_gradients(alpha, epsilon, gamma):
    logits, target = logits_and_target()
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(target), 4, generator=generator, dtype=torch.float64).requires_grad_()
    setting = {"alpha": alpha, "epsilon": epsilon, "gamma": gamma}
    ours = functional.influence_balanced(logits, target, features, **setting)
    twin = naive.influence_balanced(logits, target, features, **setting)
    torch.testing.assert_close(ours, twin, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        gradient(ours, logits, features), gradient(twin, logits, features), rtol=1e-7, atol=1e-10
    )
    assert gradient(twin, features)[0].abs().max() > 0, "the factor is not detached"


def test_influence_balanced_without_influence_is_cross_entropy():
    logits, target = logits_and_target()
    expected = F.cross_entropy(logits, target, reduction="none")
    silent = functional.influence_balanced(
        logits, target, torch.zeros(len(target), 3), alpha=0.2, epsilon=0.2
    )
    torch.testing.assert_close(silent, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gradient(silent, logits), gradient(expected, logits), rtol=1e-12, atol=1e-14)
    drowned = functional.influence_balanced(
        logits, target, torch.ones(len(target), 3), alpha=1e15, epsilon=1e15
    )
    torch.testing.assert_close(drowned, expected, rtol=1e-12, atol=1e-15)


def test_influence_balanced_by_hand():
    # p_y = 0.25: 1.5 away from the label in the L1 norm; features 1 + 3.
    features = torch.tensor([[1.0, -3.0]], dtype=torch.float64)
    value = functional.influence_balanced(
        logits_of(0.25), torch.tensor([0]), features, alpha=2.0, epsilon=0.5
    )
    assert value.item() == pytest.approx(math.log(4) * 2 / (1.5 * 4 + 0.5))


def test_values_of_classes_in_two_dimensions_are_refused():
    with pytest.raises(InputError, match="another number of classes"):
        functional.per_sample(torch.ones(5, 2), torch.zeros(3, 2), torch.tensor([1, 0, 1]))


def test_per_sample_picks_the_value_of_the_label():
    picked = functional.per_sample(torch.tensor([5.0, 7.0]), torch.zeros(3, 2), torch.tensor([1, 0, 1]))
    assert picked.tolist() == [7.0, 5.0, 7.0]


@pytest.mark.parametrize("features", [torch.ones(1, 4), torch.ones(3), torch.ones(3, 4, 2, 2)])
def test_features_that_do_not_fit_are_refused(features):
    with pytest.raises(InputError, match=r"features \(N, D\)"):
        functional.influence_balanced(torch.zeros(3, 2), torch.tensor([0, 1, 0]), features)
