"""What no loss accepts, and what each promises to accept."""

import inspect

import pytest
import torch

import ffds.losses
from ffds.errors import InputError
from tests.losses.battery import (
    COUNTS,
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
        (torch.zeros(3, 5), torch.zeros(3, 5)),
        (torch.zeros(3, 5), torch.zeros(3, 1, dtype=torch.int64)),
        (torch.zeros(5), torch.tensor(1)),
        (torch.zeros(2, 5, 4), torch.zeros(2, 4, dtype=torch.int64)),
        (torch.zeros(5, 5), torch.ones(5, dtype=torch.uint8)),
        (torch.zeros(5, 5), torch.ones(5, dtype=torch.int32)),
        (torch.zeros(5, 5), torch.ones(5)),
    ],
)
def test_logits_and_target_that_do_not_fit_are_refused(name, logits, target):
    with pytest.raises(InputError, match=r"allowed: logits \(N, C\), target \(N,\) int64"):
        Batch(logits, target, torch.zeros(len(logits), WIDTH)).given_to(cold(name))


@pytest.mark.parametrize("name", ["ffds", "cb-focal", "ldam", "ldam-drw", "ib"])
@pytest.mark.parametrize("classes", [4, 6])
def test_logits_of_another_number_of_classes_are_refused(name, classes):
    with pytest.raises(InputError, match="number of classes"):
        batch(3, classes)._replace(target=torch.tensor([0, 1, 2])).given_to(cold(name))


@every_loss
@pytest.mark.parametrize("label", [-100, -1, len(COUNTS)])
def test_a_label_that_is_no_class_is_never_passed_over(name, label):
    """torch's cross-entropy ignores -100 without a word; on a GPU it is a device-side assertion here."""
    data = batch(2)._replace(target=torch.tensor([0, label]))
    with pytest.raises((IndexError, RuntimeError), match=r"out of (bounds|range)"):
        data.given_to(cold(name))


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
            ("num_groups", "K", 10),
            ("gamma_min", "K", 0.0),
            ("gamma_max", "K", 3.0),
            ("curve", "K", "concave"),
            ("label_smoothing", "K", 0.1),
            ("weight_scale", "K", "mean"),
            ("cold_start", "K", "cross_entropy"),
            ("reduction", "K", "mean"),
        ],
        "FocalLoss": [("gamma", "P", 1.0), ("weight", "K", None), ("reduction", "K", "mean")],
        "InfluenceBalancedLoss": [
            ("alpha", "K", 1000.0),
            ("epsilon", "K", 0.001),
            ("gamma", "K", 0.0),
            ("weight", "K", None),
            ("reduction", "K", "mean"),
        ],
        "LDAMLoss": [
            ("class_counts", "P", None),
            ("max_margin", "K", 0.5),
            ("scale", "K", 30.0),
            ("weight", "K", None),
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
