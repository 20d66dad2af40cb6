import json
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffds.data import open_dataset
from ffds.data.sources.ictext.cut import cut_ictext_lt, read_parent
from ffds.data.sources.ictext.layout import CHARACTERS, PAPER, Sizes
from ffds.data.sources.ictext.render import write_parent
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.recipes.schema import Data

SMALL = Sizes(natural=tuple(count // 50 for count in PAPER.natural), head=100, test=2)


@pytest.fixture(scope="module")
def chips(tmp_path_factory):
    """Rendered chips that carry a little more than is cut out of them, and lower case."""
    folder = tmp_path_factory.mktemp("parent")
    train = {name: count + 3 for name, count in zip(CHARACTERS, SMALL.natural, strict=True)}
    write_parent(folder, "train", train | dict.fromkeys(string.ascii_lowercase, 1), seed=0)
    write_parent(folder, "test", dict.fromkeys(CHARACTERS + "ab", SMALL.test + 1), seed=0)
    return folder


def parents(folder):
    return [read_parent(folder / f"{split}.json", folder / split) for split in ("train", "test")]


@pytest.fixture(scope="module")
def built(chips, tmp_path_factory):
    directory = tmp_path_factory.mktemp("built") / "data"
    return cut_ictext_lt(*parents(chips), directory, sizes=SMALL)


def opened(root, **given):
    return open_dataset(Data(name="ictext", root=str(root), **{"image_size": 12, **given}))


def counts_of_the_tail():
    return [int(100 * 100 ** (-i / 35)) for i in range(36)]


def listed(root, split):
    lines = (root / split / f"{split}.txt").read_text().splitlines()
    return {tuple(line.split(" ")) for line in lines}


def test_both_roots_have_the_counts(built):
    natural, tail = built
    assert [root.name for root in built] == ["ictext-lt-18", "ictext-lt-100"]
    assert tuple(opened(natural).class_counts) == SMALL.natural
    assert opened(tail).class_counts == counts_of_the_tail()
    for root in built:
        dataset = opened(root)
        assert dataset.class_names == tuple(CHARACTERS)
        assert np.bincount(dataset.test.labels).tolist() == [2] * 36
        for split in ("train", "val"):
            files = {path.name for path in (root / split / "imgs").iterdir()}
            assert files == {name for name, _ in listed(root, split)}
    assert listed(natural, "val") == listed(tail, "val")
    assert listed(tail, "train") < listed(natural, "train")
    index = json.loads((natural / "char_2_idx.json").read_text())
    assert list(index.values()) == list(range(62))
    assert sorted(name for name, label in index.items() if label > 35) == list(string.ascii_lowercase)


def test_the_loader_cuts_the_same_tail_from_the_natural_root(built, monkeypatch):
    monkeypatch.setitem(SOURCES, "ictext", replace(SOURCES["ictext"], largest_class=100))
    natural, tail = built
    cut, whole = opened(natural, imbalance_factor=100.0), opened(tail)
    assert cut.class_counts == whole.class_counts
    images = [
        {(label, image.tobytes()) for label, image in zip(part.labels.tolist(), part.images, strict=True)}
        for part in (cut.train, whole.train)
    ]
    assert images[0] == images[1]
    again = opened(tail, imbalance_factor=100.0)
    assert again.class_counts == whole.class_counts


def test_each_image_is_the_rectangle_around_its_character(built, chips):
    content = json.loads((chips / "train.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for name, character in sorted(listed(built[0], "train"))[::50]:
        image, place = map(int, Path(name).stem.split("_"))
        annotation = content["annotations"][place]
        assert annotation["image_id"] == image
        assert names[annotation["category_id"]] == character
        x, y = annotation["bbox"][::2], annotation["bbox"][1::2]
        chip = np.asarray(Image.open(chips / "train" / content["images"][image]["file_name"]))
        expected = chip[int(min(y)) : int(np.ceil(max(y))), int(min(x)) : int(np.ceil(max(x)))]
        found = np.asarray(Image.open(built[0] / "train" / "imgs" / name))
        np.testing.assert_array_equal(found, expected)


def test_what_is_rendered_says_so(built, chips, tmp_path):
    for root in built:
        assert "rendered sample, not ICText" in (root / "README.md").read_text()
        assert opened(root).source.startswith("rendered sample, not ICText: ")
    content = json.loads((chips / "train.json").read_text())
    del content["info"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    photographs = read_parent(tmp_path / "train.json", chips / "train")
    roots = cut_ictext_lt(photographs, photographs, tmp_path, sizes=TINY_OF_SMALL)
    for root in roots:
        text = (root / "README.md").read_text()
        assert "rendered" not in text
        assert "do not pass these images on" in text
        assert opened(root).source == f"ICText-LT in {root}"


TINY_OF_SMALL = Sizes(natural=tuple(counts_of_the_tail()), head=100, test=1)


def test_the_seed_decides_which(chips, built, tmp_path):
    other = cut_ictext_lt(*parents(chips), tmp_path / "other", seed=1, sizes=SMALL)
    again = cut_ictext_lt(*parents(chips), tmp_path / "again", sizes=SMALL)
    assert "seed 1," in (other[0] / "README.md").read_text()
    for split in ("train", "val"):
        assert listed(built[0], split) == listed(again[0], split) != listed(other[0], split)


def edited(chips, tmp_path, change):
    content = json.loads((chips / "train.json").read_text())
    change(content)
    (tmp_path / "train.json").write_text(json.dumps(content))
    return read_parent(tmp_path / "train.json", chips / "train")


def ignore_all_but_five_of(name):
    def change(content):
        label = CHARACTERS.index(name)
        for annotation in [a for a in content["annotations"] if a["category_id"] == label][5:]:
            annotation["ignore"] = 1

    return change


def test_classes_with_too_few_are_named(chips, tmp_path):
    train, test = parents(chips)
    with pytest.raises(InputError, match=r"36 of 36 classes(.*\n)+.*0 126 of 6155, 1 118 of 5786"):
        cut_ictext_lt(train, test, tmp_path)
    with pytest.raises(InputError, match=r"36 of 36 classes have too few characters\n.*test\.json"):
        cut_ictext_lt(train, test, tmp_path, sizes=Sizes(SMALL.natural, 100, 4))
    marked = edited(chips, tmp_path, ignore_all_but_five_of("Q"))
    with pytest.raises(InputError, match=r"1 of 36(.*\n)+.*got: +Q 5 of 9\n(.*\n)+.*--keep-ignored.* 7 "):
        cut_ictext_lt(marked, test, tmp_path / "a", sizes=SMALL)
    assert not (tmp_path / "a").exists()
    natural, _ = cut_ictext_lt(marked, test, tmp_path / "b", keep_ignored=True, sizes=SMALL)
    assert "`ignore` taken too" in (natural / "README.md").read_text()


def test_ignored_characters_are_not_taken(chips, tmp_path):
    ignored = []

    def change(content):
        for k, annotation in enumerate(content["annotations"]):
            if annotation["category_id"] == 3 and len(ignored) < 3:
                annotation["ignore"] = 1
                ignored.append(f"{annotation['image_id']}_{k}.png")

    marked = edited(chips, tmp_path, change)
    natural, _ = cut_ictext_lt(marked, parents(chips)[1], tmp_path / "a", sizes=SMALL)
    assert len(ignored) == 3
    assert not {name for name, _ in listed(natural, "train")} & set(ignored)


def test_nothing_is_overwritten(chips, tmp_path):
    (tmp_path / "ictext-lt-100").mkdir()
    with pytest.raises(InputError, match=r"never overwritten\n.*ictext-lt-100"):
        cut_ictext_lt(*parents(chips), tmp_path, sizes=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["ictext-lt-100"]


def truncate(content):
    content["images"][30]["file_name"] = "gone.png"


def widen(content):
    content["images"][30]["width"] += 1


def move(content):
    for annotation in content["annotations"]:
        if annotation["image_id"] == 30:
            annotation["bbox"] = [3000, 0, 3010, 0, 3010, 9, 3000, 9]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, r"cannot be read\n.*gone\.png"),
        (widen, r"another size than its annotation says\n.*00030\.png\n.*got"),
        (
            move,
            r"outside its image\n.*annotations\[30\d\]\n.*3000(.*\n)+.*nothing of it lies in the image of",
        ),
    ],
)
def test_a_fault_on_the_way_leaves_nothing(chips, tmp_path, change, words):
    broken = edited(chips, tmp_path, change)
    with pytest.raises(InputError, match=words):
        cut_ictext_lt(broken, parents(chips)[1], tmp_path / "data", sizes=SMALL)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_directory_that_cannot_be_written(chips, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written\n.*file"):
        cut_ictext_lt(*parents(chips), tmp_path / "file", sizes=SMALL)
