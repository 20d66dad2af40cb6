"""Your own images are known by what they show, not by where they lie or what their files are called."""

import os
import shutil

import pytest

from ffds.data import decode as decoding
from ffds.data import open_dataset
from ffds.data.content import images_sum, knowing_images, knowing_images_if_there
from ffds.data.decode import content_digests
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.recipes.load import load_recipe
from tests.data.pictures import write_folder, write_picture
from tests.data.sources.test_parquet import png, write


def recipe(root, name="folder"):
    return load_recipe("own-folder", [f"data.name={name}", f"data.root={root}", "data.image_size=4"]).recipe


def total(root, name="folder"):
    return knowing_images(recipe(root, name)).data.images


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder", {"a": 3, "b": 2}, {"a": 2, "b": 2})


def swap(root):
    """Two training images of a class change places."""
    first, second = root / "train/a/000.jpg", root / "train/a/002.jpg"
    first.rename(root / "aside")
    second.rename(first)
    (root / "aside").rename(second)


def flip_byte(root):
    """One byte of a test image; name, size and times stay."""
    file = root / "test/b/001.png"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def same_size(root):
    """Every training image is replaced by another one of the same name and size."""
    for file in sorted(root.glob("train/*/*")):
        size, content = file.stat().st_size, write_picture(root / "new.png", 99, (20, 20)).read_bytes()
        (root / "new.png").unlink()
        file.write_bytes(content[:size].ljust(size, b"\0"))


CHANGES = {
    "one byte of a test image": flip_byte,
    "all training images, of the same size": same_size,
    "half of the test images are gone": lambda root: [file.unlink() for file in root.glob("test/*/000.jpg")],
    "an image has another class": lambda root: (root / "train/a/000.jpg").rename(root / "train/b/009.jpg"),
    "a class has another name": lambda root: [(root / one / "b").rename(root / one / "c") for one in SPLITS],
    "a training image is a test image": lambda root: (root / "train/a/000.jpg").rename(root / "test/a/9.jpg"),
    "two images in another order": swap,
    "an image is no regular file": lambda root: pipe(root / "train/a/000.jpg"),
}
SPLITS = ("train", "test")


def pipe(file):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("change", CHANGES)
def test_other_images_have_another_sum_and_are_refused_where_the_first_are_known(change, folder):
    known = knowing_images(recipe(folder))
    CHANGES[change](folder)
    assert total(folder) != known.data.images
    with pytest.raises(InputError, match="not the images that the recipe knows") as caught:
        open_dataset(known.data)
    for part in (str(folder), known.data.images, total(folder), "data.images=null"):
        assert part in str(caught.value)


def test_the_same_images_elsewhere_have_the_same_sum(folder, tmp_path, monkeypatch):
    known = knowing_images(recipe(folder))
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    (copy / "train/a/000.jpg").rename(copy / "train/a/0000.jpg")
    monkeypatch.chdir(tmp_path)
    for root in (copy, "copy", "./copy/../copy"):
        assert knowing_images(recipe(root)).identity == known.identity
    assert knowing_images(known) is known


def test_parquet_files_may_be_parted_otherwise(tmp_path):
    contents = [png(grey) for grey in range(6)]
    write(tmp_path / "one" / "train.parquet", [0, 1] * 3, contents=contents)
    for part, (first, last) in enumerate([(0, 4), (4, 6)]):
        some = contents[first:last]
        write(tmp_path / f"two/data/train-{part}.parquet", ([0, 1] * 3)[first:last], contents=some, group=1)
    write(tmp_path / "other" / "train.parquet", [0, 1] * 3, contents=[*contents[:5], png(7)])
    write(tmp_path / "labels" / "train.parquet", [0, 1, 0, 1, 1, 0], contents=contents)
    sums = [total(tmp_path / name, "parquet") for name in ("one", "two", "other", "labels")]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 3


def test_only_your_own_images_are_summed_and_those_that_are_not_there_later(folder, tmp_path):
    digits, there, gone = load_recipe("digits").recipe, recipe(folder), recipe(tmp_path / "none")
    assert knowing_images(digits) is digits
    with pytest.raises(InputError, match=r"data\.root is not a directory"):
        knowing_images(gone)
    assert knowing_images_if_there([digits, there, gone, there]) == [
        *(digits, knowing_images(there), gone, knowing_images(there))
    ]
    known = digits.with_images(images_sum(SOURCES["digits"].open(digits.data)))
    assert len(open_dataset(known.data).train)
    with pytest.raises(InputError, match="not the images"):
        open_dataset(digits.with_images(f"sha256:{'0' * 16}").data)


def test_a_file_is_read_again_only_where_it_may_have_changed(folder, monkeypatch):
    file, opened = folder / "train/a/000.jpg", []
    monkeypatch.setattr(decoding, "opened", lambda path: opened.append(path) or path.open("rb"))
    first = content_digests([file])
    assert content_digests([file]) == first
    assert len(opened) == 2, "so young a file may change within one tick of its times"
    monkeypatch.setattr(decoding, "YOUNG", 0)
    assert content_digests([file]) == content_digests([file]) == first
    assert len(opened) == 3
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content_digests([file]) != first
