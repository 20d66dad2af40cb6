"""What a checkpoint knows about its images."""

import pytest

from ffds.data import open_dataset
from ffds.data.dataset import Split
from ffds.recipes.schema import Data
from tests.data.pictures import write_folder, write_picture
from tests.data.test_content import same_size
from tests.training import tiny


def folder(root, **settings):
    return open_dataset(Data(name="folder", root=str(root), image_size=8, **settings))


def test_images_count_by_the_content_of_their_files_wherever_they_are_kept(tmp_path):
    root = write_folder(tmp_path, {"a": 3, "b": 2}, {"a": 2, "b": 2})
    before, streamed = folder(root), folder(root, in_memory=False, workers=0)
    assert before.identity == streamed.identity
    assert before.changes(before.identity) == before.changes({}) == ""
    assert before.changes(before.earlier_identity) == "", "a checkpoint of an earlier version"
    write_picture(root / "test/b/001.png", 99)
    after = folder(root)
    assert after.changes(before.identity) == (
        f"test images {after.test.digest} now, {before.identity['test_images']} then"
    )
    assert after.changes(before.earlier_identity) == "", "it knew names and sizes of training images only"


@pytest.mark.parametrize("in_memory", [True, False])
def test_training_images_of_the_same_names_and_sizes_are_others(in_memory, tmp_path):
    root = write_folder(tmp_path, {"a": 3, "b": 2}, {"a": 2, "b": 2})
    before = folder(root, in_memory=in_memory, workers=0)
    sums = before.train.digest, before.train.earlier_digest
    same_size(root)
    after = Split(before.train.images, before.train.labels, before.train.files)
    assert after.earlier_digest == sums[1]
    assert after.digest != sums[0]


def test_images_in_memory_count_by_their_pixels_as_in_earlier_versions():
    dataset = tiny.dataset()
    assert dataset.identity["images"] == dataset.earlier_identity["images"] == dataset.train.digest
    assert {**dataset.earlier_identity, "test_images": dataset.test.digest} == dataset.identity
    inverted = Split(255 - dataset.train.images, dataset.train.labels)
    assert inverted.digest != dataset.train.digest
