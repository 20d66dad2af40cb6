"""Images in their files against the same images in memory: equal to the last bit, in every batch."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from ffds.data import open_dataset
from ffds.data.loader import EvalBatches, TrainBatches
from ffds.data.transforms import TrainTransform
from ffds.errors import InputError
from ffds.recipes.schema import Data
from tests.data.pictures import write_folder

CPU = torch.device("cpu")
SETTINGS = {"image_size": 10, "eval_resize": 12, "augment": ("resized-crop", "hflip"), "cache": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    return write_folder(root, {"ant": 40, "bee": 20, "owl": 11}, {"ant": 5, "bee": 5, "owl": 7})


def data(root, **settings):
    return Data(name="folder", root=str(root), **SETTINGS | settings)


@pytest.fixture(scope="module")
def held(root):
    return open_dataset(data(root, in_memory=True))


@pytest.fixture(scope="module")
def streamed(root):
    return open_dataset(data(root, in_memory=False, workers=2))


def check_equal(found, expected):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.global_size == other.global_size
        for ours, theirs in zip(one[:3], other[:3], strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
        assert one.images.is_contiguous(memory_format=torch.channels_last)


def train(dataset, root, batch_size=16, **ranks):
    return TrainBatches(dataset.train, data(root), batch_size=batch_size, seed=4, device=CPU, **ranks)


# As an array


def test_it_looks_like_the_array_it_would_be(held, streamed):
    array, images = held.train.images, streamed.train.images
    assert isinstance(array, np.ndarray)
    assert not isinstance(images, np.ndarray)
    assert (images.shape, len(images)) == (array.shape, len(array)) == ((71, 12, 12, 3), 71)
    for index in (5, -1, slice(3, 9), np.array([70, 0, 0]), streamed.train.labels == 2, slice(0)):
        np.testing.assert_array_equal(images[index], array[index], strict=True)
    np.testing.assert_array_equal(np.asarray(images), array)


def test_a_part_of_a_split_stays_in_its_files(held, streamed):
    some = np.array([3, 60, 3])
    part = streamed.train.take(some)
    assert type(part.images) is type(streamed.train.images)
    np.testing.assert_array_equal(part.images[:], held.train.images[some])
    np.testing.assert_array_equal(part.labels, held.train.labels[some])
    assert streamed.class_counts == held.class_counts == [40, 20, 11]


# Batches


@pytest.mark.parametrize("batch_size", [1, 16, 70, 500])
@pytest.mark.parametrize("start_step", [0, 1])
def test_training_batches_are_bit_equal(batch_size, start_step, held, streamed, root):
    if len(train(held, root, batch_size)) > start_step:
        for epoch in (0, 3):
            ours, theirs = (train(one, root, batch_size).epoch(epoch, start_step) for one in (streamed, held))
            check_equal(ours, theirs)


def test_evaluation_batches_are_bit_equal(held, streamed, root):
    for split in ("train", "test"):
        ours, theirs = (
            EvalBatches(getattr(one, split), data(root), batch_size=9, device=CPU) for one in (streamed, held)
        )
        check_equal(ours, theirs)


@pytest.mark.parametrize("fails", [False, True])
def test_batches_are_prepared_in_one_thread_and_used_in_all(fails, held, streamed, root, monkeypatch):
    """The decoding processes have the other cores; images in memory leave them to the augmentation."""
    prepare, threads = TrainTransform.__call__, []

    def noted(*arguments, **settings):
        threads.append(torch.get_num_threads())
        if fails:
            raise ZeroDivisionError
        return prepare(*arguments, **settings)

    monkeypatch.setattr(TrainTransform, "__call__", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for dataset, expected in ((streamed, 1), (held, 2)):
            epoch = train(dataset, root).epoch(0)
            with pytest.raises(ZeroDivisionError) if fails else nullcontext():
                next(epoch)
            assert (threads.pop(), torch.get_num_threads()) == (expected, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_workers_changes_nothing(workers, held, root):
    other = open_dataset(data(root, in_memory=False, workers=workers))
    check_equal(train(other, root).epoch(1), train(held, root).epoch(1))


def test_an_evaluation_in_the_midst_of_an_epoch(held, streamed, root):
    ours, theirs = (train(one, root).epoch(0) for one in (streamed, held))
    check_equal([next(ours)], [next(theirs)])
    test = [EvalBatches(one.test, data(root), batch_size=4, device=CPU) for one in (streamed, held)]
    check_equal(*test)
    check_equal(ours, theirs)


@pytest.mark.parametrize("world_size", [2, 3])
def test_each_rank_decodes_its_rows_only(world_size, held, root, monkeypatch):
    from ffds.data import streaming as decoders

    decoded, original = [], decoders.decode_into
    monkeypatch.setattr(
        decoders,
        "decode_into",
        lambda images, paths, *rest: decoded.extend(paths) or original(images, paths, *rest),
    )
    own = open_dataset(data(root, in_memory=False, workers=0))
    for rank in range(world_size):
        ranks = {"rank": rank, "world_size": world_size}
        ours, theirs = (list(train(one, root, **ranks).epoch(2)) for one in (own, held))
        check_equal(ours, theirs)
        assert len(decoded) == sum(len(batch.labels) for batch in ours)
        split = [EvalBatches(one.test, data(root), batch_size=5, device=CPU, **ranks) for one in (own, held)]
        check_equal(*split)
        decoded.clear()


def test_a_bad_image_stops_at_its_batch_and_is_named(root, tmp_path):
    write_folder(tmp_path, {"a": 6, "b": 6}, {"a": 1, "b": 1})
    (tmp_path / "train" / "b" / "002.jpg").write_bytes(b"GIF89a")
    own = open_dataset(data(tmp_path, in_memory=False, workers=1))
    assert own.class_counts == [6, 6]
    with pytest.raises(InputError, match=r"cannot be read\n.*train/b/002\.jpg\n(.*\n)*.*on_bad_image=skip"):
        list(train(own, tmp_path, 4).epoch(0))


# The same subsets


@pytest.mark.parametrize(
    "settings",
    [
        {"imbalance_factor": 5.0},
        {"imbalance_factor": 5.0, "validation": 0.3, "seed": 2},
        {"image_size": 12, "eval_resize": None, "validation": 0.1},
    ],
)
def test_tail_and_validation_are_cut_alike(settings, root):
    ours, theirs = (
        open_dataset(data(root, in_memory=memory, workers=1, **settings)) for memory in (False, True)
    )
    assert ours.class_counts == theirs.class_counts
    for split in ("train", "test", "validation"):
        one, other = getattr(ours, split), getattr(theirs, split)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one.labels, other.labels)
            np.testing.assert_array_equal(one.images[:], other.images)


def test_a_test_set_is_cut_alike(root):
    ours, theirs = (
        open_dataset(data(root / "train", in_memory=memory, workers=0, test_fraction=0.3))
        for memory in (False, True)
    )
    assert len(ours.test) == len(theirs.test) > 10
    np.testing.assert_array_equal(ours.test.images[:], theirs.test.images)
    np.testing.assert_array_equal(ours.train.images[:], theirs.train.images)
