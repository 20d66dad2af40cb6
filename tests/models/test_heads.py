"""Heads: their initial weights and their formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.models.heads import CosineHead, LinearHead


def test_linear_head_is_an_affine_map_that_starts_as_in_the_released_networks():
    torch.manual_seed(0)
    head = LinearHead(64, 1000)
    assert head.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert head.bias.abs().max() <= 64**-0.5
    assert head.bias.std().item() == pytest.approx(64**-0.5 / 3**0.5, rel=0.1)
    features = torch.randn(4, 64)
    torch.testing.assert_close(head(features), features @ head.weight.T + head.bias)


def test_a_prior_bias_gives_each_class_its_share_of_the_probability_and_has_no_decay():
    torch.manual_seed(0)
    plain = LinearHead(8, 5)
    torch.manual_seed(0)
    prior = LinearHead(8, 5, prior_bias=True)
    assert torch.equal(prior.weight, plain.weight)
    torch.testing.assert_close(prior.bias.sigmoid(), torch.full((5,), 1 / 5))
    assert (plain.no_weight_decay(), prior.no_weight_decay()) == (set(), {"bias"})


def test_cosine_head_starts_with_unit_weights_and_no_bias():
    torch.manual_seed(0)
    head = CosineHead(64, 1000)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert head.weight.shape == (1000, 64)
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(1000))
    assert head.weight.mean().abs() < 0.005


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.floats(1e-3, 1e6), st.integers(0, 2**32))
def test_cosine_head_equals_the_cosine_and_knows_no_length(dim, classes, batch, length, seed):
    generator = torch.Generator().manual_seed(seed)
    head = CosineHead(dim, classes)
    features = torch.randn(batch, dim, generator=generator) + 0.1
    h, w = features.double(), head.weight.detach().double()
    cosines = h @ w.T / (h.square().sum(1).sqrt()[:, None] * w.square().sum(1).sqrt())
    torch.testing.assert_close(head(length * features).double(), cosines, rtol=0, atol=1e-4)


def test_a_scaled_cosine_head_is_the_cosine_times_s_and_may_begin_with_class_means():
    head, scaled = CosineHead(8, 3), CosineHead(8, 3, scale=25.0)
    means, features = 7 * torch.randn(3, 8), torch.randn(4, 8)
    for one in (head, scaled):
        one.start_from_means(means)
    torch.testing.assert_close(scaled(features), 25 * head(features))
    cosines = torch.nn.functional.cosine_similarity(features[:, None], means[None], dim=2)
    torch.testing.assert_close(head(features), cosines)
    assert scaled(means).argmax(1).tolist() == [0, 1, 2]


def test_zero_features_have_logit_zero_and_finite_gradients():
    head = CosineHead(4, 3)
    features = torch.zeros(2, 4, requires_grad=True)
    logits = head(features)
    assert (logits == 0).all()
    (1e4 * logits).sum().backward()
    assert features.grad.abs().max() <= 1e11
    assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cosine_head_computes_in_float32(dtype):
    head = CosineHead(64, 5)
    features = (300 * torch.randn(3, 64)).to(dtype)
    expected = head(features.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = head(features)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, expected)
