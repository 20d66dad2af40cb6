"""What no loss accepts, and what each promises to accept."""

import inspect
import math
from functools import partial

import pytest
import torch

import ffds.losses
from ffds.errors import InputError
from ffds.losses import (
    FFDSLoss,
    FocalLoss,
    GCLLoss,
    InfluenceBalancedLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    VSLoss,
)
from tests.losses.battery import COUNTS, LOSSES, WIDTH, Batch, batch, cold, every_loss


@every_loss
@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (torch.zeros(3, 5), torch.tensor([0, 1])),
        (torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.int64)),
        (torch.zeros(3, 5), torch.zeros(3, 4)),
        (torch.zeros(3, 5), torch.zeros(3, 1, dtype=torch.int64)),
        (torch.zeros(5), torch.tensor(1)),
        (torch.zeros(2, 5, 4), torch.zeros(2, 4, dtype=torch.int64)),
        (torch.zeros(2, 5, 4), torch.zeros(2, 5, 4)),
        (torch.zeros(5, 5), torch.ones(5, dtype=torch.bool)),
        (torch.zeros(5, 5), torch.ones(5, 5, dtype=torch.bool)),
        (torch.zeros(5, 5), torch.ones(5)),
    ],
)
def test_logits_and_target_that_do_not_fit_are_refused(name, logits, target):
    with pytest.raises(InputError, match=r"allowed: logits \(N, C\), target \(N,\) of integers or \(N, C\)"):
        Batch(logits, target, torch.zeros(len(logits), WIDTH)).given_to(cold(name))


@pytest.mark.parametrize("features", [torch.ones(1, 4), torch.ones(3), torch.ones(3, 4, 2, 2)])
def test_features_that_do_not_fit_are_refused(features):
    with pytest.raises(InputError, match=r"features \(N, D\)"):
        InfluenceBalancedLoss()(torch.zeros(3, 2), torch.tensor([0, 1, 0]), features)


@pytest.mark.parametrize("name", ["ffds", "cb-focal", "ldam", "ldam-drw", "ib", "vs"])
@pytest.mark.parametrize("classes", [4, 6])
def test_logits_of_another_number_of_classes_are_refused(name, classes):
    with pytest.raises(InputError, match="number of classes"):
        batch(3, classes)._replace(target=torch.tensor([0, 1, 2])).given_to(cold(name))


@every_loss
@pytest.mark.parametrize("label", [-1, len(COUNTS), 255])
def test_a_label_that_is_no_class_is_refused_on_the_cpu(name, label):
    """On a GPU and in compiled code it is an assertion of torch's."""
    data = batch(3)._replace(target=torch.tensor([0, label, -100]))
    with pytest.raises(InputError, match=rf"label is no class\n +got: +\[{label}\]\n.*0 to 4, or -100"):
        data.given_to(cold(name))


@pytest.mark.parametrize("name", ["focal", "ldam", "ib-focal"])
@pytest.mark.parametrize(
    "weight",
    [[1.0, -1.0], [1.0, float("nan")], torch.tensor([1.0, torch.inf]), torch.ones(2, 2), "ab", {1.0}],
)
def test_weights_that_are_not_finite_numbers_for_each_class_are_refused(name, weight):
    with pytest.raises(InputError, match="class weights are not"):
        LOSSES[name]([3, 2], weight=weight)


def ffds_loss(**setting):
    return FFDSLoss(COUNTS, **{"num_groups": 3, **setting})


def ldam(**setting):
    return LDAMLoss(COUNTS, **setting)


def logit_adjusted(**setting):
    return LogitAdjustedLoss(COUNTS, **setting)


def gcl(**setting):
    return GCLLoss(COUNTS, **setting)


def vs(**setting):
    return VSLoss(COUNTS, **setting)


@pytest.mark.parametrize(
    ("loss", "setting", "values"),
    [
        (ffds_loss, "beta", [1.0, -0.1, math.nan]),
        (ffds_loss, "k", [1.1, -0.1, math.nan]),
        (ffds_loss, "num_groups", [0, 6, 2.0, math.nan]),
        (ffds_loss, "gamma_min", [-1.0, 4.0, math.nan]),
        (ffds_loss, "gamma_max", [-1.0, math.nan, math.inf]),
        (ffds_loss, "label_smoothing", [1.0, -0.1, math.nan]),
        (FocalLoss, "gamma", [-0.1, math.nan, math.inf]),
        (ldam, "max_margin", [0.0, -1.0, math.nan, math.inf]),
        (ldam, "scale", [0.0, -1.0, math.nan, math.inf]),
        (InfluenceBalancedLoss, "alpha", [0.0, -1.0, math.nan, math.inf]),
        (InfluenceBalancedLoss, "epsilon", [0.0, -1.0, math.nan, math.inf]),
        (InfluenceBalancedLoss, "gamma", [-0.1, math.nan, math.inf]),
        (logit_adjusted, "tau", [-0.1, math.nan, math.inf]),
        (vs, "gamma", [-0.1, math.nan, math.inf]),
        (gcl, "cloud", [-0.1, math.nan, math.inf]),
        (gcl, "scale", [0.0, -1.0, math.nan, math.inf]),
        (gcl, "margin", [-0.1, math.nan, math.inf]),
        (gcl, "gamma", [-0.1, math.nan, math.inf]),
    ],
)
def test_a_setting_out_of_range_is_refused_and_named_with_its_value(loss, setting, values):
    for value in values:
        with pytest.raises(InputError, match=rf"{setting}(.|\n)*{value}"):
            loss(**{setting: value})


@pytest.mark.parametrize(
    ("loss", "setting", "named"),
    [
        (ffds_loss, {"num_groups": 6}, "1 to 5, the number of classes\n  fix: +num_groups=5, or None"),
        (ffds_loss, {"curve": "cubic"}, "linear, convex, concave"),
        (ffds_loss, {"weight_scale": "sum"}, "none, mean, released"),
        (ffds_loss, {"cold_start": "warm"}, "cross_entropy, unsmoothed"),
        (ldam, {"weight": [1.0, 1.0, 1.0]}, "different numbers of classes"),
        (LDAMLoss, {"class_counts": [3, 0]}, "class 1 "),
        *((partial(cold, name), {"reduction": "average"}, "mean, sum, none") for name in LOSSES),
    ],
)
def test_an_unusable_setting_is_refused_with_what_would_do(loss, setting, named):
    with pytest.raises(InputError, match=named):
        loss(**setting)


def test_public_names_and_their_options():
    """A promise to users: a change here is a change of the interface."""
    scaled, common = "scale='mean'", "ignore_index=-100, reduction='mean'"
    assert {name: options(getattr(ffds.losses, name)) for name in ffds.losses.__all__} == {
        "DifficultyBalancedLoss": f"num_classes, *, tau='dynamic', {common}",
        "FFDSLoss": "class_counts, *, beta=0.9999, k=0.9, num_groups=None, gamma_min=0.0, gamma_max=3.0, "
        "curve='concave', label_smoothing=0.1, weight_scale='mean', cold_start='cross_entropy', " + common,
        "FocalLoss": f"gamma=1.0, *, weight=None, {common}",
        "GCLLoss": f"class_counts, *, cloud=0.5, scale=30.0, margin=0.0, gamma=0.0, {common}",
        "InfluenceBalancedLoss": f"*, alpha=1000.0, epsilon=0.001, gamma=0.0, weighted_probability=False, "
        f"weight=None, {common}",
        "LADELoss": f"class_counts, *, alpha=0.1, penalty=0.01, {common}",
        "LDAMLoss": f"class_counts, *, max_margin=0.5, scale=30.0, weight=None, {common}",
        "LogitAdjustedLoss": f"class_counts, *, tau=1.0, {common}",
        "ProCoLoss": "class_counts, num_features=None, *, dim=128, hidden=512, temperature=0.1, alpha=1.0",
        "SigmoidFocalLoss": f"gamma=1.0, *, weight=None, {common}",
        "VSLoss": f"class_counts, *, gamma=0.3, tau=1.0, {common}",
        "WeightedCrossEntropyLoss": f"weight, *, {common}",
        "class_balanced_weights": f"class_counts, beta=0.9999, {scaled}",
        "inverse_frequency_weights": f"class_counts, power=1.0, {scaled}",
    }


def options(function):
    signature, empty = inspect.signature(function), inspect.Parameter.empty
    bare = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=empty))[1:-1]
