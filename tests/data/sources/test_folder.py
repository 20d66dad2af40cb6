import os
from functools import partial

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from ffds.data import open_dataset
from ffds.data.open import open_labelled
from ffds.errors import InputError
from ffds.recipes.schema import Data

SECOND = ["val", "valid", "validation", "dev", "test", "testing", "eval"]


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
    assert opened(root, imbalance_factor=7.0).class_counts == [14, 2]
    (root / "train" / "owl" / ".hidden.png").write_text("")
    for name in (".cache", "Test"):  # in train/ a class may be called like a split
        fill(root / "train" / name, 2)
    assert opened(root).class_names == ("Test", "ant", "owl")


def test_every_ending_that_pillow_opens_counts_in_any_case(root):
    for form, suffix in (
        ("JPEG", "jfif"),
        ("JPEG", "JPE"),
        ("PNG", "apng"),
        ("AVIF", "Avif"),
        ("TIFF", "tif"),
    ):
        Image.new("RGB", (4, 4)).save(root / "train" / "owl" / f"x.{suffix}", form)
    dataset = opened(root)
    assert dataset.class_counts == [14, 8]
    assert dataset.notes == ()


def test_what_is_not_read_is_told_with_its_number(root, capsys):
    owls = root / "train" / "owl"
    for name in ("a.HEIC", "b.HEIC", "c.dcm", "none", "more/d.CR2"):
        (owls / name).parent.mkdir(exist_ok=True)
        (owls / name).write_bytes(b"x")
    (root / "test" / "owl" / "e.dcm").write_bytes(b"x")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", ".cache/x.png"):
        (owls / name).parent.mkdir(exist_ok=True)
        (owls / name).write_bytes(b"clutter")
    fill(root / "train", 2)
    dataset = opened(root)
    assert dataset.class_counts == [14, 3]
    assert dataset.notes == (
        f"images beside the class directories are not read: 2, such as {root / 'train/0.png'}",
        "files of other kinds than images are not read: 2 of .HEIC, 2 of .dcm, 1 of no suffix, 1 of .CR2, "
        f"such as {owls / 'a.HEIC'}",
    )
    assert capsys.readouterr().err == "".join(f"note: {note}\n" for note in dataset.notes)
    for image in owls.glob("*.png"):
        image.unlink()
    with pytest.raises(InputError, match=r"no training image(.*\n)+.*1 \(owl\); .*\.HEIC"):
        opened(root)


@pytest.mark.parametrize("name", [*SECOND, "VAL", "Testing"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_every_usual_name_of_a_split_counts(root, name, train):
    (root / "train").rename(root / train)
    (root / "test").rename(root / name)
    dataset = opened(root)
    assert (len(dataset.train), len(dataset.test), dataset.validation) == (17, 2, None)


@pytest.mark.parametrize(
    ("names", "asked", "tested", "held"),
    [
        (("test", "dev"), None, "test", "dev"),
        (("eval", "Valid"), None, "eval", "Valid"),
        (("test", "val"), "val", "val", None),
        (("val", "valid"), "valid", "valid", None),
        (("val", "test", "eval"), "eval", "eval", "val"),
        (("val", "extra"), "EXTRA", "extra", "val"),
        (("extra",), None, None, None),
    ],
)
def test_what_each_split_serves_as(names, asked, tested, held, tmp_path):
    """What serves as nothing is named."""
    for number, name in enumerate(("train", *names)):
        for place in ("ant", "owl"):
            fill(tmp_path / name / place, 5, first=20 * number)
    dataset = opened(tmp_path, test_split=asked, validation=0.4 if held else 0)
    first = {name: 20 * number for number, name in enumerate(names, start=1)}
    assert dataset.class_counts == ([5, 5] if tested else [4, 4])
    assert min(values(dataset.test)) == first.get(tested, min(values(dataset.test)))
    assert (dataset.validation and min(values(dataset.validation))) == first.get(held)
    unused = [f"{name}/" for name in sorted(names) if name not in (tested, held)]
    notes = [f"in {tmp_path} the following is not used: {', '.join(unused)}"] if unused else []
    notes += ["data.validation=0.4 is not used: the data bring a validation set"] if held else []
    assert list(dataset.notes) == notes


@pytest.mark.parametrize(
    ("names", "asked", "words"),
    [
        (("val", "valid"), None, "could be the test set.*got: +val, valid.*data.test_split=val"),
        (("test", "eval"), None, "could be the test set.*got: +eval, test.*data.test_split=eval"),
        (("test", "Test"), "TEST", "could be the test set.*got: +Test, test"),
        (("dev", "val", "test"), None, "could be the validation set.*got: +dev, val"),
        (("training", "test"), None, "could be the train set.*got: +train, training.*leave one"),
        (("val", "test"), "tset", "test_split=tset is no split.*allowed: test, val.*did you mean test"),
        (("val",), "train", "test_split=train is no split"),
        ((), "test", "test_split=test is no split.*allowed: null"),
    ],
)
def test_splits_that_leave_a_choice_are_refused(names, asked, words, tmp_path):
    for name in ("train", *names):
        fill(tmp_path / name / "ant", 1)
        fill(tmp_path / name / "owl", 1)
    with pytest.raises(InputError, match=f"(?s){words}"):
        opened(tmp_path, test_split=asked)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_validation_set_is_taken_as_it_is(root, in_memory):
    for name, count in {"ant": 3, "owl": 2}.items():
        fill(root / "val" / name, count, first=200)
    settings = {"imbalance_factor": 7.0, "in_memory": in_memory, "workers": 0}
    dataset = opened(root, **settings)
    assert dataset.class_counts == [14, 2]
    assert dataset.validation.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.validation.images[np.arange(5)][:, 0, 0, 0].tolist() == [200, 201, 202, 200, 201]
    (root / "val" / "ant" / "201.png").write_text("none")
    dataset = opened(root, on_bad_image="skip", **settings)
    assert dataset.validation.labels.tolist() == [0, 0, 1, 1]
    assert [line.partition(":")[0] for line in dataset.skipped] == [f"{root}/val/ant/201.png"]
    for file in root.glob("val/*/*.png"):
        file.write_text("none")
    with pytest.raises(InputError, match=r"no validation image|no image can be read"):
        opened(root, on_bad_image="skip", **settings)


def test_names_of_classes_are_compared_in_one_unicode_form(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "train" / composed, 2)
    fill(tmp_path / "train" / "bar", 2)
    fill(tmp_path / "test" / decomposed, 1)
    assert opened(tmp_path).test.labels.tolist() == [1]
    fill(tmp_path / "train" / decomposed, 2)
    with pytest.raises(InputError, match=r"same name(.*\n)+.*'cafe\\u0301', 'caf\\xe9'"):
        opened(tmp_path)


@pytest.mark.parametrize("other", ["OWL", "owl ", "owls"])
@pytest.mark.parametrize("split", ["test", "val"])
def test_the_name_of_no_training_class(other, split, root):
    fill(root / split / other, 2)
    fill(root / "test" / "owl", 1)
    with pytest.raises(
        InputError, match=rf"class '{other}' is no class of(.*\n)+.*{split}\n(.*\n)+.*mean owl\?"
    ):
        opened(root)
    fill(root / "train" / "owl ", 1)
    with pytest.raises(InputError, match="'owl', 'owl '"):
        opened(root)


def test_classes_alone_are_split_per_class(tmp_path):
    for name, count in {"a": 20, "b": 3, "c": 1, "d": 2}.items():
        fill(tmp_path / name, count, first=30 * "abcd".index(name))
    first, again, other = (opened(tmp_path, test_fraction=0.1, seed=seed) for seed in (0, 0, 5))
    assert first.class_counts == [18, 2, 1, 1]
    assert np.bincount(first.test.labels).tolist() == [2, 1, 0, 1]
    assert not set(values(first.train)) & set(values(first.test))
    assert values(first.test) == values(again.test) != values(other.test)


@pytest.mark.parametrize(
    ("names", "asked", "words"),
    [
        (("Test", "ant"), None, "Test/ without train/(.*\n)+.*got: +Test/, ant/(.*\n)+.*if it is a class"),
        (("dev", "valid"), None, "dev/, valid/ without train/"),
        (("ant", "owl"), "test", "data.test_split needs train/"),
    ],
)
def test_splits_without_a_training_set_are_not_taken_for_classes(names, asked, words, tmp_path):
    for name in names:
        fill(tmp_path / name / "ant", 3)
        fill(tmp_path / name / "owl", 3)
    with pytest.raises(InputError, match=words):
        opened(tmp_path, test_split=asked)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("below", [".", "ant", "ant/more"])
def test_a_directory_that_cannot_be_read_is_named(split, below, root, monkeypatch):
    fill(root / "test" / "ant" / "more", 1)
    closed = str(root / split / below)

    def refusing(read, path):
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return read(path)

    # Permissions do not stop the superuser, whom tests may run as.
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, partial(refusing, getattr(os, name)))
    words = rf"directory cannot be read\n  where:   {closed}\n  got:     Permission denied"
    with pytest.raises(InputError, match=words):
        opened(root)


@pytest.mark.parametrize("target", ["..", ".", "../deeper"])
def test_links_are_followed_but_make_no_image_count_twice(target, root):
    """A link to a directory above would otherwise be followed until the system refuses."""
    fill(root / ".hidden", 3)
    (root / "train" / "owl" / "more").symlink_to(root / ".hidden")
    assert opened(root).class_counts == [14, 6]
    for name in ("deeper", "a", "b"):
        (root / "train" / "ant" / name).mkdir()
    for name in ("a", "b"):
        (root / "train" / "ant" / name / "link").symlink_to(target)
    with pytest.raises(InputError, match=r"count twice(.*\n)+.*where:.*link"):
        opened(root)


@pytest.mark.parametrize("link", ["test", "test/owl", "train/owl/more", "test/owl/100.png"])
def test_no_link_leads_out_of_the_directory_of_the_data(link, root, tmp_path_factory):
    """The directory itself may be a link to elsewhere."""
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    if (place := root / link).exists():
        place.rename(secret)
    else:
        fill(secret, 2)
    place.symlink_to(os.path.relpath(secret, place.parent))
    words = rf"a link leads out of the directory of the data\n  where:   {root}/{link}.*\n  got:     {secret}"
    with pytest.raises(InputError, match=words):
        opened(root)
    if link != "train/owl/more":
        with pytest.raises(InputError, match=words):
            open_labelled(Data(name="folder", root=str(root)), ["ant", "owl"])
    place.unlink()
    secret.rename(place)
    (whole := secret.parent / "link").symlink_to(root)
    assert opened(whole).num_classes == 2


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "no class directories"),
        ({"only": 5}, r"a single class(.*\n)+.*only"),
        ({"a": 5, "test/a": 1}, "test/ without train/"),
        ({"train/a": 1, "train/b": 1, "test/a": 0}, "there is no test image"),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "val/a": 0}, "there is no validation image"),
        (
            {"train/ant": 1, "train/bee": 0, "train/cat": 1, "train/dog": 0, "test/ant": 1},
            r"2 of 4 classes have no training image\n.*\n.*1 \(bee\), 3 \(dog\)",
        ),
    ],
)
def test_layouts_that_are_none_and_images_that_are_missing(counts, words, tmp_path):
    for name, count in counts.items():
        fill(tmp_path / name, count)
    with pytest.raises(InputError, match=words):
        opened(tmp_path)
