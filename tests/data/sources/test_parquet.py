import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ffds.data import open_dataset
from ffds.data.decode import Stored
from ffds.data.open import open_source
from ffds.data.sources.parquet import ParquetImages
from ffds.errors import InputError
from ffds.recipes.schema import Data

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value, side=4):
    content = BytesIO()
    Image.fromarray(np.full((side, side, 3), value, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def write(file, labels, *, names=None, contents=None, group=3, **more):
    """A shard in the hub's layout; row k shows the grey value k."""
    contents = [png(k) for k in range(len(labels))] if contents is None else contents
    images = [{"bytes": content, "path": f"{k}.png"} for k, content in enumerate(contents)]
    table = pa.table({"image": pa.array(images, IMAGE), "label": pa.array(labels), **more})
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


@pytest.mark.parametrize("split", ["test", "validation", "val"])
def test_names_of_the_test_set_and_sizes(tmp_path, split):
    write(tmp_path / "data" / "train-00000-of-00001.parquet", [0, 1], contents=[png(1, 4), png(2, 5)])
    write(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [1, 0, 1])
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
        (["cat", "dog", "cat", "cat"], None, "no column can be the label\n.*\n.*label .string."),
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
    write(root / "train-00000-of-00002.parquet", ["cat", "dog"])
    with pytest.raises(InputError, match=r"string holds no labels\n.*row 0\n.*'cat'\n.*integers"):
        opened(root, label_column="label")
    for shard in root.glob("train-*"):
        shard.unlink()
    with pytest.raises(InputError, match=r"no training images\n.*\n.*train-\*.parquet"):
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
    shards = [root / f"train-0000{k}-of-00002.parquet" for k in range(3)]
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
        ([[7, 8, 9], None], [0, 1, 2, 3, 4]),
        ([None, [7, 8]], [0, 1, 2, 3, 4]),
    ],
)
def test_a_column_index_numbers_the_images_unless_it_has_another_meaning(indices, expected, tmp_path):
    for k, (labels, index) in enumerate(zip(([0, 1, 0], [1, 1]), indices, strict=True)):
        more = {} if index is None else {"index": pa.array(index)}
        write(tmp_path / f"train-{k}.parquet", labels, names=["cat", "dog"], **more)
    write(tmp_path / "test-0.parquet", [0, 1], names=["cat", "dog"], index=pa.array([3, 0]))
    source = open_source(Data(name="parquet", root=str(tmp_path)))
    assert source.train.index.tolist() == expected
    assert source.test.index.tolist() == [3, 0]


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
    assert "row 4 (4.png): no bytes" in second
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
