"""Networks by name: their sizes, their heads, the seed of their weights, and names that are refused."""

import urllib.error

import pytest
import timm
import torch

from ffds.errors import InputError
from ffds.models.build import build_model
from ffds.models.heads import CosineHead, LinearHead
from ffds.recipes.schema import Model


def build(name="resnet32", head="linear", num_classes=10, in_channels=3, seed=0, pretrained=False):
    section = Model(name=name, pretrained=pretrained)
    return build_model(section, head=head, num_classes=num_classes, in_channels=in_channels, seed=seed)


@pytest.mark.parametrize(
    ("name", "head", "shape"),
    [
        ("resnet32", "linear", (3, 3, 32, 32)),
        ("resnet20", "cosine", (2, 1, 32, 32)),
        ("timm/resnet18", "linear", (2, 1, 32, 32)),
        ("timm/mobilenetv3_small_050", "cosine", (1, 3, 224, 224)),
        ("timm/vit_tiny_patch16_224", "linear", (1, 3, 224, 224)),
        ("timm/convnext_atto", "linear", (1, 3, 224, 224)),
    ],
)
def test_logits_and_features_in_colour_and_grey(name, head, shape):
    network = build(name, head, in_channels=shape[1]).eval()
    assert isinstance(network.head, {"linear": LinearHead, "cosine": CosineHead}[head])
    images = torch.randn(shape)
    with torch.no_grad():
        logits, features = network(images, with_features=True)
        assert logits.shape == (shape[0], 10)
        assert features.shape == (shape[0], network.head.weight.shape[1])
        assert torch.equal(network(images), logits)
        assert torch.equal(network.head(features), logits)


@pytest.mark.parametrize("name", ["resnet20", "timm/mobilenetv3_small_050"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_the_seed_alone_decides_the_weights(name, head):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = build(name, head).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = build(name, head).state_dict(), build(name, head, seed=1).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    drawn = [key for key in one if one[key].ndim == 4]
    assert not any(torch.equal(one[key], other[key]) for key in drawn)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet18x", r"did you mean resnet18\?"),
        ("resnet18.a1_in2k", r"did you mean resnet18\.a1_in1k\?"),
        ("qqqqqqqq", r"knows$"),
    ],
)
def test_unknown_timm_name(name, hint):
    with pytest.raises(InputError, match=rf"timm has no model {name}\n(.*\n)+.*{hint}"):
        build(f"timm/{name}")


@pytest.mark.parametrize("kind", [FileNotFoundError, urllib.error.URLError, RuntimeError])
def test_pretrained_weights_that_cannot_be_had(monkeypatch, kind):
    def fail(*_args, **_settings):
        raise kind("no such weights\nsecond line")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_args, **_settings: "a file")
    monkeypatch.setattr(timm, "create_model", fail)
    words = r"weights of timm/resnet18 cannot be had: .*such weights\n  where:(.*\n)+.*to false"
    with pytest.raises(InputError, match=words):
        build("timm/resnet18", pretrained=True)
    with pytest.raises(kind, match="no such weights"):
        build("timm/resnet18")  # a failure of another kind is not hidden


def test_a_network_of_one_image_size_is_refused_for_another():
    how = {"head": "linear", "num_classes": 2, "in_channels": 3, "seed": 0}
    fixed, any_size = Model(name="timm/vit_tiny_patch16_224"), Model(name="timm/resnet18")
    assert build_model(fixed, **how, image_size=224) is not None
    with pytest.raises(InputError, match=r"128.*224(.|\n)*data\.image_size"):
        build_model(fixed, **how, image_size=128)
    assert build_model(any_size, **how, image_size=128)(torch.zeros(1, 3, 128, 128)).shape == (1, 2)


@pytest.mark.filterwarnings("default")
def test_compiles_without_a_graph_break():
    network = build("resnet20", "cosine").eval()
    images = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images, True), network(images, True), rtol=1e-4, atol=1e-5)
