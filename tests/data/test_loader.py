"""Batches: which images in which order, on any number of ranks, after any interruption."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffds.data import loader
from ffds.data.dataset import Split
from ffds.data.loader import EvalBatches, StoredImages, TrainBatches, fits
from ffds.errors import InputError
from ffds.recipes.schema import Data

CPU = torch.device("cpu")
PLAIN = Data(name="digits", mean=(0.0,), std=(1.0,))
AUGMENTED = Data(name="digits", augment=("pad-crop", "hflip"), padding=1)


def numbered(count):
    """Image i shows i in every pixel and has label 1000 + i; both arrays are read-only."""
    numbers = np.arange(count)
    images = np.broadcast_to(numbers[:, None, None, None] % 256, (count, 4, 4, 3)).astype(np.uint8)
    split = Split(images, 1000 + numbers.astype(np.int64))
    split.images.setflags(write=False)
    split.labels.setflags(write=False)
    return split


def train(count, batch_size, data=PLAIN, seed=3, **ranks):
    return TrainBatches(numbered(count), data, batch_size=batch_size, seed=seed, device=CPU, **ranks)


def evaluate(count, batch_size, **ranks):
    return EvalBatches(numbered(count), PLAIN, batch_size=batch_size, device=CPU, **ranks)


def places(batches):
    return [index for batch in batches for index in batch.indices.tolist()]


def check_rows_belong_together(batch):
    assert torch.equal(batch.labels, 1000 + batch.indices)
    pixels = (batch.images * 255).round().long()
    assert (pixels == (batch.indices % 256)[:, None, None, None]).all()


def check_equal(batches, others):
    for one, other in zip(batches, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
        assert one.global_size == other.global_size


SIZES = [
    *((10, 5, 1, [5, 5]), (12, 5, 1, [5, 5, 2]), (11, 5, 1, [5, 6]), (5, 1, 1, [1] * 5), (5, 2, 2, [2, 3])),
    *((15, 6, 2, [6, 9]), (16, 6, 2, [6, 6, 4]), (3, 8, 3, [3]), (17, 8, 4, [8, 9])),
]


@pytest.mark.parametrize(("count", "batch_size", "world_size", "sizes"), SIZES)
def test_sizes_of_global_batches(count, batch_size, world_size, sizes):
    for rank in range(world_size):
        batches = train(count, batch_size, rank=rank, world_size=world_size)
        assert len(batches) == len(sizes)
        drawn = list(batches.epoch(0))
        assert [batch.global_size for batch in drawn] == sizes
        for batch in drawn:
            check_rows_belong_together(batch)


SAMPLERS = ("instance-balanced", "class-balanced", "square-root", "progressive", 0.3)
SAMPLERS += ("over-sampling", "under-sampling")


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 70), st.integers(1, 30), st.integers(1, 5), st.integers(0, 3), st.sampled_from(SAMPLERS)
)
def test_ranks_share_the_batches_of_one_rank(count, batch_size, world_size, epoch, sampler):
    if min(count, batch_size) < world_size:
        with pytest.raises(
            InputError, match=rf"{count} images in batches of {batch_size} for {world_size} ranks"
        ):
            train(count, batch_size, world_size=world_size)
        return
    asked = {"sampler": sampler, "progress": 0.4}
    ranks = [
        list(train(count, batch_size, AUGMENTED, rank=r, world_size=world_size).epoch(epoch, **asked))
        for r in range(world_size)
    ]
    steps = list(zip(*ranks, strict=True))
    drawn = places(batch for parts in steps for batch in parts)
    assert len(drawn) == count
    assert all(torch.equal(part.labels, 1000 + part.indices) for parts in steps for part in parts)
    if sampler == "instance-balanced":
        assert sorted(drawn) == list(range(count))
    for parts in steps:
        rows = [len(part.labels) for part in parts]
        assert sum(rows) == parts[0].global_size
        assert max(rows) - min(rows) <= 1
        assert min(rows) >= 1
    if count % batch_size == 0 or count % batch_size >= 2 * world_size or count < batch_size:
        alone = list(train(count, batch_size, AUGMENTED).epoch(epoch, **asked))
        for whole, parts in zip(alone, steps, strict=True):
            assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
            assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)


OTHERS = ({"augment": ("pad-crop", "vflip")}, {"augment": ("pad-crop", "vflip")})


def test_views_stand_beside_the_image_as_it_is_without_them_on_any_number_of_ranks():
    """Each view has draws of its own, from the seed, the epoch and the step alone."""
    alone = list(train(20, 8, AUGMENTED).epoch(2))
    whole = list(train(20, 8, AUGMENTED).epoch(2, views=OTHERS))
    parts = [list(train(20, 8, AUGMENTED, rank=r, world_size=2).epoch(2, views=OTHERS)) for r in range(2)]
    for batch, plain, *ranks in zip(whole, alone, *parts, strict=True):
        assert torch.equal(batch.images[:, 0], plain.images)
        assert torch.equal(batch.indices, plain.indices)
        assert torch.equal(torch.cat([part.images for part in ranks]), batch.images)
        assert batch.images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
        first, second = batch.images[:, 1], batch.images[:, 2]
        assert not torch.equal(first, second)
        assert not torch.equal(first, batch.images[:, 0])
    check_equal(list(train(20, 8, AUGMENTED).epoch(2, 1, views=OTHERS)), whole[1:])


def test_class_balanced_every_class_and_every_image_of_it_is_equally_likely():
    """1,000 images of class 5, 4 of class 2 and 96 of class 7, in no order; class 0 has none."""
    labels = torch.tensor([5, 2, 5, 7]).repeat_interleave(torch.tensor([400, 4, 600, 96]))
    split = Split(np.zeros((len(labels), 2, 2, 1), np.uint8), labels.numpy())
    batches = TrainBatches(split, PLAIN, batch_size=128, seed=0, device=CPU)
    drawn = [batch for epoch in range(20) for batch in batches.epoch(epoch, sampler="class-balanced")]
    rows, total = torch.cat([batch.indices for batch in drawn]), 20 * len(labels)
    assert torch.equal(torch.cat([batch.labels for batch in drawn]), labels[rows])
    assert len(rows) == total
    for label, size in ((5, 1000), (2, 4), (7, 96)):
        times = torch.bincount(rows, minlength=len(labels))[labels == label].double()
        # Four standard deviations of a binomial count.
        assert abs(times.sum() - total / 3) < 4 * (total * 2 / 9) ** 0.5
        expected = total / 3 / size
        assert (times - expected).square().mean() < 2 * expected
        assert (times > 0).all()


def test_order_and_augmentation_depend_on_seed_epoch_and_step_only():
    torch.manual_seed(0)
    first = list(train(40, 8, AUGMENTED).epoch(2))
    torch.manual_seed(1)
    batches = train(40, 8, AUGMENTED)
    list(batches.epoch(0))
    again = list(batches.epoch(2))
    check_equal(first, again)
    for sampler in SAMPLERS:
        assert places(batches.epoch(3, sampler=sampler)) != places(batches.epoch(4, sampler=sampler))
    assert places(train(40, 8, AUGMENTED, seed=4).epoch(2)) != places(again)


def test_global_generators_are_not_used():
    def states():
        numpys = np.random.get_state()[1].tolist()  # noqa: NPY002
        return torch.get_rng_state().tolist(), numpys, random.getstate()

    before = states()
    for sampler in SAMPLERS:
        list(train(40, 8, AUGMENTED).epoch(0, sampler=sampler))
    assert states() == before


def test_each_step_draws_its_own_augmentation():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    same = Split(np.tile(image, (64, 1, 1, 1)), np.zeros(64, np.int64))
    batches = TrainBatches(same, AUGMENTED, batch_size=32, seed=0, device=CPU)
    one, other = batches.epoch(0)
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(next(batches.epoch(1)).images, one.images)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resuming_gives_the_rest_of_the_epoch(sampler):
    whole = list(train(37, 8, AUGMENTED).epoch(6, sampler=sampler))
    assert len(whole) == 5
    for start_step in range(6):
        check_equal(whole[start_step:], list(train(37, 8, AUGMENTED).epoch(6, start_step, sampler)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 6))
def test_evaluation_sees_each_image_once_and_in_order(count, batch_size, world_size):
    ranks = [list(evaluate(count, batch_size, rank=r, world_size=world_size)) for r in range(world_size)]
    for batch in (batch for batches in ranks for batch in batches):
        check_rows_belong_together(batch)
        assert 1 <= len(batch.labels) <= batch.global_size <= batch_size
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert sorted(index for batches in ranks for index in places(batches)) == list(range(count))
    assert all(places(batches) == sorted(places(batches)) for batches in ranks)
    assert places(one := evaluate(count, batch_size)) == places(one), "it cannot be repeated"
    assert bool(count) == bool(ranks[0]), "the first rank has rows if any has"


ARRAY = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 2), dtype=np.uint8)
ORDER = torch.randperm(20, generator=torch.Generator().manual_seed(0))
PARTS = [slice(0, 7), slice(7, 8), slice(12, 20)]


@pytest.mark.parametrize("on_device", [True, False])
def test_batches_are_the_same_and_are_not_written_again(on_device, monkeypatch):
    monkeypatch.setattr(loader, "fits", lambda *_: on_device)
    batches = list(StoredImages(ARRAY, CPU).batches(ORDER, PARTS))
    for part, (images, indices) in zip(PARTS, batches, strict=True):
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(indices, ORDER[part])
        np.testing.assert_array_equal(images, ARRAY[ORDER.numpy()[part]])


@pytest.mark.parametrize(("free", "fit"), [(2 * ARRAY.nbytes, True), (2 * ARRAY.nbytes - 2, False)])
def test_images_take_half_of_what_is_free_on_a_gpu(free, fit, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    gpu = torch.device("cuda", 1)
    assert fits(gpu, ARRAY.nbytes) is fit
    assert fits(CPU, 2**60)
    assert StoredImages(ARRAY, CPU).on_device
    if not fit:
        assert not StoredImages(ARRAY, gpu).on_device
