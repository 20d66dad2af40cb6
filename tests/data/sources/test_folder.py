import os

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from ffds.data import open_dataset
from ffds.errors import InputError
from ffds.recipes.schema import Data


def fill(directory, count, first=0, size=(4, 4)):
    directory.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(np.full((*size, 3), first + k, dtype=np.uint8)).save(directory / f"{first + k}.png")


def opened(root, **settings):
    return open_dataset(Data(name="folder", root=str(root), **settings))


def values(split):
    return split.images[:, 0, 0, 0].tolist()


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "train" / "owl", 3, first=10)
    fill(tmp_path / "train" / "ant", 12, first=20)
    fill(tmp_path / "train" / "ant" / "more", 2, first=50)
    fill(tmp_path / "test" / "owl", 2, first=100)
    return tmp_path


def test_the_order_is_that_of_torchvision(root):
    (root / "train" / "owl" / "notes.txt").write_text("")
    dataset, twin = opened(root), ImageFolder(root / "train")
    assert dataset.class_names == ("ant", "owl") == tuple(twin.classes)
    assert dataset.train.labels.tolist() == twin.targets
    assert values(dataset.train) == [np.asarray(image)[0, 0, 0] for image, _ in twin]
    assert dataset.class_counts == [14, 3]
    assert dataset.test.labels.tolist() == [1, 1]
    assert values(dataset.test) == [100, 101]


def test_hidden_files_and_directories_do_not_count(root):
    (root / "train" / "owl" / ".hidden.png").write_text("")
    (root / "train" / ".cache").mkdir()
    assert opened(root).class_counts == [14, 3]


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_the_first_of_the_test_directories_counts(root, name):
    (root / "test").rename(root / name)
    if name != "validation":
        fill(root / "validation" / "ant", 5)
    assert len(opened(root).test) == 2


def test_classes_alone_are_split_per_class(tmp_path):
    for name, count in {"a": 20, "b": 3, "c": 1, "d": 2}.items():
        fill(tmp_path / name, count, first=30 * "abcd".index(name))
    first, again, other = (opened(tmp_path, test_fraction=0.1, seed=seed) for seed in (0, 0, 5))
    assert first.class_counts == [18, 2, 1, 1]
    assert np.bincount(first.test.labels).tolist() == [2, 1, 0, 1]
    assert not set(values(first.train)) & set(values(first.test))
    assert values(first.test) == values(again.test) != values(other.test)


def test_a_tail_is_cut_by_falling_frequency(tmp_path):
    for name, count in {"a": 3, "b": 40, "c": 30}.items():
        fill(tmp_path / "train" / name, count)
        fill(tmp_path / "test" / name, 1)
    assert opened(tmp_path, imbalance_factor=20.0).class_counts == [2, 40, 8]


def test_images_of_any_size_are_stored_as_squares(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split / "a", 1, size=(8, 16))
        fill(tmp_path / split / "b", 1, size=(30, 9))
    with pytest.raises(InputError, match="images differ in size"):
        opened(tmp_path)
    assert opened(tmp_path, image_size=6).train.images.shape == (2, 6, 6, 3)
    assert opened(tmp_path, image_size=6, eval_resize=7).test.images.shape == (2, 7, 7, 3)


@pytest.mark.parametrize(
    ("file", "train", "test"), [("train/owl/10.png", 2, [100, 101]), ("test/owl/100.png", 3, [101])]
)
def test_a_bad_image_stops_or_is_left_out(root, file, train, test):
    (root / file).write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=rf"cannot be read\n.*{file}"):
        opened(root)
    dataset = opened(root, on_bad_image="skip")
    assert dataset.class_counts == [14, train]
    assert values(dataset.test) == test
    assert len(dataset.skipped) == 1
    assert file in dataset.skipped[0]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("below", [".", "ant", "ant/more"])
def test_a_directory_that_cannot_be_read_is_named(split, below, root, monkeypatch):
    fill(root / "test" / "ant" / "more", 1)
    closed = root / split / below
    # Permissions do not stop the superuser, whom tests may run as.
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), closed))
    words = rf"directory cannot be read\n  where:   {closed}\n  got:     Permission denied"
    with pytest.raises(InputError, match=words):
        opened(root)


def refusing(read, closed):
    def listed(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    return listed


@pytest.mark.parametrize(
    ("names", "renamed"),
    [
        (("Train", "Test"), "Test/ to test/, Train/ to train/;"),
        (("Training", "Testing"), "Testing/ to test/, Training/ to train/;"),
        (("TRAIN", "Val"), "TRAIN/ to train/, Val/ to val/;"),
        (("ant", "owl", "training"), "training/ to train/;"),
        (("train", "Test"), "Test/ to test/$"),
        (("train", "VAL"), "VAL/ to val/$"),
        (("train", "Validation"), "Validation/ to validation/$"),
    ],
)
def test_splits_are_not_taken_for_classes_or_passed_over_for_their_spelling(names, renamed, tmp_path):
    for name in names:
        fill(tmp_path / name / "ant", 3)
        fill(tmp_path / name / "owl", 3)
    with pytest.raises(InputError, match=rf"named as a split(.*\n)+.*rename {renamed}"):
        opened(tmp_path)


def test_a_class_may_be_called_like_a_split_in_train(root):
    fill(root / "train" / "Test", 2)
    assert opened(root).class_names == ("Test", "ant", "owl")


@pytest.mark.parametrize("target", ["..", ".", "../deeper"])
def test_no_link_makes_images_count_twice(target, root):
    """A link to a directory above would otherwise be followed until the system refuses."""
    (root / "train" / "ant" / "deeper").mkdir()
    for name in ("a", "b"):
        (root / "train" / "ant" / name).mkdir()
        (root / "train" / "ant" / name / "link").symlink_to(target)
    with pytest.raises(InputError, match=r"count twice(.*\n)+.*where:.*link"):
        opened(root)


def test_a_link_to_images_elsewhere_is_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    fill(elsewhere, 3)
    (root / "train" / "owl" / "more").symlink_to(elsewhere)
    assert opened(root).class_counts == [14, 6]


def test_classes_and_images_that_are_missing_are_named(root):
    fill(root / "test" / "owls", 1)
    with pytest.raises(InputError, match=r"class owls has test images(.*\n)*.*did you mean owl\?"):
        opened(root)
    for name in ("bee", "owls"):
        (root / "train" / name).mkdir()
    words = r"2 of 4 classes have no training image\n.*\n.*1 \(bee\), 3 \(owls\)"
    with pytest.raises(InputError, match=words):
        opened(root)


def test_no_test_image(root):
    for file in (root / "test" / "owl").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="there is no test image"):
        opened(root)


def test_layouts_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no class directories"):
        opened(tmp_path)
    fill(tmp_path / "only", 5)
    with pytest.raises(InputError, match=r"a single class(.*\n)+.*only"):
        opened(tmp_path)
    fill(tmp_path / "test" / "a", 1)
    with pytest.raises(InputError, match="test/ without train/"):
        opened(tmp_path)
