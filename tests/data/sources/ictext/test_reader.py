import json
import string
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffds.data import open_dataset
from ffds.data.long_tail import tail_rows
from ffds.data.open import open_source
from ffds.data.sources.ictext.layout import PAPER
from ffds.errors import InputError
from ffds.recipes.schema import Data
from tests.data.sources.ictext.layouts import INDEX, ORDER, layout, picture, values

ONCE = "".join(ORDER)
PUBLISHED_TAIL = [int(3200 * 100 ** (-i / 35)) for i in range(36)]


def settings(root, **given):
    return Data(name="ictext", root=str(root), **{"image_size": 8, **given})


def opened(root, **given):
    return open_dataset(settings(root, **given))


@pytest.fixture
def root(tmp_path):
    """Two training images of each class and one test image, with lower case among them."""
    return layout(tmp_path / "ictext", ONCE + "qa" + ONCE, "b" + ONCE)


def test_classes_are_digits_and_upper_case_in_falling_frequency(root):
    dataset = opened(root)
    assert dataset.class_names == tuple(ORDER)
    assert dataset.class_counts == [2] * 36
    assert dataset.train.labels.tolist() == [*range(36), *range(36)]
    assert values(dataset.train.images) == [*range(36), *range(38, 74)]
    assert dataset.test.labels.tolist() == list(range(36))
    assert values(dataset.test.images) == list(range(1, 37))
    assert dataset.source == f"ICText-LT in {root}"
    (root / "char_2_idx.json").write_text(json.dumps(INDEX | {"0": 35, "O": 0}))
    assert opened(root).class_names[0] == "O"
    assert opened(root).train.labels[0] == 35
    (root / "rendered-sample.json").write_text("{}")
    assert opened(root).source == f"rendered sample, not ICText: {root}"


@pytest.mark.parametrize("folder", [".", "ictext-lt-18", "ictext2021"])
def test_where_it_may_lie_and_what_its_lists_may_hold(root, tmp_path, folder):
    file = root / "train" / "train.txt"
    lines = file.read_text().splitlines()
    file.write_text("\ufeff" + "\r\n\r\n".join(line.replace(" ", ", ") for line in lines) + "\n  \n")
    (tmp_path / "data").mkdir()
    root.rename(tmp_path / "data" / folder)
    assert opened(tmp_path / "data").class_counts == [2] * 36


def test_images_are_padded_to_squares(root):
    Image.new("RGB", (9, 9), (10, 20, 30)).save(root / "train" / "imgs" / "0.png")
    images = opened(root, image_size=9).train.images
    assert images[0, 4, 4].tolist() == [10, 20, 30]
    assert (images[3][:, 2:6] == 3).all()  # 4 wide, 9 high
    assert (images[3][:, [0, 1, 7, 8]] == 0).all()
    picture(root / "train" / "imgs" / "0.png", 99, (90, 30))
    image = opened(root, image_size=8, eval_resize=30).train.images[0]
    assert (image[12:18] == 99).all()
    assert (image[[0, -1]] == 0).all()
    with pytest.raises(InputError, match=r"images differ in size(.*\n)+.*ictext"):
        opened(root, image_size=None)


def taken(source, rows):
    return [int(Path(source.place(row)).stem) for row in source.rows[rows].tolist()]


def test_the_published_counts_and_the_reference_subset(tmp_path):
    """Lists of the real size, with lower case, in an order by chance, and no image."""
    assert (sum(PAPER.natural), 36 * PAPER.test, PAPER.head) == (68_307, 6_300, 3200)
    train = [name for name, count in zip(ORDER, PAPER.natural, strict=True) for _ in range(count)]
    train += [*(string.ascii_lowercase * 20)]
    test = [name for name in ORDER for _ in range(175 + 9 * (name in "ABC"))] + ["z"] * 40
    for text in (train, test):
        np.random.RandomState(3).shuffle(text)
    root = layout(tmp_path, "".join(train), "".join(test), images=False)

    def reference(text, counts):
        """The files that the released loader takes, written as plainly as can be."""
        stream, labels, files = np.random.RandomState(0), np.array([INDEX[name] for name in text]), []
        for label, count in enumerate(counts):
            of_class = np.where(labels == label)[0]
            stream.shuffle(of_class)
            files += of_class[:count].tolist()
        return files

    source = open_source(settings(root))
    assert source.counts == PAPER.natural
    kept = tail_rows(source, settings(root, imbalance_factor=100.0))
    assert len(kept) == 25_711
    assert taken(source.train, kept) == reference(train, PUBLISHED_TAIL)
    assert taken(source.test, np.arange(6_300)) == sorted(reference(test, [175] * 36))
    assert len(tail_rows(source, settings(root))) == 68_307
    with pytest.raises(InputError, match=r"too few(.*\n)+.*O 334 of 1600(.*\n)+.*imbalance_factor=null"):
        tail_rows(source, settings(root, imbalance_factor=2.0))


def test_a_root_cut_before_is_kept_whole_and_a_flatter_tail_is_refused(tmp_path):
    text = "".join(name * count for name, count in zip(ORDER, PUBLISHED_TAIL, strict=True))
    data = settings(layout(tmp_path, text, ONCE, images=False), imbalance_factor=100.0)
    source = open_source(data)
    assert sorted(tail_rows(source, data)) == list(range(25_711))
    words = r"34 classes have too few images: imbalance_factor 98(.*\n)+.*1 2805 of 2807"
    with pytest.raises(InputError, match=words):
        tail_rows(source, data.model_copy(update={"imbalance_factor": 98.0}))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7.png", r"does not name a file and a character\n.*train\.txt:76\n.*7\.png"),
        ("7.png AB", r"does not name a file and a character\n.*train\.txt:76\n.*7\.png AB"),
        ("7.png ?", r"a character of char_2_idx\.json"),
        (" A", r"train\.txt:76"),
        ("../../secret.png A", r"a file name below imgs/"),
        ("/etc/passwd A", r"train\.txt:76\n.*/etc/passwd A\n.*below imgs/"),
        ("7.png A", r"7\.png is listed twice\n.*train\.txt:76\n.*line 8 too"),
    ],
)
def test_a_line_that_says_nothing_is_named(root, line, words):
    file = root / "train" / "train.txt"
    file.write_text(file.read_text() + "\n" + line + "\n")
    with pytest.raises(InputError, match=words):
        opened(root)


def test_files_that_are_missing_or_bad_are_named(root):
    (root / "train" / "imgs" / "40.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"cannot be read\n.*40\.png"):
        opened(root)
    assert opened(root, on_bad_image="skip").class_counts == [2, 2, 1, *[2] * 33]
    (root / "val" / "val.txt").unlink()
    with pytest.raises(InputError, match=r"cannot be read\n.*val/val\.txt\n.*\n.*char_2_idx\.json"):
        opened(root)
    (root / "char_2_idx.json").unlink()
    with pytest.raises(InputError, match=r"char_2_idx\.json is missing(.*\n)+.*agreement.*ictext-sample"):
        opened(root)


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (ONCE.replace("Q", "q"), ONCE, r"1 of 36 classes have no training image(.*\n)+.*32 \(Q\)"),
        (ONCE, ONCE.replace("Q", "q").replace("7", "A"), r"same number of each class(.*\n)+.*got: +7, Q"),
        (ONCE, "", r"same number of each class"),
    ],
)
def test_classes_without_an_image(tmp_path, train, val, words):
    with pytest.raises(InputError, match=words):
        opened(layout(tmp_path, train, val))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ('{"01": 0}', "not the characters"),
        (json.dumps(INDEX | {"A": 7}), r"labels 0 to 35(.*\n)+.*A 7"),
        (json.dumps({name: label for name, label in INDEX.items() if name != "A"}), "A missing"),
        ("\xff", "cannot be read"),
    ],
)
def test_an_index_that_is_none(root, content, words):
    (root / "char_2_idx.json").write_text(content, encoding="latin1")
    with pytest.raises(InputError, match=words) as caught:
        opened(root)
    assert "char_2_idx.json" in str(caught.value)
