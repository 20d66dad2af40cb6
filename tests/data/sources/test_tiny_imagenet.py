import shutil
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ffds.data import open_dataset
from ffds.data.sources import tiny_imagenet
from ffds.errors import InputError
from ffds.recipes.schema import Data

TESTS = "val/val_annotations.txt"
WNIDS = [f"n{k:08d}" for k in range(200)]


def jpeg(value, mode="RGB"):
    content = BytesIO()
    Image.new(mode, (64, 64), value if mode == "L" else (value, 255 - value, 7)).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """As if two training images and one test image of each class had been published."""
    facts = replace(tiny_imagenet.PUBLISHED, train_images=2, test_images=1)
    monkeypatch.setattr(tiny_imagenet, "PUBLISHED", facts)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two training images of each class, one of them grey, and a test image."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    for k, wnid in enumerate(WNIDS):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        (images / f"{wnid}_0.JPEG").write_bytes(jpeg(k))
        (images / f"{wnid}_1.JPEG").write_bytes(jpeg(k, "L"))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for k, wnid in enumerate(reversed(WNIDS)):
        (root / "val" / "images" / f"val_{k}.JPEG").write_bytes(jpeg(k))
        lines.append(f"val_{k}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / TESTS).write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    return root


def opened(root, **settings):
    return open_dataset(Data(name="tiny-imagenet", root=str(root), **settings))


@pytest.mark.parametrize("above", [False, True])
def test_the_original_layout(original, above):
    dataset = opened(original.parent if above else original, image_size=56)
    assert dataset.class_names == tuple(WNIDS)
    assert dataset.train.labels.tolist() == np.repeat(np.arange(200), 2).tolist()
    assert dataset.test.labels.tolist() == list(range(199, -1, -1))
    assert dataset.train.images.shape == (400, 64, 64, 3)
    assert abs(int(dataset.train.images[60, 5, 5, 0]) - 30) <= 2
    np.testing.assert_array_equal(dataset.train.images[61], np.full((64, 64, 3), 30))


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original, tmp_path / "copy")


@pytest.mark.parametrize("below", ["", "images"])
@pytest.mark.parametrize("annotated", [True, False])
def test_test_images_sorted_into_a_directory_for_each_class(below, annotated, original, copy):
    for line in (copy / TESTS).read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        place = copy / "val" / wnid / below
        place.mkdir(parents=True)
        (copy / "val" / "images" / name).rename(place / name)
    (copy / "val" / "images").rmdir()
    if not annotated:
        (copy / TESTS).unlink()
    ours, theirs = opened(copy).test, opened(original).test
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.images, theirs.images)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (
            "train/n00000007/images/n00000007_0.JPEG",
            r"399 training images, not 400\n.*\n.*n00000007: 1\n.*2 tr",
        ),
        ("train/n00000007", r"398 training images, not 400\n.*\n.*n00000007: 0\n"),
        ("val/images/val_0.JPEG", r"199 test images, not 200\n.*\n.*n00000199: 0\n.*1 test image.*\n.*fetch"),
        ("train", r"0 training images, not 400(.*\n)+.*n00000004: 0 and 195 more classes"),
        ("val/images", r"0 test images, not 200"),
    ],
)
def test_a_part_of_it_is_refused_with_the_numbers_of_each_class(gone, words, copy):
    file = copy / gone
    file.unlink() if file.is_file() else shutil.rmtree(file)
    with pytest.raises(InputError, match=rf"not all of Tiny ImageNet: {words}"):
        opened(copy)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (TESTS, "val_0.JPEG\tn00000000\nval_1.JPEG\tn99\t0\n", r"no known class\n.*:2\n.*n99"),
        (TESTS, "val_1.JPEG\n", r"no known class\n.*:1\n"),
        ("wnids.txt", "\n".join([*WNIDS, "n99"]), r"this is not Tiny ImageNet(.*\n)+.*201 classes"),
        ("wnids.txt", None, r"cannot be read\n.*wnids\.txt"),
        (TESTS, None, r"tiny-imagenet-200/, the archive tiny-imagenet-200.zip, or Parquet"),
    ],
)
def test_files_that_are_missing_or_do_not_fit(copy, file, text, words):
    (copy / file).unlink() if text is None else (copy / file).write_text(text)
    with pytest.raises(InputError, match=words):
        opened(copy)
