"""What no loss accepts, and what each promises to accept."""

import inspect

import pytest
import torch

import ffds.losses
from ffds.errors import InputError
from ffds.losses import LDAMLoss
from tests.losses.battery import (
    LOSSES,
    WIDTH,
    Batch,
    batch,
    cold,
    every_loss,
)


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


@pytest.mark.parametrize("name", ["ffds", "cb-focal", "ldam", "ldam-drw", "ib"])
@pytest.mark.parametrize("classes", [4, 6])
def test_logits_of_another_number_of_classes_are_refused(name, classes):
    with pytest.raises(InputError, match="number of classes"):
        batch(3, classes)._replace(target=torch.tensor([0, 1, 2])).given_to(cold(name))


@pytest.mark.parametrize("name", ["focal", "ldam", "ib-focal"])
@pytest.mark.parametrize(
    "weight",
    [[1.0, -1.0], [1.0, float("nan")], torch.tensor([1.0, torch.inf]), torch.ones(2, 2), "ab", {1.0}],
)
def test_weights_that_are_not_finite_numbers_for_each_class_are_refused(name, weight):
    with pytest.raises(InputError, match="class weights are not"):
        LOSSES[name]([3, 2], weight=weight)


def test_weights_and_counts_of_different_numbers_of_classes_are_refused():
    with pytest.raises(InputError, match="different numbers of classes"):
        LDAMLoss([3, 2], weight=[1.0, 1.0, 1.0])


@every_loss
@pytest.mark.parametrize("reduction", ["average", None, ""])
def test_an_unknown_reduction_is_refused_and_the_known_ones_named(name, reduction):
    with pytest.raises(InputError, match="mean, sum, none"):
        cold(name, reduction=reduction)


def test_public_names_and_their_options():
    """A promise to users: a change here is a change of the interface."""
    options = {
        name: [
            (p.name, p.kind.name[0], None if p.default is p.empty else p.default)
            for p in inspect.signature(getattr(ffds.losses, name)).parameters.values()
        ]
        for name in ffds.losses.__all__
    }
    assert options == {
        "FFDSLoss": [
            ("class_counts", "P", None),
            ("beta", "K", 0.9999),
            ("k", "K", 0.9),
            ("num_groups", "K", None),
            ("gamma_min", "K", 0.0),
            ("gamma_max", "K", 3.0),
            ("curve", "K", "concave"),
            ("label_smoothing", "K", 0.1),
            ("weight_scale", "K", "mean"),
            ("cold_start", "K", "cross_entropy"),
            ("ignore_index", "K", -100),
            ("reduction", "K", "mean"),
        ],
        "FocalLoss": [
            ("gamma", "P", 1.0),
            ("weight", "K", None),
            ("ignore_index", "K", -100),
            ("reduction", "K", "mean"),
        ],
        "InfluenceBalancedLoss": [
            ("alpha", "K", 1000.0),
            ("epsilon", "K", 0.001),
            ("gamma", "K", 0.0),
            ("weight", "K", None),
            ("ignore_index", "K", -100),
            ("reduction", "K", "mean"),
        ],
        "LDAMLoss": [
            ("class_counts", "P", None),
            ("max_margin", "K", 0.5),
            ("scale", "K", 30.0),
            ("weight", "K", None),
            ("ignore_index", "K", -100),
            ("reduction", "K", "mean"),
        ],
        "class_balanced_weights": [
            ("class_counts", "P", None),
            ("beta", "P", 0.9999),
            ("scale", "P", "mean"),
        ],
        "inverse_frequency_weights": [
            ("class_counts", "P", None),
            ("power", "P", 1.0),
            ("scale", "P", "mean"),
        ],
    }
