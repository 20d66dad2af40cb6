from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.data.dataset import Split
from ffds.data.loader import EvalBatches, TrainBatches
from ffds.errors import InputError
from ffds.recipes.schema import Data

CPU = torch.device("cpu")
PLAIN = Data(name="digits", mean=(0.0,), std=(1.0,))
AUGMENTED = Data(name="digits", augment=("pad-crop", "hflip"), padding=1)


def numbered(count):
    """Image i shows i in every pixel and has label 1000 + i."""
    numbers = np.arange(count)
    images = np.broadcast_to(numbers[:, None, None, None] % 256, (count, 4, 4, 3)).astype(np.uint8)
    return Split(images, 1000 + numbers.astype(np.int64))


def train(count, batch_size, data=PLAIN, **ranks):
    return TrainBatches(numbered(count), data, batch_size=batch_size, seed=3, device=CPU, **ranks)


def evaluate(count, batch_size, **ranks):
    return EvalBatches(numbered(count), PLAIN, batch_size=batch_size, device=CPU, **ranks)


def seen(batches):
    return [index for batch in batches for index in batch.indices.tolist()]


def check_rows_belong_together(batch):
    assert torch.equal(batch.labels, 1000 + batch.indices)
    pixels = (batch.images * 255).round().long()
    assert (pixels == (batch.indices % 256)[:, None, None, None]).all()


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size", "sizes"),
    [
        (10, 5, 1, [5, 5]),
        (12, 5, 1, [5, 5, 2]),
        (11, 5, 1, [5, 6]),
        (13, 4, 1, [4, 4, 5]),
        (1, 8, 1, [1]),
        (3, 8, 1, [3]),
        (5, 5, 1, [5]),
        (5, 1, 1, [1, 1, 1, 1, 1]),
        (4, 2, 2, [2, 2]),
        (5, 2, 2, [2, 3]),
        (11, 4, 2, [4, 7]),
        (12, 4, 2, [4, 4, 4]),
        (15, 6, 2, [6, 9]),
        (16, 6, 2, [6, 6, 4]),
        (3, 8, 3, [3]),
        (17, 8, 4, [8, 9]),
    ],
)
def test_sizes_of_global_batches(count, batch_size, world_size, sizes):
    for rank in range(world_size):
        batches = train(count, batch_size, rank=rank, world_size=world_size)
        assert len(batches) == len(sizes)
        assert [batch.global_size for batch in batches.epoch(0)] == sizes


SAMPLERS = ("instance-balanced", "class-balanced")


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 70), st.integers(1, 30), st.integers(1, 5), st.integers(0, 3), st.sampled_from(SAMPLERS)
)
def test_ranks_share_the_batches_of_one_rank(count, batch_size, world_size, epoch, sampler):
    if min(count, batch_size) < world_size:
        with pytest.raises(InputError, match="no training image"):
            train(count, batch_size, world_size=world_size)
        return
    ranks = [
        list(
            train(count, batch_size, AUGMENTED, rank=rank, world_size=world_size).epoch(
                epoch, sampler=sampler
            )
        )
        for rank in range(world_size)
    ]
    steps = list(zip(*ranks, strict=True))
    drawn = seen([batch for parts in steps for batch in parts])
    assert len(drawn) == count
    if sampler == "instance-balanced":
        assert sorted(drawn) == list(range(count))
    for parts in steps:
        rows = [len(part.labels) for part in parts]
        assert sum(rows) == parts[0].global_size
        assert max(rows) - min(rows) <= 1
        assert min(rows) >= 1
    if count % batch_size == 0 or count % batch_size >= 2 * world_size or count < batch_size:
        alone = list(train(count, batch_size, AUGMENTED).epoch(epoch, sampler=sampler))
        for whole, parts in zip(alone, steps, strict=True):
            assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
            assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_every_image_once_an_epoch_with_its_label_and_place(count):
    batches = train(count, 4)
    for epoch in range(3):
        produced = list(batches.epoch(epoch))
        assert sorted(seen(produced)) == list(range(count))
        for batch in produced:
            check_rows_belong_together(batch)


def test_class_balanced_every_class_and_every_image_of_it_is_equally_likely():
    """1,000 images of class 5 and 4 of class 2, in no order; class 0 has none."""
    labels = np.repeat([5, 2, 5, 7], [400, 4, 600, 96])
    split = Split(np.zeros((len(labels), 2, 2, 1), np.uint8), labels)
    batches = TrainBatches(split, PLAIN, batch_size=128, seed=0, device=CPU)
    drawn = [list(batches.epoch(epoch, sampler="class-balanced")) for epoch in range(20)]
    rows = torch.cat([batch.indices for epoch in drawn for batch in epoch])
    found = torch.cat([batch.labels for epoch in drawn for batch in epoch])
    assert torch.equal(found, torch.from_numpy(labels)[rows])
    total = 20 * len(labels)
    assert len(rows) == total
    for label, size in ((5, 1000), (2, 4), (7, 96)):
        times = torch.bincount(rows[found == label], minlength=len(labels))[labels == label].double()
        # Four standard deviations of a binomial count.
        assert abs(times.sum() - total / 3) < 4 * (total * 2 / 9) ** 0.5
        expected = total / 3 / size
        assert (times - expected).square().mean() < 2 * expected
        assert (times > 0).all()


def test_class_balanced_epochs_differ_and_repeat_and_resume():
    one, other = (train(40, 8).epoch(epoch, sampler="class-balanced") for epoch in (0, 1))
    whole = seen(one)
    assert whole != seen(other)
    assert seen(train(40, 8).epoch(0, 3, "class-balanced")) == whole[24:]


def test_order_and_augmentation_depend_on_seed_epoch_and_step_only():
    split = numbered(40)
    torch.manual_seed(0)
    make = {"batch_size": 8, "device": CPU}
    first = list(TrainBatches(split, AUGMENTED, seed=3, **make).epoch(2))
    torch.manual_seed(1)
    batches = TrainBatches(split, AUGMENTED, seed=3, **make)
    list(batches.epoch(0))
    state = torch.get_rng_state()
    again = list(batches.epoch(2))
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    assert seen(batches.epoch(3)) != seen(again)
    assert seen(TrainBatches(split, AUGMENTED, seed=4, **make).epoch(2)) != seen(again)


def test_each_step_draws_its_own_augmentation():
    same = Split(
        np.tile(np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1), (64, 1, 1, 1)), np.zeros(64, np.int64)
    )
    batches = TrainBatches(same, AUGMENTED, batch_size=32, seed=0, device=CPU)
    one, other = batches.epoch(0)
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(next(batches.epoch(1)).images, one.images)


@pytest.mark.parametrize("start_step", [0, 1, 4, 5])
def test_resuming_gives_the_tail_of_the_epoch(start_step):
    batches = train(37, 8, AUGMENTED)
    whole = list(batches.epoch(6))
    tail = list(train(37, 8, AUGMENTED).epoch(6, start_step))
    assert len(whole) == 5
    assert len(tail) == 5 - start_step
    for one, other in zip(whole[start_step:], tail, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
        assert one.global_size == other.global_size


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 6))
def test_evaluation_sees_each_image_once_and_in_order(count, batch_size, world_size):
    ranks = [
        list(evaluate(count, batch_size, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    for batch in (batch for batches in ranks for batch in batches):
        check_rows_belong_together(batch)
        assert 1 <= len(batch.labels) <= batch.global_size <= batch_size
    assert sorted(index for batches in ranks for index in seen(batches)) == list(range(count))
    assert all(seen(batches) == sorted(seen(batches)) for batches in ranks)
    if world_size == 1:
        assert seen(ranks[0]) == list(range(count))


def test_a_rank_may_have_nothing_to_evaluate_but_never_the_first():
    parts = [seen(evaluate(1, 8, rank=rank, world_size=3)) for rank in range(3)]
    assert parts == [[0], [], []]


def test_evaluation_can_be_repeated_and_is_channels_last():
    batches = evaluate(5, 2)
    assert seen(batches) == seen(batches)
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_read_only_arrays_are_accepted():
    split = numbered(6)
    split.images.setflags(write=False)
    split.labels.setflags(write=False)
    batches = TrainBatches(split, PLAIN, batch_size=3, seed=0, device=CPU)
    assert sorted(seen(batches.epoch(0))) == list(range(6))


@pytest.mark.parametrize(("count", "batch_size", "world_size"), [(1, 8, 2), (9, 2, 3), (0, 4, 1)])
def test_a_rank_without_rows_is_refused_with_numbers(count, batch_size, world_size):
    with pytest.raises(
        InputError, match=rf"{count} images in batches of {batch_size} for {world_size} ranks"
    ):
        train(count, batch_size, world_size=world_size)
