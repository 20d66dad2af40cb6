"""What is written into checkpoints and hashed into a run's identity stays as it is."""

import pytest
import torch

from tests.losses.battery import COUNTS, LOSSES

FFDS = "FFDSLoss(\n  classes=5, k=0.9, num_groups=2, label_smoothing=0.1, cold_start='cross_entropy', "
FORMAT = {
    "ffds": (
        FFDS + "reduction='mean'\n  (gathered): ClassProbabilities()\n)",
        ["class_weight", "gamma", "class_group", "group_means", "gathered.sums", "gathered.counts"],
    ),
    "focal": ("FocalLoss(gamma=2.0, weighted=False, reduction='mean')", []),
    "cb-focal": ("FocalLoss(gamma=1.0, weighted=True, reduction='mean')", ["weight"]),
    "ldam": ("LDAMLoss(scale=30.0, weighted=False, reduction='mean')", ["margin"]),
    "ldam-drw": ("LDAMLoss(scale=30.0, weighted=True, reduction='mean')", ["margin", "weight"]),
    "ib": (
        "InfluenceBalancedLoss(alpha=1000.0, epsilon=0.001, gamma=0.0, weighted=True, reduction='mean')",
        ["weight"],
    ),
    "gcl": ("GCLLoss(scale=2.0, margin=0.0, gamma=0.0, reduction='mean')", ["size"]),
    "weighted-ce": ("WeightedCrossEntropyLoss(reduction='mean')", ["weight"]),
    "logit-adjusted": ("LogitAdjustedLoss(reduction='mean')", ["adjustment"]),
    "vs": ("VSLoss(reduction='mean')", ["adjustment", "factor"]),
    "cdb": ("DifficultyBalancedLoss(tau='dynamic', reduction='mean')", ["weight"]),
    "sigmoid-cb-focal": ("SigmoidFocalLoss(gamma=1.0, weighted=True, reduction='mean')", ["weight"]),
}


@pytest.mark.parametrize("name", FORMAT)
def test_repr_and_names_of_the_state_are_format(name):
    loss = LOSSES[name](COUNTS)
    assert (repr(loss), list(loss.state_dict())) == FORMAT[name]
    other = LOSSES[name](COUNTS, ignore_index=4)
    assert "ignore_index=4" in repr(other), "another loss, and so another run"
    types = {key: buffer.dtype for key, buffer in loss.state_dict().items()}
    assert {key for key, dtype in types.items() if dtype == torch.int64} <= {"class_group", "gathered.counts"}


@pytest.mark.parametrize("name", ["ldam", "ldam-drw", "weighted-ce"])
def test_parts_of_a_batch_count_by_what_their_mean_divides_by(name):
    """As a training on several ranks uses it."""
    loss = LOSSES[name](COUNTS)
    logits, target = torch.rand(16, 5), torch.arange(16) % 5
    target[[2, 9]] = -100
    parts = [(logits[rows], target[rows]) for rows in (slice(5), slice(5, 16))]
    shares = [loss.divisor(y) / loss.divisor(target) for _, y in parts]
    together = sum(share * loss(*part) for share, part in zip(shares, parts, strict=True))
    torch.testing.assert_close(together, loss(logits, target))
