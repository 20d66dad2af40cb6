"""What of a backbone is trained: which parameters, from which values, by which formula, what is refused."""

import pytest
import torch
from torch.nn import functional

from ffds.errors import InputError
from ffds.models.adapt import merged
from ffds.models.build import build_model
from ffds.recipes.schema import Model

VIT = "timm/test_vit"
IMAGES = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def build(name=VIT, num_classes=60, seed=0, **settings):
    how = {"head": "linear", "num_classes": num_classes, "in_channels": 3, "seed": seed}
    return build_model(Model(name=name, **settings), **how)


def trained(network):
    return {name for name, one in network.backbone.named_parameters() if one.requires_grad}


def moved(network):
    """The same network after noise was added to all that is trained."""
    torch.manual_seed(0)
    with torch.no_grad():
        for one in network.parameters():
            if one.requires_grad:
                one.add_(torch.randn_like(one), alpha=0.1)
    return network


@pytest.mark.parametrize("adapt", ["norm", "bias", "adaptformer", "lora"])
def test_an_adapted_network_begins_as_the_one_it_adapts(adapt):
    network, plain = build(adapt=adapt).eval(), build().eval()
    with torch.no_grad():
        assert torch.equal(network(IMAGES), plain(IMAGES))
        assert not torch.equal(moved(network).backbone(IMAGES), plain.backbone(IMAGES))


@pytest.mark.parametrize("name", [VIT, "timm/test_resnet", "timm/test_convnext", "resnet20"])
def test_norms_and_biases_of_any_network(name):
    plain = dict(build(name).backbone.named_parameters())
    assert trained(build(name, adapt="bias")) == {key for key in plain if key.endswith(".bias")}
    of_norms = {key for key, one in plain.items() if key.endswith("weight") and one.ndim == 1}
    of_norms |= {key.replace("weight", "bias") for key in of_norms}
    assert trained(build(name, adapt="norm")) == of_norms


def test_adapters_and_lora_alone_are_trained():
    for adapt, part in (("adaptformer", ".adapter."), ("lora", ".lora_")):
        network = build(adapt=adapt)
        names = trained(network)
        assert names == {name for name, _ in network.backbone.named_parameters() if part in name}
        assert {int(name.split(".")[1]) for name in names} == set(range(6))


@pytest.mark.parametrize(
    ("num_classes", "dim", "width"), [(60, None, 4), (95, None, 4), (96, None, 8), (3, None, 1), (3, 5, 5)]
)
def test_the_width_of_adapters(num_classes, dim, width):
    adapters = build(num_classes=num_classes, adapt="adaptformer", adapter_dim=dim).state_dict()
    assert adapters["backbone.blocks.5.adapter.down.weight"].shape == (width, 64)
    lora = build(num_classes=num_classes, adapt="lora", adapter_dim=dim).state_dict()
    assert lora["backbone.blocks.5.attn.qkv.lora_A.default.weight"].shape == (width, 64)


def test_an_adapter_stands_beside_the_mlp():
    block = moved(build(adapt="adaptformer", adapter_dim=8)).eval().backbone.blocks[2]
    inner, adapter = block.block, block.adapter
    tokens = torch.randn(2, 7, 64)
    between = tokens + inner.attn(inner.norm1(tokens))
    x = (between - between.mean(-1, keepdim=True)) / (
        between.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    x = x * adapter.norm.weight + adapter.norm.bias
    low = (x @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    added = adapter.scale * (low @ adapter.up.weight.T + adapter.up.bias)
    torch.testing.assert_close(block(tokens), between + inner.mlp(inner.norm2(between)) + added)


def test_lora_merged_is_the_same_network_under_its_own_names():
    network, plain = moved(build(adapt="lora", adapter_dim=2, lora_alpha=3.0)).eval(), build()
    state = network.backbone.state_dict()
    together = merged(network.backbone)
    assert together.state_dict().keys() == plain.backbone.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(together(IMAGES), network.backbone(IMAGES))
    at = "blocks.1.attn.qkv"
    low, up = (state[f"{at}.lora_{part}.default.weight"] for part in "AB")
    expected = state[f"{at}.base_layer.weight"] + 3 / 2 * up @ low
    torch.testing.assert_close(together.state_dict()[f"{at}.weight"], expected)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.backbone.state_dict().items())


def test_the_seed_alone_decides_adapters_and_the_rest_is_as_without_them():
    for adapt in ("adaptformer", "lora"):
        torch.manual_seed(1)
        one, again, other = (build(adapt=adapt, seed=seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[key], again[key]) for key in one)
        inserted = [key for key in one if key.endswith(("down.weight", "lora_A.default.weight"))]
        assert inserted
        assert not any(torch.equal(one[key], other[key]) for key in inserted)
        assert torch.equal(one["head.weight"], build().head.weight)


@pytest.mark.parametrize("adapt", ["norm", "bias"])
def test_batch_norm_keeps_its_statistics_unless_it_is_trained(adapt):
    network = build("resnet20", adapt=adapt).train()
    before = {name: one.clone() for name, one in network.backbone.named_buffers()}
    network(functional.interpolate(IMAGES, 32))
    same = all(torch.equal(one, before[name]) for name, one in network.backbone.named_buffers())
    assert same == (adapt == "bias")
    assert network.head.training


@pytest.mark.parametrize("adapt", ["adaptformer", "lora"])
def test_a_network_that_takes_no_adapters(adapt):
    words = rf"test_resnet has no blocks that take such adapters\n.*adapt\n.*{adapt}\n.*full, norm or bias"
    with pytest.raises(InputError, match=words):
        build("timm/test_resnet", adapt=adapt)
