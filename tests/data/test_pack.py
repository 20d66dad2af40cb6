"""Packs: what is written is read back, and every longer tail with it."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

import ffds.data.pack
from ffds.data import open_dataset
from ffds.data.pack import write_pack
from ffds.errors import InputError
from ffds.recipes.schema import Data
from tests.data.pictures import same, write_folder

DIGITS = Data(name="digits", imbalance_factor=10.0)


def as_pack(data, directory, **settings):
    return data.model_copy(update={"name": "parquet", "root": str(directory), **settings})


def test_a_pack_reads_back_as_written_and_serves_every_longer_tail(tmp_path):
    files = write_pack(DIGITS, tmp_path / "new" / "pack")
    assert [file.name for file in files] == ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"]
    assert sorted((tmp_path / "new" / "pack").iterdir()) == sorted(files)
    longer = [DIGITS.model_copy(update={"imbalance_factor": f, "validation": 0.2}) for f in (20.0, 100.0)]
    for data in (DIGITS, *longer):
        same(open_dataset(data), open_dataset(as_pack(data, tmp_path / "new" / "pack")))


@pytest.mark.parametrize("factor", [None, 3.0])
def test_a_folder_reads_back_as_written(tmp_path, factor):
    """Colour images of a class distribution of its own."""
    write_folder(tmp_path / "images", {"a": 5, "b": 17, "c": 9}, {})
    data = Data(name="folder", root=str(tmp_path / "images" / "train"), test_fraction=0.25, image_size=6)
    data = data.model_copy(update={"imbalance_factor": factor})
    write_pack(data, tmp_path / "pack")
    same(open_dataset(data), open_dataset(as_pack(data, tmp_path / "pack", image_size=None)))


def test_a_validation_set_is_packed_too(tmp_path):
    write_folder(tmp_path / "images", {"a": 5, "b": 4}, {"b": 3})
    (tmp_path / "images" / "test").rename(tmp_path / "images" / "val")
    write_folder(tmp_path / "images", {}, {"a": 2})
    data = Data(name="folder", root=str(tmp_path / "images"), image_size=6)
    assert len(write_pack(data, tmp_path / "pack")) == 3
    dataset = open_dataset(as_pack(data, tmp_path / "pack", image_size=None))
    assert (len(dataset.test), len(dataset.validation)) == (2, 3)
    same(open_dataset(data), dataset)


def test_the_metadata_is_that_of_the_hub_and_index_the_place_in_the_original_order(tmp_path):
    train, test = write_pack(DIGITS, tmp_path)
    features = json.loads(pq.read_schema(train).metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "image": {"_type": "Image", "mode": "L"},
        "label": {"_type": "ClassLabel", "names": [str(c) for c in range(10)]},
        "index": {"_type": "Value", "dtype": "int64"},
        "lt_rank": {"_type": "Value", "dtype": "int64"},
    }
    assert pq.read_schema(test).names == ["image", "label", "index"]
    schema = pq.read_schema(train)
    assert str(schema.field("image").type) == "struct<bytes: binary, path: string>"
    assert list(features) == schema.names
    for file in (train, test):
        table = pq.read_table(file)
        index = table["index"].to_numpy()
        np.testing.assert_array_equal(load_digits().target[index], table["label"].to_numpy())
        assert len(set(index)) == len(index)


def test_a_pack_is_never_overwritten(tmp_path):
    (tmp_path / "test-00000-of-00001.parquet").write_text("kept")
    with pytest.raises(InputError, match="never overwritten"):
        write_pack(DIGITS, tmp_path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["kept"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ffds.data.pack, "_webp", full_disk)
    with pytest.raises(InputError, match=r"the pack cannot be written(.*\n)+.*No space"):
        write_pack(DIGITS, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the pack cannot be written"):
        write_pack(DIGITS, tmp_path / "file" / "pack")
