"""Every parameter is trained with the learning rate and the weight decay that the recipe gives it."""

import math

import pytest
import torch
from torch import nn

from ffds.models.build import build_model
from ffds.recipes.schema import Model, Optimizer
from ffds.training.optimizer import make_optimizer, parameter_groups, set_lr
from ffds.training.step import NanGuard
from tests.training import tiny

NETWORKS = {
    # With the k-th layer below the head, a part of it.
    "resnet20": {"blocks.8": 1, "blocks.0": 9, "conv": 10, "norm": 10},
    "timm/test_resnet": {"layer4.0": 1, "layer1.0": 4, "conv1": 5},
    "timm/test_vit": {"norm": 1, "blocks.5": 1, "blocks.0": 6, "patch_embed.proj": 7, "pos_embed": 7},
}
KINDS = [
    {},
    {"nesterov": True, "weight_decay": 1e-3},
    {"head_lr": 1.0},
    {"layer_decay": 0.5},
    {"name": "adamw"},
    {"name": "adamw", "layer_decay": 0.5, "head_lr": 0.3, "betas": (0.8, 0.9)},
]


def network(name="resnet20", head="linear"):
    return build_model(Model(name=name), head=head, num_classes=4, in_channels=3, seed=0)


def by_parameter(groups):
    return {id(one): group for group in groups for one in group["params"]}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_each_parameter_stands_in_one_group_with_its_rate_and_its_decay(name, kind):
    settings, model, losses = Optimizer(**kind), network(name), nn.ModuleList([tiny.Scaled()])
    groups = by_parameter(parameter_groups(settings, model, losses))
    assert len(groups) == len([*model.parameters(), *losses.parameters()])
    for part, k in NETWORKS[name].items():
        for parameter_name, parameter in model.backbone.named_parameters():
            if parameter_name == part or parameter_name.startswith(f"{part}."):
                assert groups[id(parameter)]["lr_scale"] == pytest.approx(settings.layer_decay**k)
    for parameter in model.head.parameters():
        assert groups[id(parameter)]["lr_scale"] == (settings.head_lr or 0.1) / 0.1
    assert groups[id(losses[0].scale)]["lr_scale"] == 1
    everywhere = settings.name == "sgd" and settings.layer_decay == 1
    for parameter_name, parameter in (*model.named_parameters(), *losses.named_parameters()):
        excluded = parameter.ndim < 2 or parameter_name.endswith(("pos_embed", "cls_token"))
        decays = everywhere or not excluded
        assert groups[id(parameter)]["weight_decay"] == (settings.weight_decay if decays else 0)


def test_without_such_settings_there_is_one_group_in_the_order_of_before():
    model, losses = network(), nn.ModuleList([tiny.Scaled()])
    (group,) = parameter_groups(Optimizer(), model, losses)
    assert list(map(id, group["params"])) == list(map(id, [*model.parameters(), *losses.parameters()]))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_prior_bias_has_no_weight_decay_and_all_else_what_it_had(kind):
    settings, none = Optimizer(**kind), nn.ModuleList()
    how = {"head": "linear", "num_classes": 4, "in_channels": 3, "seed": 0}
    plain, prior = (build_model(Model(name="resnet20"), prior_bias=on, **how) for on in (False, True))
    one, other = (by_parameter(parameter_groups(settings, model, none)) for model in (plain, prior))
    for (name, before), after in zip(plain.named_parameters(), prior.parameters(), strict=True):
        decay = 0 if name == "head.bias" else one[id(before)]["weight_decay"]
        assert other[id(after)]["weight_decay"] == decay, name


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_steps_are_those_of_torch_with_each_parameter_by_itself(kind):
    settings, model, losses = Optimizer(**kind), network(), nn.ModuleList([tiny.Scaled()])
    optimizer = make_optimizer(settings, model, losses)
    twins = []
    for parameter in (*model.parameters(), *losses.parameters()):
        group = by_parameter(optimizer.param_groups)[id(parameter)]
        twin = nn.Parameter(parameter.detach().clone())
        how = {"lr": 1.0, "weight_decay": group["weight_decay"]}
        if settings.name == "adamw":
            own = torch.optim.AdamW([twin], betas=settings.betas, **how)
        else:
            own = torch.optim.SGD([twin], momentum=settings.momentum, nesterov=settings.nesterov, **how)
        twins.append((parameter, twin, own, group["lr_scale"]))
    for lr in (0.1, 0.01, 0.03):
        set_lr(optimizer, lr)
        for parameter, twin, own, scale in twins:
            parameter.grad = 0.1 + lr * parameter.detach()
            twin.grad = parameter.grad.clone()
            own.param_groups[0]["lr"] = lr * scale
            own.step()
        optimizer.step()
    for parameter, twin, _, _ in twins:
        torch.testing.assert_close(parameter, twin)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_nothing_changes_from_a_step_that_is_not_finite_on(name, tmp_path):
    """Not even AdamW's number of steps: the run goes on from its checkpoint as if it had not been."""
    state = tiny.loop(tmp_path, tiny.recipe(f"optimizer.name={name}", method="ce")).state
    state.set_lr(0.1)
    guard = NanGuard(state.fabric, state.optimizer, gradients=True)
    parameters = [*state.parameters.values()]
    for number, loss in enumerate((1.0, math.nan, 1.0)):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        guard.check(torch.tensor(number), torch.tensor(loss))
        state.optimizer.step()
        if number == 0:
            before = {key: tensor.clone() for key, tensor in kept(state).items()}
    assert guard.first_non_finite() == 1
    after = kept(state)
    assert before.keys() == after.keys()
    assert len(before) > len(parameters)
    assert all(torch.equal(before[key], after[key]) for key in before)


def kept(state):
    checkpoint = state.checkpoint()
    return checkpoint.model | {f"optimizer {name}": value for name, value in checkpoint.optimizer.items()}


def test_names_of_the_state_in_a_checkpoint(tmp_path):
    loop = tiny.loop(tmp_path, tiny.recipe("optimizer.name=adamw", method="ce"))
    loop.state.set_lr(0.1)
    batch = next(iter(loop.batches.epoch(0)))
    loop.step(loop.phases[0], batch, observed=False)
    optimizer = loop.state.checkpoint().optimizer
    assert {name for name in optimizer if name.startswith("head.bias.")} == {
        *("head.bias.step", "head.bias.exp_avg", "head.bias.exp_avg_sq")
    }
    assert optimizer["head.bias.step"].shape == ()
