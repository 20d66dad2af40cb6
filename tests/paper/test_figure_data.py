"""The numbers behind the figures, against the losses of this package and against naive twins."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ffds.errors import InputError
from ffds.evaluation.groups import class_groups
from ffds.losses import FFDSLoss, FocalLoss
from ffds.losses.ffds import dynamic_smoothing, focusing_parameters
from ffds.paper import figure_data
from ffds.paper.figure_data import EpochAccuracy
from ffds.paper.reference import FIGURE_1
from tests.finished_runs import recipe, write_run

SHORT = "schedule.epochs=4"


def ffds(mean):
    loss = FFDSLoss([1, 1], beta=0.0, k=0.9, gamma_min=1.0, label_smoothing=0.0, reduction="none")
    loss.group_means.fill_(mean)
    return loss


def test_loss_curves_are_those_of_the_losses():
    losses = {("FL", gamma): FocalLoss(gamma, reduction="none") for gamma in (0.0, 0.5, 1.0)}
    losses |= {("D-FFDS", mean): ffds(mean) for mean in (0.3, 0.5, 0.7, 0.9)}
    all_rows = figure_data.loss_curves(0.9)
    assert {(row.loss, row.parameter) for row in all_rows} == set(losses)
    for curve, loss in losses.items():
        *rows, last = (row for row in all_rows if (row.loss, row.parameter) == curve)
        assert (rows[0].probability, last.probability, last.value) == (pytest.approx(0.001), 1.0, 0.0)
        p = torch.tensor([row.probability for row in rows], dtype=torch.float64)
        expected = loss(
            torch.stack([p.log(), torch.log1p(-p)], dim=1), torch.zeros(len(p), dtype=torch.int64)
        )
        values = torch.tensor([row.value for row in rows], dtype=torch.float64)
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("fewest", "most"), [(50, 5000), (1, 3)])
def test_focusing_curves_are_those_of_the_loss(fewest, most):
    rows = figure_data.focusing_curves(fewest, most, 0.5, 4.5)
    for name in ("linear", "convex", "concave"):
        own = [row for row in rows if row.curve == name]
        images = [row.images for row in own]
        assert (images[0], images[-1], images) == (fewest, most, sorted(set(images)))
        expected = focusing_parameters(images, 0.5, 4.5, name)
        np.testing.assert_allclose([row.gamma for row in own], expected.numpy(), rtol=1e-6)


def test_probabilities_are_smoothed_with_the_mean_of_their_own_group():
    random = np.random.default_rng(0)
    p, group, means = random.random(200), random.integers(0, 2, 200), np.array([0.2, 0.6])
    for k in (0.0, 0.4, 1.0):
        rows = figure_data.smoothed_probabilities(p, group, means, k)
        smoothed = dynamic_smoothing(torch.from_numpy(p), torch.from_numpy(means[group]), k)
        assert rows == list(zip(group, p, smoothed.tolist(), means[group], strict=True))


def test_area_is_the_sum_of_the_gaps_as_fractions():
    rows = [EpochAccuracy("ce", "tail", e, 100 * (1 - 0.5**e), 10.0 * e) for e in range(1, 8)]
    assert figure_data.area(rows) == pytest.approx(sum((1 - 0.5**e) - 0.1 * e for e in range(1, 8)))
    fifth = [EpochAccuracy("ce", "tail", e, 70.0, 20.0) for e in range(5, 201, 5)]
    assert figure_data.area(fifth) == pytest.approx(100.0), "an epoch stands for those since the last one"
    # 117.74 over 200 epochs is a mean gap of 59 points; as a mean in percent it would be above 100.
    areas = [area for groups in FIGURE_1.values() for area in groups.values()]
    assert all(0 < area / 200 < 0.6 for area in areas)
    assert max(areas) > 100


def test_epochs_that_were_not_evaluated_are_left_out(tmp_path):
    run = write_run(tmp_path, recipe(SHORT, method="cb-fl"), checkpoint=False)
    run.take_epochs([line | ({"test": None} if line["epoch"] == 2 else {}) for line in run.metrics])
    rows = figure_data.accuracies_by_epoch([run])
    groups = ("head", "middle", "tail")
    assert [row[1:3] for row in rows] == [(group, epoch) for group in groups for epoch in (1, 3, 4)]
    last = run.metrics[-1]
    assert rows[-1] == ("cb-fl", "tail", 4, last["train"]["tail"], last["test"]["tail"])


def with_counts(tmp_path, counts, *settings):
    return write_run(tmp_path, recipe(SHORT, *settings), classes=len(counts), counts=counts)


def test_without_a_checkpoint_only_published_sets_have_an_order(tmp_path):
    known = write_run(tmp_path, recipe(SHORT), checkpoint=False)
    assert figure_data.class_order(known) == list(range(100))
    folder = write_run(tmp_path, recipe(SHORT, name="own-folder"), checkpoint=False)
    with pytest.raises(InputError, match="class counts"):
        figure_data.class_order(folder)


@pytest.mark.parametrize("cut", [None, [1, 9, 1]])
def test_gains_of_the_classes_with_test_images(cut, tmp_path):
    counts = np.random.default_rng(0).permutation(np.arange(1, 12)).tolist()
    setting = f"data.cut={json.dumps(cut)}"
    ce = write_run(tmp_path, recipe(SHORT, setting, method="ce"), classes=11)
    ours = with_counts(tmp_path, counts, setting)
    lines = ours.metrics
    lines[-1]["test"]["per_class"][7] = None
    ours.take_epochs(lines)
    rows = figure_data.gains(ce, ours)
    before, after = (run.metrics[-1]["test"]["per_class"] for run in (ce, ours))
    order = sorted(range(11), key=lambda label: -counts[label])
    groups = class_groups(counts, cut)
    assert [(row.rank, row.label) for row in rows] == [pair for pair in enumerate(order) if pair[1] != 7]
    for row in rows:
        assert row.label in groups[row.group]
        assert row[3:] == (before[row.label], after[row.label], after[row.label] - before[row.label])


def test_norms_are_those_of_the_rows(tmp_path):
    run = with_counts(tmp_path, [5, 50, 7, 50, 500, 7, 1], "data.cut=null")
    rows = figure_data.norms([run])
    assert [row.label for row in rows] == [4, 1, 3, 2, 5, 0, 6], "by falling count, then by label"
    weight = load_file(run.checkpoints / "epoch-0004" / "model.safetensors")["head.weight"]
    naive = [math.sqrt(sum(float(x) ** 2 for x in row)) for row in weight]
    assert [row.norm for row in rows] == pytest.approx([naive[row.label] for row in rows], rel=1e-6)


def test_norms_need_the_checkpoint_of_the_last_epoch(tmp_path):
    run = write_run(tmp_path, recipe(SHORT), checkpoint=False)
    with pytest.raises(InputError, match=f"no checkpoint of its last epoch(.|\n)*{run.checkpoints}"):
        figure_data.norms([run])


def test_blur_and_low_contrast_are_duller():
    sharp = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3)).astype(np.uint8)
    low = (sharp // 8 + 100).astype(np.uint8)
    blurred = ((1.0 * sharp + np.roll(sharp, 1, 1) + np.roll(sharp, 1, 2)) / 3).astype(np.uint8)
    flat = np.full_like(sharp, 90)
    first, *others = figure_data.sharpness(np.concatenate([sharp, low, blurred, flat]))
    assert first > max(others)
    assert others[-1] == 0


def test_class_counts_are_those_of_the_paper():
    rows = figure_data.class_counts()
    assert (rows[0], rows[-1]) == (("0", 6155, 3200), ("O", 334, 32))
    assert (sum(row.if_18 for row in rows), sum(row.if_100 for row in rows)) == (68_307, 25_711)
