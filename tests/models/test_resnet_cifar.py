"""The CIFAR ResNets: their published sizes, initial weights and forward pass, written out."""

import pytest
import torch
import torch.nn.functional as F

from ffds.models.resnet_cifar import ResNetCifar


@pytest.mark.parametrize(
    ("depth", "with_ten_classes"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_parameters_and_layers_as_published(depth, with_ten_classes):
    network = ResNetCifar(depth)
    weights = sum(weight.numel() for weight in network.parameters())
    assert weights + 64 * 10 + 10 == with_ten_classes
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) == depth - 1


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 8, 8), (3, 9, 30), (1, 64, 64)])
def test_any_image_of_eight_pixels_or_more_gives_64_features(channels, height, width):
    features = ResNetCifar(20, channels)(torch.randn(2, channels, height, width))
    assert features.shape == (2, 64)
    assert (features >= 0).all()


def naive_features(network, images):
    """The forward pass from the weights alone, written out block by block."""
    state = network.state_dict()

    def conv_norm(x, conv, norm, stride):
        x = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt()
        return x * state[f"{norm}.weight"][:, None, None] + state[f"{norm}.bias"][:, None, None]

    x = F.relu(conv_norm(images, "conv", "norm", 1))
    for number in range(9):
        stride = 2 if number in {3, 6} else 1
        at = f"blocks.{number}"
        out = F.relu(conv_norm(x, f"{at}.conv1", f"{at}.norm1", stride))
        out = conv_norm(out, f"{at}.conv2", f"{at}.norm2", 1)
        if stride == 2:
            shortcut = torch.zeros_like(out)
            before = x.shape[1] // 2
            shortcut[:, before : before + x.shape[1]] = x[:, :, ::2, ::2]
            x = shortcut
        x = F.relu(out + x)
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def test_forward_equals_the_written_out_network():
    network = ResNetCifar(20).double()
    for weight in network.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight)
    images = torch.randn(4, 3, 32, 32, dtype=torch.double)
    torch.testing.assert_close(network(images), naive_features(network, images))


def test_convolutions_start_from_kaimings_normal_distribution():
    torch.manual_seed(0)
    for name, weight in ResNetCifar(32).named_parameters():
        if weight.ndim == 4:
            fan_in = weight[0].numel()
            assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15), name


def test_channels_last_stays_channels_last():
    maps = torch.randn(2, 16, 32, 32).to(memory_format=torch.channels_last)
    for block in ResNetCifar(20).to(memory_format=torch.channels_last).blocks:
        maps = block(maps)
        assert maps.is_contiguous(memory_format=torch.channels_last)
