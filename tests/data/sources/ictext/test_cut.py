"""Reading ICText's annotations, and cutting ICText-LT out of rendered chips that stand in for it."""

import json
import shutil
import string
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffds.data import open_dataset
from ffds.data.sources.ictext.cut import cut_ictext_lt, read_parent
from ffds.data.sources.ictext.layout import CHARACTERS, Sizes
from ffds.data.sources.ictext.render import write_parent
from ffds.data.sources.registry import SOURCES
from ffds.errors import InputError
from ffds.recipes.schema import Data
from tests.data.sources.ictext.layouts import INDEX, SMALL, TAIL

BOX = [1.5, 2, 9, 2, 9, 14, 1.5, 14]
OUTSIDE = [3000, 0, 3010, 0, 3010, 9, 3000, 9]


def annotations():
    """Two images and three characters in the published form, with further keys."""
    return {
        "info": {"year": 2023},
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 30, "width": 40},
            {"id": 3, "file_name": "more/b.jpg", "height": 50, "width": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "bbox": BOX, "category_id": 2, "aesthetic": [0, 1, 0], "ignore": 0},
            {"id": 2, "image_id": 3, "bbox": BOX, "category_id": 1, "area": 90.0, "ignore": 1},
            {"id": 3, "image_id": 7, "bbox": BOX, "category_id": 1},
        ],
        "categories": [{"id": 1, "name": "A"}, {"id": 2, "name": "q"}],
    }


def read(tmp_path, content):
    file = tmp_path / "train.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_parent(file, tmp_path / "images")


def test_characters_come_in_the_order_of_the_file(tmp_path):
    parent = read(tmp_path, annotations())
    facts = [(character.name, character.place, character.ignored) for character in parent.characters]
    assert facts == [("q", 0, False), ("A", 1, True), ("A", 2, False)]
    first, second, _ = (character.photograph for character in parent.characters)
    assert first.model_dump() == annotations()["images"][0]
    assert (parent.images, second.file_name) == (tmp_path / "images", "more/b.jpg")
    assert parent.characters[0].corners == tuple(BOX)
    assert not parent.rendered
    rendered = {"info": {"description": "rendered sample, not ICText; any words"}}
    assert read(tmp_path, annotations() | rendered).rendered


@pytest.mark.parametrize(
    ("group", "place", "keys", "words"),
    [
        ("annotations", 1, {"bbox": BOX[:7]}, r"annotations\.1\.bbox"),
        ("annotations", 0, {"bbox": [float("nan"), *BOX[1:]]}, r"annotations\.0\.bbox\.0"),
        ("annotations", 2, {"ignore": 2}, r"annotations\.2\.ignore"),
        ("images", 0, {"width": 0}, r"images\.0\.width"),
        ("annotations", 1, {"image_id": 4}, r"image that is not listed\n.*annotations\[1\]\n.*got: +4"),
        ("annotations", 0, {"category_id": 9}, r"category that is not listed\n.*annotations\[0\]\n.*9"),
        ("categories", 1, {"name": "?"}, r"not a character\n.*categories\[1\]\n.*\?"),
        ("images", 1, {"file_name": "../b.jpg"}, r"leads out(.*\n)+.*images\[1\]\n.*\.\./b\.jpg"),
        ("images", 1, {"id": 7}, r"one id\n.*images\[1\]\n.*7"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, group, place, keys, words):
    content = annotations()
    content[group][place].update(keys)
    with pytest.raises(InputError, match=words):
        read(tmp_path, content)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": NaN}', {"images": [], "annotations": []}])
def test_what_is_no_such_file(tmp_path, content):
    with pytest.raises(InputError, match=r"not annotations of ICText\n.*train\.json"):
        read(tmp_path, content)
    with pytest.raises(InputError, match=r"cannot be read\n.*gone\.json"):
        read_parent(tmp_path / "gone.json", tmp_path)
    many = annotations()
    many["annotations"] = [annotation | {"bbox": None} for annotation in many["annotations"] * 4]
    with pytest.raises(InputError, match=r"annotations\.4\.bbox.*; and 7 more"):
        read(tmp_path, many)


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
def roots(chips, tmp_path_factory):
    return cut_ictext_lt(*parents(chips), tmp_path_factory.mktemp("cut") / "data", sizes=SMALL)


def opened(root, **given):
    return open_dataset(Data(name="ictext", root=str(root), **{"image_size": 12, **given}))


def listed(root, split):
    lines = (root / split / f"{split}.txt").read_text().splitlines()
    return {tuple(line.split(" ")) for line in lines}


def test_both_roots_have_the_counts(roots):
    natural, tail = roots
    assert [root.name for root in roots] == ["ictext-lt-18", "ictext-lt-100"]
    assert tuple(opened(natural).class_counts) == SMALL.natural
    assert opened(tail).class_counts == TAIL
    for root in roots:
        dataset = opened(root)
        assert np.bincount(dataset.test.labels).tolist() == [2] * 36
        for split in ("train", "val"):
            files = {path.name for path in (root / split / "imgs").iterdir()}
            assert files == {name for name, _ in listed(root, split)}
        assert "rendered sample, not ICText" in (root / "README.md").read_text()
        assert dataset.source.startswith("rendered sample, not ICText: ")
    assert listed(natural, "val") == listed(tail, "val")
    assert listed(tail, "train") < listed(natural, "train")
    assert json.loads((natural / "char_2_idx.json").read_text()) == INDEX


def test_the_loader_cuts_the_same_tail_from_the_natural_root(roots, monkeypatch):
    monkeypatch.setitem(SOURCES, "ictext", replace(SOURCES["ictext"], largest_class=SMALL.head))
    cut, whole = (
        sorted(zip(dataset.train.labels.tolist(), map(bytes, dataset.train.images), strict=True))
        for dataset in (opened(roots[0], imbalance_factor=100.0), opened(roots[1]))
    )
    assert cut == whole


def test_each_image_is_the_rectangle_around_its_character(roots, chips):
    content = json.loads((chips / "train.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for name, character in sorted(listed(roots[0], "train"))[::50]:
        image, place = map(int, Path(name).stem.split("_"))
        annotation = content["annotations"][place]
        assert annotation["image_id"] == image
        assert names[annotation["category_id"]] == character
        x, y = annotation["bbox"][::2], annotation["bbox"][1::2]
        chip = np.asarray(Image.open(chips / "train" / content["images"][image]["file_name"]))
        expected = chip[int(min(y)) : int(np.ceil(max(y))), int(min(x)) : int(np.ceil(max(x)))]
        np.testing.assert_array_equal(Image.open(roots[0] / "train" / "imgs" / name), expected)


def edited(chips, tmp_path, change):
    content = json.loads((chips / "train.json").read_text())
    change(content)
    (tmp_path / "train.json").write_text(json.dumps(content))
    return read_parent(tmp_path / "train.json", chips / "train")


def test_photographs_are_not_called_rendered(chips, tmp_path):
    photographs = edited(chips, tmp_path, lambda content: content.pop("info"))
    for root in cut_ictext_lt(photographs, photographs, tmp_path, sizes=Sizes(tuple(TAIL), 100, 1)):
        text = (root / "README.md").read_text()
        assert "rendered" not in text
        assert "do not pass these images on" in text
        assert opened(root).source == f"ICText-LT in {root}"


def test_the_seed_decides_which_and_nothing_is_overwritten(chips, roots, tmp_path):
    other = cut_ictext_lt(*parents(chips), tmp_path, seed=1, sizes=SMALL)
    assert "seed 1," in (other[0] / "README.md").read_text()
    for split in ("train", "val"):
        assert listed(roots[0], split) != listed(other[0], split)
    shutil.rmtree(other[0])
    with pytest.raises(InputError, match=r"never overwritten\n.*ictext-lt-100"):
        cut_ictext_lt(*parents(chips), tmp_path, sizes=SMALL)
    assert list(tmp_path.iterdir()) == [other[1]]
    again = cut_ictext_lt(*parents(chips), tmp_path / "again", sizes=SMALL)
    assert listed(roots[0], "train") == listed(again[0], "train")
    with pytest.raises(InputError, match=r"cannot be written\n.*README"):
        cut_ictext_lt(*parents(chips), again[0] / "README.md", sizes=SMALL)


def test_classes_with_too_few_are_named(chips, tmp_path):
    train, test = parents(chips)
    with pytest.raises(InputError, match=r"36 of 36 classes(.*\n)+.*0 126 of 6155, 1 118 of 5786"):
        cut_ictext_lt(train, test, tmp_path)
    with pytest.raises(InputError, match=r"36 of 36 classes have too few characters\n.*test\.json"):
        cut_ictext_lt(train, test, tmp_path, sizes=Sizes(SMALL.natural, 100, 4))

    def ignoring(content, keep=5):
        label = CHARACTERS.index("Q")
        for annotation in [a for a in content["annotations"] if a["category_id"] == label][keep:]:
            annotation["ignore"] = 1

    marked = edited(chips, tmp_path, ignoring)
    with pytest.raises(InputError, match=r"1 of 36(.*\n)+.*got: +Q 5 of 9\n(.*\n)+.*--keep-ignored.* 7 "):
        cut_ictext_lt(marked, test, tmp_path / "a", sizes=SMALL)
    assert not (tmp_path / "a").exists()
    natural, _ = cut_ictext_lt(marked, test, tmp_path / "b", keep_ignored=True, sizes=SMALL)
    assert "`ignore` taken too" in (natural / "README.md").read_text()
    enough = edited(chips, tmp_path, partial(ignoring, keep=9))
    natural, _ = cut_ictext_lt(enough, test, tmp_path / "c", sizes=SMALL)
    ignored = {character.file_name for character in enough.characters if character.ignored}
    assert len(ignored) == 3
    assert not {name for name, _ in listed(natural, "train")} & ignored


@pytest.mark.parametrize(
    ("group", "keys", "words"),
    [
        ("images", {"file_name": "gone.png"}, r"cannot be read\n.*gone\.png"),
        ("images", {"width": 9}, r"another size than its annotation says\n.*00030\.png\n.*got"),
        ("annotations", {"bbox": OUTSIDE}, r"outside its image\n.*annotations\[30\d\]\n.*3000"),
    ],
)
def test_a_fault_on_the_way_leaves_nothing(chips, tmp_path, group, keys, words):
    def change(content):
        for entry in content[group]:
            if entry.get("image_id", entry["id"]) == 30:
                entry.update(keys)

    with pytest.raises(InputError, match=words):
        cut_ictext_lt(edited(chips, tmp_path, change), parents(chips)[1], tmp_path / "data", sizes=SMALL)
    assert list((tmp_path / "data").iterdir()) == []
