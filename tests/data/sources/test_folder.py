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


def test_train_and_test_directories(root):
    dataset = opened(root)
    assert dataset.class_names == ("ant", "owl")
    assert dataset.class_counts == [14, 3]
    assert dataset.test.labels.tolist() == [1, 1]
    assert values(dataset.test) == [100, 101]


def test_the_order_is_that_of_torchvision(root):
    twin = ImageFolder(root / "train")
    dataset = opened(root)
    assert dataset.train.labels.tolist() == twin.targets
    assert values(dataset.train) == [np.asarray(image)[0, 0, 0] for image, _ in twin]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_the_test_directory(root, name):
    (root / "test").rename(root / name)
    assert len(opened(root).test) == 2


def test_test_goes_before_val(root):
    fill(root / "val" / "ant", 5)
    assert len(opened(root).test) == 2


def test_hidden_and_other_files_are_no_images(root):
    (root / "train" / "owl" / "notes.txt").write_text("")
    (root / "train" / "owl" / ".hidden.png").write_text("")
    (root / "train" / ".cache").mkdir()
    assert opened(root).class_counts == [14, 3]


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


def test_a_bad_image_stops_or_is_left_out(root):
    (root / "train" / "owl" / "10.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be read\n.*10\.png"):
        opened(root)
    dataset = opened(root, on_bad_image="skip")
    assert dataset.class_counts == [14, 2]
    assert len(dataset.skipped) == 1


def test_a_bad_test_image_is_left_out_too(root):
    (root / "test" / "owl" / "100.png").write_bytes(b"GIF89a")
    dataset = opened(root, on_bad_image="skip")
    assert values(dataset.test) == [101]
    assert "100.png" in dataset.skipped[0]


def test_an_unknown_class_in_the_test_set(root):
    fill(root / "test" / "owls", 1)
    with pytest.raises(InputError, match=r"class owls has test images(.*\n)*.*did you mean owl\?"):
        opened(root)


def test_classes_without_an_image_are_named(root):
    (root / "train" / "bee").mkdir()
    (root / "train" / "cat").mkdir()
    with pytest.raises(
        InputError, match=r"2 of 4 classes have no training image\n.*\n.*1 \(bee\), 2 \(cat\)"
    ):
        opened(root)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("below", [".", "ant", "ant/more"])
def test_a_directory_that_cannot_be_read_is_named(split, below, root, monkeypatch):
    fill(root / "test" / "ant" / "more", 1)
    closed = root / split / below
    # Permissions do not stop the superuser, whom tests may run as.
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), closed))
    with pytest.raises(
        InputError, match=rf"directory cannot be read\n  where:   {closed}\n  got:     Permission denied"
    ):
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
        (("Train", "Test"), "Test/ to test/, Train/ to train/"),
        (("Training", "Testing"), "Testing/ to test/, Training/ to train/"),
        (("TRAIN", "Val"), "TRAIN/ to train/, Val/ to val/"),
        (("ant", "owl", "training"), "training/ to train/"),
    ],
)
def test_splits_are_not_taken_for_classes(names, renamed, tmp_path):
    for name in names:
        fill(tmp_path / name / "ant", 3)
    with pytest.raises(InputError, match=rf"named as a split(.*\n)+.*rename {renamed};"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["Test", "VAL", "Validation"])
def test_no_test_set_is_passed_over_for_its_spelling(name, tmp_path):
    for split in ("train", name):
        fill(tmp_path / split / "ant", 3)
        fill(tmp_path / split / "owl", 3)
    with pytest.raises(InputError, match=rf"named as a split(.*\n)+.*rename {name}/ to {name.lower()}/$"):
        opened(tmp_path)


def test_a_class_may_be_called_like_a_split_in_train(root):
    fill(root / "train" / "Test", 2)
    assert opened(root).class_names == ("Test", "ant", "owl")


@pytest.mark.parametrize("target", ["..", ".", "../deeper"])
def test_no_link_makes_images_count_twice(target, root):
    """A link to a directory above would otherwise be followed until the system refuses."""
    for name in ("a", "b"):
        (root / "train" / "ant" / name).mkdir()
    (root / "train" / "ant" / "deeper").mkdir()
    (root / "train" / "ant" / "a" / "link").symlink_to(target)
    (root / "train" / "ant" / "b" / "link").symlink_to(target)
    with pytest.raises(InputError, match=r"count twice(.*\n)+.*where:.*link"):
        opened(root)


def test_a_link_to_images_elsewhere_is_followed(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    fill(elsewhere / "cow", 3)
    before = len(opened(root).train.labels)
    (root / "train" / "owl" / "more").symlink_to(elsewhere / "cow")
    assert len(opened(root).train.labels) == before + 3


def test_a_single_class(tmp_path):
    fill(tmp_path / "only", 5)
    with pytest.raises(InputError, match=r"a single class(.*\n)+.*only"):
        opened(tmp_path)


def test_no_test_image(root):
    for file in (root / "test" / "owl").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="there is no test image"):
        opened(root)


def test_layouts_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"folder needs data.root"):
        open_dataset(Data(name="folder"))
    with pytest.raises(InputError, match="not a directory that can be read"):
        opened(tmp_path / "gone")
    with pytest.raises(InputError, match="no class directories"):
        opened(tmp_path)
    fill(tmp_path / "test" / "a", 1)
    with pytest.raises(InputError, match="test/ without train/"):
        opened(tmp_path)
