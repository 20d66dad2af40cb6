"""Batch norm folded into convolutions: the same values, fewer operations, nothing stale."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ffds.models.resnet_cifar import ResNetCifar
from ffds.training.backend.compile import backend as compile_graph
from ffds.training.backend.folding import fold_batch_norms


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch):
    torch.compiler.reset()
    # Without code generation, which takes a while and is torch's own to test.
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph.forward)
    yield
    torch.compiler.reset()


def used(model):
    """A network whose batch norms do something."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval()


def watched(model):
    """Compiled, with the number of batch norms folded in each graph."""
    folded = []

    def backend(graph, inputs):
        before = norms(graph)
        found = compile_graph(graph, inputs)
        folded.append(before - norms(graph))
        return found

    return torch.compile(model, backend=backend, dynamic=False), folded


def norms(graph):
    return sum(node.target is F.batch_norm for node in graph.graph.nodes)


def chain(convolution, **norm):
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels, **norm), nn.ReLU())


@pytest.mark.parametrize(
    "model",
    [
        chain(nn.Conv2d(3, 4, 3)),
        chain(nn.Conv2d(3, 4, 3, bias=False)),
        chain(nn.Conv2d(3, 6, 3, stride=2, padding="valid", dilation=2, groups=3)),
        chain(nn.Conv2d(3, 4, 1), affine=False),
        chain(nn.Conv2d(3, 4, 3, padding=1), eps=0.5),
    ],
    ids=["bias", "no bias", "groups", "not affine", "epsilon"],
)
def test_one_convolution_in_double_precision(model):
    model = used(model.double())
    forward, folded = watched(model)
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(forward(images), model(images), rtol=1e-12, atol=1e-12)
    assert folded == [1]


def test_a_whole_network():
    model = used(ResNetCifar(20)).double()
    forward, folded = watched(model)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(forward(images), model(images), rtol=1e-9, atol=1e-9)
    assert folded == [19]


def test_weights_and_statistics_that_changed_count():
    model = used(chain(nn.Conv2d(3, 4, 3)))
    forward, folded = watched(model)
    images = torch.randn(2, 3, 9, 9)
    with torch.inference_mode():
        first = forward(images)
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[1].running_mean.add_(1)
        model[1].weight.mul_(3)
    with torch.inference_mode():
        torch.testing.assert_close(forward(images), model(images))
        assert not torch.allclose(forward(images), first)
    assert folded == [1]


def test_training_is_left_as_it_is():
    model = used(chain(nn.Conv2d(3, 4, 3)))
    forward, folded = watched(model)
    images = torch.randn(2, 3, 9, 9)
    forward(images).sum().backward()
    forward(images)
    model.train()
    forward(images)
    with torch.inference_mode():
        forward(images)
    assert set(folded) == {0}


class Shared(nn.Module):
    """A convolution whose result is used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        found = self.conv(images)
        return self.norm(found) + found


@pytest.mark.parametrize("model", [Shared(), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))])
def test_what_cannot_be_folded_stays(model):
    model = used(model)
    forward, folded = watched(model)
    images = torch.randn(2, 3, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(forward(images), model(images))
    assert folded == [0]


def test_arguments_by_name():
    class ByName(nn.Module):
        def forward(self, images, weight, mean, variance):
            found = F.conv2d(input=images, weight=weight, stride=2)
            return F.batch_norm(input=found, running_mean=mean, running_var=variance, eps=0.1)

    model = ByName()
    given = (torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3), torch.randn(4), torch.rand(4) + 0.5)
    traced = torch.fx.symbolic_trace(model)
    assert fold_batch_norms(traced) == 1
    torch.testing.assert_close(traced(*given), model(*given))
