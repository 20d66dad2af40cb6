"""What is seen of the user's own images: what lies there is counted, named, and warned of."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ffds.data.look import look_at
from ffds.data.open import open_dataset
from ffds.errors import InputError
from ffds.recipes.schema import Data
from tests.data.pictures import write_folder, write_picture


def save(path: Path, size: tuple[int, int], mode: str = "RGB", turn: int = 1) -> Path:
    """A picture that no other is like, of one mode, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(str(path).encode()[-8:], "big")
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(noise).convert(mode).save(path, exif=exif.tobytes())
    return path


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Classes with spaces, commas and Unicode; several formats; damaged, turned and doubled files."""
    root = tmp_path / "my photos"
    for k in range(12):
        save(root / "train" / "cat" / f"a b,{k}.jpg", (40 + k, 30))
    for k in range(4):
        save(root / "train" / "Müll, rot" / f"{k}.png", (20, 50), "RGBA")
        save(root / "test" / "Müll, rot" / f"{k}.tif", (20, 50))
    save(root / "train" / "犬" / "once.jpg", (64, 48), "CMYK", turn=6)
    save(root / "test" / "cat" / "turned.png", (40, 30), turn=3)
    (root / "train" / "cat" / "text.jpg").write_text("no image")
    whole = (root / "train" / "cat" / "a b,0.jpg").read_bytes()
    (root / "test" / "cat" / "cut off.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(root / "train" / "cat" / "a b,1.jpg", root / "test" / "cat" / "leak.jpg")
    shutil.copy(root / "train" / "cat" / "a b,2.jpg", root / "train" / "Müll, rot" / "other label.jpg")
    shutil.copy(root / "train" / "cat" / "a b,3.jpg", root / "train" / "cat" / "again.jpg")
    return root


def test_what_lies_in_a_messy_folder(messy: Path) -> None:
    look = look_at(Data(name="folder", root=str(messy), image_size=32))
    facts = look.facts()
    assert facts["counts"] == {
        "train": {"Müll, rot": 5, "cat": 13, "犬": 1},
        "test": {"Müll, rot": 4, "cat": 2, "犬": 0},
    }
    assert facts["groups"] == {
        **{"head": ["cat"], "middle": ["Müll, rot"], "tail": ["犬"]},
        **{"many": [], "medium": [], "few": ["Müll, rot", "cat", "犬"]},
    }
    assert facts["pixels"]["width"] == {"min": 20, "median": 42, "max": 51}
    assert facts["pixels"]["height"] == {"min": 30, "median": 30, "max": 64}
    assert facts["formats"] == {"JPEG": 16, "PNG": 5, "TIFF": 4}
    assert facts["modes"] == {"RGB": 20, "RGBA": 4, "CMYK": 1}
    assert facts["turned_by_exif"] == 2
    assert facts["duplicates"] == {
        "across splits": [["test/cat/leak.jpg", "train/cat/a b,1.jpg"]],
        "with different labels": [["train/Müll, rot/other label.jpg", "train/cat/a b,2.jpg"]],
        "within train": [["train/cat/a b,3.jpg", "train/cat/again.jpg"]],
    }
    assert list(facts["unreadable"]) == ["train/cat/text.jpg", "test/cat/cut off.jpg"]
    words = ["text.jpg (not an image", "more than one split", "more than one class", "more than once"]
    words += ["one image in all", "1 class has no test image", "of 25 images are smaller than", "transparent"]
    assert len(facts["warnings"]) == len(words)
    assert all(word in text for word, text in zip(words, facts["warnings"], strict=True)), facts["warnings"]


def test_it_counts_what_is_trained_on(messy: Path) -> None:
    """With any part held out, the classes have the images that `open_dataset` leaves them."""
    shutil.rmtree(messy / "test")
    (messy / "train").rename(messy.parent / "classes")
    settings = {"name": "folder", "root": str(messy.parent / "classes"), "image_size": 8, "cache": False}
    for others in ({}, {"validation": 0.3, "test_fraction": 0.4}, {"imbalance_factor": 2.0}):
        data = Data.model_validate({**settings, **others, "on_bad_image": "skip"})
        look, dataset = look_at(data), open_dataset(data)
        assert look.counts["train"] == dataset.class_counts
        assert look.counts["test"] == np.bincount(dataset.test.labels, minlength=3).tolist()
        assert sum(look.counts.get("validation", [])) == len(dataset.validation or ())
        assert (look.source.skipped, look.shape) == (dataset.skipped, (8, 8, 3))


def test_clean_images_of_one_size_have_no_warning(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 20)):
        for label, name in enumerate("abc"):
            for k in range(count):
                write_picture(tmp_path / split / name / f"{k}.png", 1000 * label + k + count, (24, 16))
    look = look_at(Data(name="folder", root=str(tmp_path), image_size=16))
    assert list(look.warnings()) == []
    assert (look.imbalance_factor, look.sizes["short side"]) == (1.0, (16, 16, 16))


def test_sizes_that_differ_and_a_tail_of_few_test_images_are_warned_of(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a": 5, "b": 5, "c": 5}, {"a": 3, "b": 3, "c": 4})
    warnings = list(look_at(Data(name="folder", root=str(root))).warnings())
    assert "the tail classes have 4 images in the test set: each is 25 points" in warnings[0]
    assert "images differ in size" in warnings[1]


def test_parquet_files_and_the_rows_that_cannot_be_read(tmp_path: Path) -> None:
    files = [write_picture(tmp_path / "x" / f"{k}.png", k, (12, 9)) for k in range(6)]
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    images[4] = images[5] | {"bytes": images[0]["bytes"]}
    images[3] = {"bytes": b"damaged", "path": "3.png"}
    pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 3}), tmp_path / "train.parquet")
    look = look_at(Data(name="parquet", root=str(tmp_path)))
    (name,) = look.facts()["unreadable"]
    assert name == "train.parquet row 3 (3.png)"
    assert sum(map(sum, look.counts.values())) == 5
    assert Counter(one.size for one in look.images) == {(12, 9): 5}
    assert sum(map(len, look.duplicates.values())) == 1


def test_a_class_of_which_nothing_can_be_read_is_refused(messy: Path) -> None:
    (messy / "train" / "犬" / "once.jpg").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"1 of 3 classes have no training image\n.*\n.*犬.*once\.jpg"):
        look_at(Data(name="folder", root=str(messy)))
