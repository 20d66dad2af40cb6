import shutil
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ffds.data import open_dataset
from ffds.errors import InputError
from ffds.recipes.schema import Data

TESTS = "val/val_annotations.txt"
WNIDS = [f"n{k:08d}" for k in range(200)]


def jpeg(value, mode="RGB"):
    content = BytesIO()
    Image.new(mode, (64, 64), value if mode == "L" else (value, 255 - value, 7)).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two training images of each class, one of them grey, and a test image of every second class."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    for k, wnid in enumerate(WNIDS):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        (images / f"{wnid}_0.JPEG").write_bytes(jpeg(k))
        (images / f"{wnid}_1.JPEG").write_bytes(jpeg(k, "L"))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for k in range(0, 200, 2):
        (root / "val" / "images" / f"val_{k}.JPEG").write_bytes(jpeg(k))
        lines.append(f"val_{k}.JPEG\t{WNIDS[k]}\t0\t32\t44\t62\n")
    (root / TESTS).write_text("".join(reversed(lines)))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    return root


def opened(root, **settings):
    return open_dataset(Data(name="tiny-imagenet", root=str(root), **settings))


@pytest.mark.parametrize("above", [False, True])
def test_the_original_layout(original, above):
    dataset = opened(original.parent if above else original, image_size=56)
    assert dataset.class_names == tuple(WNIDS)
    assert dataset.train.labels.tolist() == np.repeat(np.arange(200), 2).tolist()
    assert dataset.test.labels.tolist() == list(range(198, -1, -2))
    assert dataset.train.images.shape == (400, 64, 64, 3)
    assert abs(int(dataset.train.images[60, 5, 5, 0]) - 30) <= 2
    np.testing.assert_array_equal(dataset.train.images[61], np.full((64, 64, 3), 30))


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (TESTS, "val_0.JPEG\tn00000000\nval_1.JPEG\tn99\t0\n", r"no known class\n.*:2\n.*n99"),
        (TESTS, "val_1.JPEG\n", r"no known class\n.*:1\n"),
        ("wnids.txt", "\n".join(WNIDS[::2]), r"this is not Tiny ImageNet(.*\n)+.*100 classes"),
        ("wnids.txt", None, r"cannot be read\n.*wnids\.txt"),
        (TESTS, None, r"tiny-imagenet-200/, the archive tiny-imagenet-200.zip, or Parquet"),
    ],
)
def test_files_that_are_missing_or_do_not_fit(original, tmp_path, file, text, words):
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    (copy / file).unlink() if text is None else (copy / file).write_text(text)
    with pytest.raises(InputError, match=words):
        opened(copy)
