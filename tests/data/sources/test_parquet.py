import json
import os
import re
import subprocess
import sys
from io import BytesIO
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ffds.data import open_dataset
from ffds.data.decode import Stored
from ffds.data.open import open_source
from ffds.data.sources.parquet import ParquetImages
from ffds.data.sources.shards import find_splits
from ffds.errors import InputError
from ffds.recipes.schema import Data

SECOND = ["val", "valid", "validation", "dev", "test", "testing", "eval"]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value, side=4):
    content = BytesIO()
    Image.fromarray(np.full((side, side, 3), value, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def write(file, labels, *, names=None, contents=None, group=3, label_type=None, **more):
    """A shard in the hub's layout; row k shows the grey value k."""
    contents = [png(k) for k in range(len(labels))] if contents is None else contents
    images = [{"bytes": content, "path": f"{k}.png"} for k, content in enumerate(contents)]
    table = pa.table({"image": pa.array(images, IMAGE), "label": pa.array(labels, label_type), **more})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)


def opened(root, **settings):
    return open_dataset(Data(name="parquet", root=str(root), **settings))


def values(split):
    return split.images[:, 0, 0, 0].tolist()


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", [0, 1, 0, 1, 1], names=["cat", "dog"])
    write(tmp_path / "train-00001-of-00002.parquet", [1, 0], names=["cat", "dog"])
    write(tmp_path / "test-00000-of-00001.parquet", [1, 0], names=["cat", "dog"])
    return tmp_path


def test_shards_are_read_as_one(root):
    dataset = opened(root)
    assert dataset.class_names == ("cat", "dog")
    assert values(dataset.train) == [0, 1, 2, 3, 4, 0, 1]
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 1, 1, 0]
    assert values(dataset.test) == [0, 1]


@pytest.mark.parametrize("split", [*SECOND, "VALID"])
@pytest.mark.parametrize(
    "shard", ["{}-00000-of-00001", "{}-1-of-1", "{}-00000-of-00001-0123456789abcdef", "{}", "{}/0000", "{}/x"]
)
@pytest.mark.parametrize("folder", ["", "data/"])
def test_every_usual_name_of_a_split_counts(tmp_path, split, shard, folder):
    write(tmp_path / f"{folder}{shard.format('train')}.parquet", [0, 1, 1])
    write(tmp_path / f"{folder}{shard.format(split)}.parquet", [1, 0])
    found = find_splits(tmp_path, None)
    files = [(tmp_path / f"{folder}{shard.format(name)}.parquet",) for name in ("train", split)]
    assert [found.train, found.test, found.validation] == [*files, ()]
    assert (found.test_split, found.notes) == (split, ())


@pytest.mark.parametrize(
    ("files", "unused"),
    [
        ({"test-0": 2, "dev-0": 3}, []),
        ({"test-0": 2, "dev/x": 3, "train-extra-00000-of-00001": 5}, ["train-extra-00000-of-00001"]),
        ({"test": 2, "dev": 3, "unlabeled-0": 5, "extra/0": 5}, ["extra/0", "unlabeled-0"]),
        ({"data/test-0-of-1": 2, "data/valid": 3, "data/train2": 5}, ["data/train2"]),
        ({"test-0": 2, "dev-0": 3, "trainer": 5, "train-a": 5}, ["train-a", "trainer"]),
    ],
)
def test_other_files_are_no_part_of_a_split_and_are_named(tmp_path, files, unused):
    for name, count in {"train-0": 4, **files}.items():
        write(tmp_path / f"{name}.parquet", [0, 1, 0, 1, 0][:count])
    dataset, listed = opened(tmp_path), ", ".join(f"{name}.parquet" for name in unused)
    told = (f"in {tmp_path} the following is not used: {listed}",) if unused else ()
    assert [len(split) for split in (dataset.train, dataset.test, dataset.validation)] == [4, 2, 3]
    assert dataset.notes == told
    dataset = opened(tmp_path, test_split="DEV" if "data/valid" not in files else "Valid")
    assert [len(split) for split in (dataset.train, dataset.test)] == [4, 3]
    assert dataset.validation is None
    (note,) = dataset.notes
    assert "test" in note


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        (
            ["train-00001-of-00002"],
            r"train has 1 of 2 files.*got: +train-00001.*0 to 1.*missing files: number 0",
        ),
        (["train-0-of-4", "train-3-of-4"], "train has 2 of 4 files.*missing files: number 1, 2"),
        (["train-1-of-3", "train-3-of-3"], "train has 2 of 3 files.*1 to 3.*missing files: number 2"),
        (["train-1-of-2", "train-3-of-2"], "train has 2 of 2 files.*missing files: number 0"),
        (["train-0-of-999999999999"], "train has 1 of 999999999999 files.*number 1, 2, .*, 20$"),
        (
            ["train-0-of-1", "train-0-of-2", "train-1-of-2"],
            "of several exports.*train-0-of-1.*leave those of one",
        ),
        (["train", "train-0"], "of several exports"),
        (["train", "train/0"], "of several exports"),
        (["train-0", "data/train-1"], "of several exports.*data/train-1"),
        (["train/a-0", "train/b-1"], "of several exports"),
        (["train-0-of-1", "train-00000-of-00001-0123456789abcdef"], "the same number"),
        (["train-0", "train_00"], "the same number"),
        (["train-0", "Train-1"], "several splits could be the train set.*Train, train"),
        (["train", "valid-0", "dev-0"], "several splits could be the test set.*data.test_split=dev"),
        (["train", "test-1-of-2"], "test has 1 of 2"),
        (["train", "test", "val-1-of-2"], "val has 1 of 2"),
        (["test"], r"no training images.*got: +test.parquet"),
    ],
)
def test_a_split_is_whole_or_refused(tmp_path, shards, words):
    for shard in shards:
        write(tmp_path / f"{shard}.parquet", [0, 1])
    with pytest.raises(InputError, match=f"(?s){words}"):
        opened(tmp_path)


def test_a_split_that_is_not_used_need_not_be_whole_and_a_gap_in_numbers_is_told(tmp_path):
    for shard in ("train-0", "train-2", "test", "val-1-of-2"):
        write(tmp_path / f"{shard}.parquet", [0, 1])
    with pytest.raises(
        InputError, match=r"data.test_split=tst is no split(.*\n)+.*test, val(.*\n)+.*mean test"
    ):
        opened(tmp_path, test_split="tst")
    (tmp_path / "val-1-of-2.parquet").rename(tmp_path / "eval-1-of-2.parquet")
    dataset = opened(tmp_path, test_split="test")
    unused, gap = dataset.notes
    assert "eval-1-of-2.parquet" in unused
    assert gap == "the split train has 2 files, numbered from 0 to 2: is one missing?"


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_a_split_without_rows_is_refused(tmp_path, split):
    for name in ("train", "test", "val"):
        write(tmp_path / f"{name}.parquet", [] if name == split else [0, 1], label_type=pa.int64())
    with pytest.raises(InputError, match=rf"no rows\n.*{tmp_path}/{split}.parquet\n"):
        opened(tmp_path)


def test_the_files_of_a_split_have_the_same_columns(root):
    write(root / "train-00001-of-00002.parquet", [0, 1], names=["cat", "dog"], lt_rank=pa.array([0, 1]))
    words = (
        r"different columns\n.*train-00001.*\n.*image, label, lt_rank\n.*: image, label, as in .*train-00000"
    )
    with pytest.raises(InputError, match=words):
        opened(root)


TEXT = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


@pytest.mark.parametrize("order", [["cat", "dog", "eel"], ["eel", "dog", "cat"], ["dog", "eel"]])
@pytest.mark.parametrize("kind", [None, *TEXT], ids=str)
def test_classes_are_compared_by_name(tmp_path, order, kind):
    """Whatever their place in the names of a file; as numbers with names or as text."""
    trained, tested = ["dog", "cat", "eel", "dog"], ["eel", "dog", "dog"]

    def save(split, names, labels, text):
        if text is None:
            write(tmp_path / f"{split}.parquet", [names.index(name) for name in labels], names=names)
        else:
            write(tmp_path / f"{split}.parquet", labels, label_type=text)

    for train_kind in (None, kind):
        save("train", ["cat", "dog", "eel"], trained, train_kind)
        save("test", order, tested, kind)
        save("val", order[::-1], tested[:2], None)
        dataset = opened(tmp_path)
        assert dataset.class_names == ("cat", "dog", "eel")
        assert dataset.train.labels.tolist() == [1, 0, 2, 1]
        assert dataset.test.labels.tolist() == [2, 1, 1]
        assert dataset.validation.labels.tolist() == [2, 1]


def test_each_training_file_has_its_own_order_of_the_same_names(root):
    write(root / "train-00001-of-00002.parquet", [1, 0], names=["dog", "cat"])
    dataset = opened(root)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([1, 0], ["cat", "bird"], r"different classes\n.*train-00001.*\n.*bird, dog in one"),
        ([1, 0], ["cat"], r"out of range, the first at index 0\n.*train-00001.* row 0.*\n.*1\n.*0 to 0"),
        ([0, 0], ["cat"], r"different classes\n.*train-00001.*\n.*dog in one"),
        ([1, 0], None, r"labels of different kinds\n.*train-00001.*\n.*numbers\n.*numbers with names"),
        (["cat", "dog"], None, r"labels of different kinds\n.*train-00001.*\n.*text\n"),
    ],
)
def test_training_files_agree_in_their_classes(root, labels, names, words):
    write(root / "train-00001-of-00002.parquet", labels, names=names)
    with pytest.raises(InputError, match=words):
        opened(root)


@pytest.mark.parametrize("labels", [[1, 0], ["dog", "cat"]])
def test_files_of_a_test_set_agree_in_what_their_labels_are(root, labels):
    (root / "test-00000-of-00001.parquet").rename(root / "test-0.parquet")
    write(root / "test-1.parquet", labels)
    with pytest.raises(InputError, match=r"labels of different kinds\n.*test-1.*\n.*\n.*as in .*test-0"):
        opened(root)


@pytest.mark.parametrize("other", ["CAT", "cat ", "cats"])
@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("split", ["test", "val"])
def test_the_name_of_no_training_class(root, other, as_text, split):
    """It is refused where an image has it."""
    labels, names = ([other, "dog"], None) if as_text else ([0, 1], [other, "dog"])
    write(root / f"{split}-00000-of-00001.parquet", labels, names=names)
    with pytest.raises(
        InputError, match=rf"class '{other}' is no class of(.*\n)+.*{split}-0(.*\n)+.*mean cat\?"
    ):
        opened(root)
    write(root / f"{split}-00000-of-00001.parquet", [1, 1], names=[other, "dog"])
    dataset = opened(root)
    assert (dataset.validation or dataset.test).labels.tolist() == [1, 1]


def test_names_are_compared_in_one_unicode_form(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(tmp_path / "train.parquet", [composed, "bar", decomposed])
    write(tmp_path / "test.parquet", [1, 0], names=[decomposed, "bar"])
    dataset = opened(tmp_path)
    assert dataset.class_names == ("bar", composed)
    assert dataset.train.labels.tolist() == [1, 0, 1]
    assert dataset.test.labels.tolist() == [0, 1]
    for names in ([composed, decomposed], ["bar", "bar "], ["bar", "bar"]):
        write(tmp_path / "train.parquet", [0, 1], names=names)
        with pytest.raises(InputError, match="two classes have the same name"):
            opened(tmp_path)


@pytest.mark.parametrize("named", ["train", "test"])
def test_labels_without_names_are_taken_by_number_which_is_told(tmp_path, named):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [1, 0], names=["cat", "dog"] if split == named else None)
    dataset = opened(tmp_path)
    assert dataset.class_names == (("cat", "dog") if named == "train" else ("0", "1"))
    assert dataset.test.labels.tolist() == [1, 0]
    nameless = "test.parquet" if named == "train" else "the training files"
    assert dataset.notes == (f"{nameless} name no classes: the labels of test.parquet are taken by number",)
    write(tmp_path / "train.parquet", ["cat", "dog"])
    write(tmp_path / "test.parquet", [1, 0])
    with pytest.raises(InputError, match=r"text for training and numbers here\n.*test.parquet.*label"):
        opened(tmp_path)


def test_names_given_as_text_are_compared_with_numbers(tmp_path):
    write(tmp_path / "train.parquet", [1, 0, 2])
    write(tmp_path / "test.parquet", ["2", "1"])
    assert opened(tmp_path).test.labels.tolist() == [2, 1]


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int16(), pa.uint64(), pa.dictionary(pa.int8(), pa.int64())])
def test_whole_numbers_of_any_width(tmp_path, kind):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [1, 0, 1], label_type=kind)
    settings = {"label_column": "label"} if pa.types.is_dictionary(kind) else {}
    assert opened(tmp_path, **settings).test.labels.tolist() == [1, 0, 1]
    write(tmp_path / "test.parquet", [1, 2**64 - 1], label_type=pa.uint64())
    with pytest.raises(InputError, match=r"too large\n.*test.parquet, column label"):
        opened(tmp_path, **settings)


def test_a_hidden_label(root):
    write(root / "test-00000-of-00001.parquet", [-1, -1], names=["cat", "dog"])
    write(root / "val-00000-of-00001.parquet", [1, 0], names=["cat", "dog"])
    with pytest.raises(
        InputError, match=r"2 labels are out of range(.*\n)+.*hidden label(.*)data.test_split"
    ):
        opened(root)
    assert opened(root, test_split="val").test.labels.tolist() == [1, 0]


def test_sizes(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", [0, 1], contents=[png(1, 4), png(2, 5)])
    write(tmp_path / "test-00000-of-00001.parquet", [1, 0, 1])
    with pytest.raises(InputError, match="differ in size"):
        opened(tmp_path)
    dataset = opened(tmp_path, image_size=3)
    assert dataset.class_names == ("0", "1")
    assert dataset.test.labels.tolist() == [1, 0, 1]
    assert dataset.train.images.shape == (2, 3, 3, 3)
    assert opened(tmp_path, image_size=3, eval_resize=6).test.images.shape == (3, 6, 6, 3)


@pytest.mark.parametrize("rows", [[4, 0, 11, 7, 7], [11], list(range(12))])
@pytest.mark.parametrize("group", [1, 5, 12])
def test_any_rows_in_any_order(tmp_path, rows, group):
    files = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    write(files[0], [0] * 7, contents=[png(k) for k in range(7)], group=group)
    write(files[1], [0] * 5, contents=[png(k) for k in range(7, 12)], group=group)
    found = ParquetImages(files, "image", Stored()).read(np.array(rows), "stop").images
    assert found[:, 0, 0, 0].tolist() == rows


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, 1, 5, 1], ["a", "b"], "1 labels are out of range, the first at index 2\n.*row 2.*\n.*5\n"),
        ([0, -1, 1, 1], ["a", "b"], "the first at index 1\n.*row 1.*\n.*-1\n.*0 to 1"),
        ([1, 2, 3, 3], None, "the first at index 2\n.*\n.*3\n.*0 to 2"),
        ([0, None, 1, 1], None, "1 values are missing\n.*row 1\n.*null"),
        ([0.0, 1.0, 1.0, 1.0], None, "no column can be the label\n.*\n.*label .double."),
        ([False, True, True, True], None, "no column can be the label\n.*\n.*label .bool."),
        ([0, 0, 0, 0], None, "a single class"),
        ([0, 2, 2, 2], ["a", "b", "c"], r"1 of 3 classes have no training image\n.*\n.*1 \(b\)"),
    ],
)
def test_labels_are_checked_at_the_start(tmp_path, labels, names, words):
    write(tmp_path / "train-0.parquet", labels, names=names)
    write(tmp_path / "test-0.parquet", [0, 0], names=names)
    with pytest.raises(InputError, match=words):
        opened(tmp_path)


def test_labels_of_the_test_set_and_of_a_column_asked_for_are_checked_too(root):
    write(root / "test-00000-of-00001.parquet", [1, -1], names=["cat", "dog"])
    with pytest.raises(InputError, match=r"index 1\n.*test-00000"):
        opened(root)
    write(root / "train-00000-of-00002.parquet", [0.0, 1.0])
    with pytest.raises(InputError, match=r"double holds no labels\n.*row 0\n.*0.0\n.*integers"):
        opened(root, label_column="label")
    for shard in root.glob("train-*"):
        shard.unlink()
    with pytest.raises(InputError, match=r"no training images\n.*\n.*test-00000.*\n.*train-\*.parquet"):
        opened(root)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, r"several columns can be the label\n.*\n.*label, width"),
        ({"label_column": "lable"}, r"data.label_column=lable.*\n.*\n.*\n.*did you mean label"),
        ({"label_column": "label", "image_column": "label"}, "data.image_column=label is not"),
    ],
)
def test_columns_are_named_unless_one_is_declared(settings, words, tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}-0.parquet", [0, 1], width=pa.array([5, 6]))
    with pytest.raises(InputError, match=words):
        opened(tmp_path, **settings)
    assert opened(tmp_path, label_column="label", image_column="image").class_counts == [1, 1]
    for split in ("train", "test"):
        write(tmp_path / f"{split}-0.parquet", [0, 1], names=["a", "b"], width=pa.array([5, 6]))
    assert opened(tmp_path).class_names == ("a", "b")


@pytest.mark.parametrize("shard", ["train-00001-of-00002.parquet", "test-00000-of-00001.parquet"])
def test_every_file_has_the_image_column(shard, root):
    for images in (None, pa.array([png(0), png(1)])):
        columns = {"label": pa.array([0, 1])} | ({} if images is None else {"image": images})
        pq.write_table(pa.table(columns), root / shard)
        with pytest.raises(InputError, match=rf"data.image_column=image is not.*\n.*{shard}\n.*label .int64"):
            opened(root)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_file_without_row_groups_is_empty(number, root):
    shards = [root / f"train-0000{k}-of-00003.parquet" for k in range(3)]
    for k in range(2):
        (root / f"train-0000{k}-of-00002.parquet").rename(shards[k])
    schema = pq.read_schema(shards[0])
    if number < 2:
        shards[number].rename(shards[2])
    pq.ParquetWriter(shards[number], schema).close()
    assert pq.ParquetFile(shards[number]).num_row_groups == 0
    dataset = opened(root)
    assert sorted(values(dataset.train)) == [0, 0, 1, 1, 2, 3, 4]
    assert dataset.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([[9, 4, 2], [0, 3]], [9, 4, 2, 0, 3]),
        ([["a", "b", "c"], ["d", "e"]], [0, 1, 2, 3, 4]),
        ([[7, 8, 9], [None, 3]], [0, 1, 2, 3, 4]),
        (None, [0, 1, 2, 3, 4]),
        ([np.array([2**63, 1, 2], dtype=np.uint64), [3, 4]], [0, 1, 2, 3, 4]),
    ],
)
def test_a_column_index_numbers_the_images_unless_it_has_another_meaning(indices, expected, tmp_path):
    for k, labels in enumerate(([0, 1, 0], [1, 1])):
        more = {} if indices is None else {"index": pa.array(indices[k])}
        write(tmp_path / f"train-{k}.parquet", labels, names=["cat", "dog"], **more)
    write(tmp_path / "test-0.parquet", [0, 1], names=["cat", "dog"], index=pa.array([3, 0]))
    source = open_source(Data(name="parquet", root=str(tmp_path)))
    assert source.train.index.tolist() == expected
    assert source.test.index.tolist() == [3, 0]


def test_a_pipe_named_like_a_shard_is_not_waited_for(root):
    (file,) = root.glob("test-*.parquet")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match=rf"cannot be read\n.*{file}\n.*not a regular file"):
        opened(root)


def test_a_bad_image_stops_or_is_left_out(root):
    contents = [png(0), png(1)[:40], png(2), png(3), None]
    names = ["cat", "dog"]
    write(root / "train-00000-of-00002.parquet", [0, 1, 0, 1, 1], names=names, contents=contents)
    with pytest.raises(InputError, match=r"cannot be read\n.*train-00000-of-00002.parquet row 1 \(1.png\)"):
        opened(root)
    dataset = opened(root, on_bad_image="skip")
    assert values(dataset.train) == [0, 2, 3, 0, 1]
    assert dataset.class_counts == [3, 2]
    first, second = dataset.skipped
    assert "row 1 (1.png): " in first
    assert "row 4 (4.png): ValueError: no bytes" in second
    for shard in root.glob("train-*"):
        write(shard, [0, 1], names=names, contents=[png(0), b"nothing"])
    with pytest.raises(InputError, match=r"1 of 2 classes have no training image\n.*\n.*1 \(dog\)"):
        opened(root, on_bad_image="skip")
    shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(InputError, match=rf"Parquet file cannot be read\n.*{shard.name}"):
        opened(root)


def test_a_pack_is_cut_by_its_ranks(tmp_path):
    """Of its 40, 12 and 4 images, the last of a class has rank 0."""
    ranks = np.concatenate([np.arange(count)[::-1] for count in (40, 12, 4)])
    more = {"lt_rank": pa.array(ranks), "index": pa.array(np.arange(56) + 100)}
    write(tmp_path / "train-0.parquet", [0] * 40 + [1] * 12 + [2] * 4, **more)
    write(tmp_path / "test-0.parquet", [0, 1, 2])
    assert opened(tmp_path).class_counts == [40, 12, 4]
    dataset = opened(tmp_path, imbalance_factor=20.0, seed=7)
    assert dataset.train.labels.tolist() == [0] * 40 + [1] * 8 + [2] * 2
    assert ranks[values(dataset.train)].tolist() == [*range(40), *range(8), 0, 1]
    words = r"too few images: imbalance_factor 5.*(\n.*)*reaches from imbalance_factor 10"
    with pytest.raises(InputError, match=words):
        opened(tmp_path, imbalance_factor=5.0)
    with pytest.raises(InputError, match="too few images"):
        opened(tmp_path, imbalance_factor=2.0, profile="step")
    (tmp_path / "test-0.parquet").unlink()  # then a test set is cut, and the ranks are not used
    assert opened(tmp_path, test_fraction=0.5, imbalance_factor=2.0).class_counts == [5, 3, 2]


@pytest.mark.parametrize("ranks", [[0, 1, 1, 0], [0, 2, 0, 1], [0, -1, 0, 1]])
def test_ranks_must_number_each_class(tmp_path, ranks):
    write(tmp_path / "train-0.parquet", [0, 0, 0, 1], lt_rank=pa.array(ranks))
    write(tmp_path / "test-0.parquet", [0, 1])
    with pytest.raises(InputError, match="lt_rank does not number the images of class"):
        opened(tmp_path)


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.list_(pa.uint8()), pa.null(), pa.bool_()])
def test_bytes_of_images_are_bytes(kind, tmp_path):
    images = pa.array(
        [{"bytes": None, "path": "a.png"}] * 2, pa.struct([("bytes", kind), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(
        InputError, match=r"no column can be the image\n.*train.parquet\n.*columns image \(struct"
    ):
        opened(tmp_path)


@pytest.mark.parametrize("bad", ["stop", "skip"])
def test_the_path_of_an_image_is_never_followed(bad, root, monkeypatch):
    """Neither out of the directory of the data nor within it: an image is its bytes."""
    (root.parent / "secret.png").write_bytes(png(200))
    (root / "within.png").write_bytes(png(201))
    paths = [
        "/etc/passwd",
        "../secret.png",
        str(root.parent / "secret.png"),
        "within.png",
        "file:///etc/passwd",
    ]
    contents = [None] * len(paths) + [png(0), png(1)]
    images = [{"bytes": one, "path": path} for one, path in zip(contents, [*paths, "a", "b"], strict=True)]
    table = pa.table({"image": pa.array(images, IMAGE), "label": [0, 1, 0, 1, 0, 0, 1]})
    for file in root.iterdir():
        file.unlink() if file.suffix == ".parquet" else None
    pq.write_table(table, root / "train.parquet")
    pq.write_table(table, root / "test.parquet")
    if bad == "stop":
        with pytest.raises(InputError, match=r"cannot be read\n.*row 0 \(/etc/passwd\)\n.*no bytes"):
            opened(root)
    else:
        dataset = opened(root, on_bad_image=bad)
        assert sorted(values(dataset.train)) == [0, 1]
        assert len(dataset.skipped) == 10


def test_a_path_that_is_not_utf_8_is_reported(tmp_path):
    """A single flipped bit makes one."""
    paths = pa.array([b"0.png", b"\xb1.png"] * 2).view(pa.string())
    images = pa.StructArray.from_arrays([pa.array([png(0)] * 4), paths], ["bytes", "path"])
    pq.write_table(pa.table({"image": images, "label": [0, 0, 1, 1]}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"Parquet file cannot be read\n.*train.parquet\n.*'utf-8' codec"):
        opened(tmp_path)


@pytest.mark.parametrize("short", ["image", "label"])
def test_a_column_that_ends_early_is_damaged(short, root, monkeypatch):
    """A flipped bit in its metadata may let pyarrow find no values without a word."""
    read, iterated = pq.ParquetFile.read, pq.ParquetFile.iter_batches

    def shorter(self, columns):
        return read(self, columns=columns)[: -1 if columns == [short] else None]

    def later(self, size, columns):
        return islice(iterated(self, size, columns=columns), int(columns == [short]), None)

    monkeypatch.setattr(pq.ParquetFile, "read", shorter)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", later)
    with pytest.raises(InputError, match=rf"is damaged\n.*parquet, column {short}\n.*\d values in \d rows"):
        opened(root, cache=False)


def test_damaged_files_are_read_or_refused_by_name():
    """In a process of its own, which a crash or a hang of the reader would end."""
    command = [sys.executable, "-m", "tests.data.sources.damaged_parquet", "150"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"\{'refused': 1\d\d, 'read': \d\d\}\n", done.stdout)


def test_links_lead_to_the_blobs_of_the_hubs_cache_and_nowhere_else(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("hub")
    snapshot = elsewhere / "snapshots" / "abc" / "data"
    snapshot.mkdir(parents=True)
    (elsewhere / "blobs").mkdir()
    for number, file in enumerate(sorted(root.iterdir())):
        file.rename(elsewhere / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../../blobs/{number}")
    assert len(opened(snapshot.parent).train) == 7
    (elsewhere / "blobs").rename(elsewhere / "others")
    (elsewhere / "blobs").symlink_to("others")
    with pytest.raises(InputError, match=r"a link leads out of the directory of the data\n.*/snapshots/abc"):
        opened(snapshot.parent)
