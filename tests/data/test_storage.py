"""Which images stay in their files, and what the user is told about it."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from ffds.data import open_dataset, storage
from ffds.data.streaming import StreamedImages
from ffds.errors import InputError
from ffds.recipes.schema import Data
from tests.data.pictures import same, write_folder, write_picture

SIDE = 8
DECODED = (9 + 2) * SIDE * SIDE * 3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), {"a": 5, "b": 4}, {"a": 1, "b": 1})


def opened(root, **settings):
    settings = {"image_size": SIDE, "workers": 0, "cache": False} | settings
    return open_dataset(Data(name="folder", root=str(root), **settings))


def set_memory(monkeypatch, amount):
    monkeypatch.setattr(storage, "machine_memory", lambda: amount)


def is_streamed(dataset):
    (streamed,) = {isinstance(split.images, StreamedImages) for split in (dataset.train, dataset.test)}
    return streamed


@pytest.mark.parametrize(("amount", "streamed"), [(3 * DECODED, False), (3 * DECODED - 3, True)])
def test_up_to_a_third_of_the_memory(amount, streamed, root, monkeypatch, capsys):
    set_memory(monkeypatch, amount)
    assert is_streamed(opened(root)) is streamed
    message = capsys.readouterr().err
    assert message.count("\n") == streamed
    if streamed:
        assert message.startswith(f"image folder {root}: 11 images, ")
        assert "more than a third of" in message
        assert "stay in their files; the training process will decode them" in message


def test_images_outside_the_tail_take_no_memory(root, monkeypatch):
    kept = sum(opened(root, imbalance_factor=4.0).class_counts) + 2
    assert kept < 11
    set_memory(monkeypatch, 3 * kept * SIDE * SIDE * 3)
    assert not is_streamed(opened(root, imbalance_factor=4.0))
    assert is_streamed(opened(root))


@pytest.mark.parametrize("variable", ["LOCAL_WORLD_SIZE", "WORLD_SIZE"])
def test_ranks_share_the_memory(variable, root, monkeypatch):
    set_memory(monkeypatch, 6 * DECODED - 6)
    assert not is_streamed(opened(root))
    monkeypatch.setenv(variable, "2")
    assert is_streamed(opened(root))


def test_the_recipe_decides_and_only_the_first_rank_speaks(root, monkeypatch, capsys):
    set_memory(monkeypatch, 1)
    assert not is_streamed(opened(root, in_memory=True))
    set_memory(monkeypatch, 2**60)
    assert is_streamed(opened(root, in_memory=False, workers=3))
    message = f"image folder {root}: 11 images stay in their files; 3 workers will decode them\n"
    assert capsys.readouterr().err == message
    monkeypatch.setenv("RANK", "1")
    assert is_streamed(opened(root, in_memory=False))
    assert capsys.readouterr().err == ""


def test_images_of_one_size_may_be_left_as_they_are(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write_picture(tmp_path / name / "1.png", 0, (5, 7))
    assert opened(tmp_path, image_size=None, in_memory=False).train.images.shape == (2, 7, 5, 3)


def test_several_images_in_one_file_cannot_stay_there():
    with pytest.raises(InputError, match=r"cannot stay in their files(.*\n)+.*one file for each .*folder"):
        open_dataset(Data(name="digits", in_memory=False))


@pytest.mark.parametrize(("ranks", "cores", "workers"), [(1, 6, 6), (4, 6, 1), (100, 6, 1), (1, 1000, 8)])
def test_a_worker_for_each_core(ranks, cores, workers, root, monkeypatch):
    monkeypatch.setattr(storage, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert opened(root, in_memory=False, workers=None).train.images.workers == workers


CHOICES = [{"imbalance_factor": 2.0, "validation": 0.3, "seed": 2}, {"test_fraction": 0.3, "workers": 2}]


@pytest.mark.parametrize("settings", [{"workers": 2}, *CHOICES], ids=str)
def test_unreadable_images_are_left_out_as_in_memory(settings, tmp_path, capsys):
    write_folder(tmp_path, {"a": 50, "b": 20}, {"a": 3, "b": 2})
    for name in ("train/a/000.jpg", "train/a/041.png", "train/b/019.png", "test/b/000.jpg"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:90])
    place = tmp_path / "train" if "test_fraction" in settings else tmp_path
    settings = settings | {"on_bad_image": "skip"}
    theirs = opened(place, in_memory=True, **settings)
    assert capsys.readouterr().err == ""
    ours = opened(place, in_memory=False, **settings)
    assert "images checked" in capsys.readouterr().err
    assert is_streamed(ours)
    assert ours.skipped == theirs.skipped
    assert len(ours.skipped) == 3 + (place == tmp_path)
    assert ours.train.files == theirs.train.files
    assert ours.identity == theirs.identity
    same(ours, theirs)


def test_no_readable_image_at_all(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write_picture(tmp_path / name / "1.png", 0).write_bytes(b"no image")
    with pytest.raises(InputError, match="2 of 2 classes have no training image"):
        opened(tmp_path, in_memory=False, on_bad_image="skip")
    with pytest.raises(InputError, match="no image can be read"):
        opened(tmp_path, in_memory=False, image_size=None)


def test_memory_is_that_of_the_machine_or_of_the_container(tmp_path, monkeypatch):
    none, limit = tmp_path / "none", tmp_path / "limit"
    monkeypatch.setattr(storage, "MEMORY_LIMITS", (str(none), str(limit)))
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert storage.machine_memory() == physical
    for text, expected in (("max\n", physical), ("4096\n", 4096), (f"{2**63}\n", physical)):
        limit.write_text(text)
        assert storage.machine_memory() == expected


def test_the_digest_does_not_depend_on_where_images_are_kept(root, tmp_path):
    kept = opened(root, in_memory=True).train
    streamed = opened(root, in_memory=False).train
    assert streamed.digest == kept.digest
    rows = np.arange(len(kept)) > 0
    assert streamed.take(rows).digest == kept.take(rows).digest != kept.digest

    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    assert opened(moved, in_memory=False).train.digest == kept.digest
    changed = next((moved / "train").rglob("*.*"))
    write_picture(changed, 99, (19, 23))
    assert opened(moved, in_memory=False).train.digest != kept.digest
