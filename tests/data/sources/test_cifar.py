import hashlib
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ffds.data.sources.cifar
from ffds.data import open_dataset
from ffds.data.sources.cifar import CIFAR10, CIFAR100, read_batch
from ffds.errors import InputError
from ffds.recipes.schema import Data

PACKS = Path(__file__).parents[3] / "../shared/data"
RNG = np.random.default_rng(0)


def published_pickle(entries):
    """A dict as Python 2's cPickle, protocol 2, wrote it when CIFAR was published."""
    out, memo = bytearray(b"\x80\x02}q\x01("), iter(range(2, 10**6))

    def put():
        number = next(memo)
        return b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def text(value):
        short = len(value) < 256
        head = b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<I", len(value))
        return head + value

    def number(value):
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    for key, value in entries.items():
        out += text(key.encode()) + put()
        if isinstance(value, bytes):
            out += text(value) + put()
        elif isinstance(value, np.ndarray):
            out += b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
            out += b"K\x00\x85U\x01b\x87R" + put()
            out += b"(K\x01" + number(value.shape[0]) + number(value.shape[1]) + b"\x86"
            out += b"cnumpy\ndtype\n" + put() + b"U\x02u1K\x00K\x01\x87R" + put()
            out += (
                b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
                + text(value.tobytes())
                + b"tb"
            )
        else:
            out += b"]" + put()
            for start in range(0, len(value), 1000):
                out += b"("
                for item in value[start : start + 1000]:
                    out += text(item) + put() if isinstance(item, bytes) else number(item)
                out += b"e"
    return bytes(out + b"u.")


def md5(content):
    return hashlib.md5(content).hexdigest()


def test_the_published_test_batch(tmp_path):
    """Rebuilt from the pack byte for byte, as its md5 sum proves, and read back."""
    if not PACKS.is_dir():
        pytest.skip("the real packs are not beside this checkout")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(PACKS / "cifar10-if10" / "test-00000-of-00001.parquet").to_pylist()
    images = np.stack([np.asarray(Image.open(BytesIO(row["img"]["bytes"]))) for row in table])
    labels = [row["label"] for row in table]
    content = published_pickle(
        {
            "batch_label": b"testing batch 1 of 1",
            "labels": labels,
            "data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
            "filenames": [row["img"]["path"].replace(".webp", ".png").encode() for row in table],
        }
    )
    assert md5(content) == CIFAR10.test["test_batch"]
    file = tmp_path / "test_batch"
    file.write_bytes(content)
    batch = read_batch(file, CIFAR10.test["test_batch"])
    assert batch["labels"] == labels
    np.testing.assert_array_equal(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), images)


def small(kind, classes, label_key, per_class=3):
    """The files of a small dataset of the same form, and its arrays."""
    arrays, contents = {}, {}
    for name in (*kind.train, *kind.test):
        labels = np.tile(np.arange(classes), per_class)
        images = RNG.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        rows = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        arrays[name] = (images, labels)
        contents[name] = published_pickle({label_key: labels.tolist(), "data": rows})
    names = [f"class {c}" for c in range(classes)]
    contents |= {name: pickle.dumps({kind.names_key: names}, protocol=2) for name in kind.meta}
    return contents, arrays


@pytest.fixture(params=["cifar10", "cifar100"])
def dataset(request, tmp_path, monkeypatch):
    """(name, root, arrays): a small dataset in the original layout, under its own md5 sums."""
    kind, classes = (CIFAR10, 10) if request.param == "cifar10" else (CIFAR100, 100)
    contents, arrays = small(kind, classes, kind.label_key)
    folder = tmp_path / kind.published.archive.folder
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    archive = tmp_path / kind.published.archive.file
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    published = replace(
        kind.published, archive=replace(kind.published.archive, md5=md5(archive.read_bytes()))
    )
    sums = {
        part: {name: md5(contents[name]) for name in getattr(kind, part)}
        for part in ("train", "test", "meta")
    }
    monkeypatch.setattr(
        ffds.data.sources.cifar, request.param.upper(), replace(kind, published=published, **sums)
    )
    archive.rename(tmp_path / "kept.tar.gz")
    return request.param, tmp_path, arrays


def folder_of(root):
    return next(path for path in root.iterdir() if path.is_dir())


def opened(name, root, **settings):
    return open_dataset(Data(name=name, root=str(root), **settings))


def test_the_original_batches(dataset):
    name, root, arrays = dataset
    found = opened(name, root)
    *train, (test_images, test_labels) = arrays.values()
    np.testing.assert_array_equal(found.train.images, np.concatenate([images for images, _ in train]))
    np.testing.assert_array_equal(found.train.labels, np.concatenate([labels for _, labels in train]))
    np.testing.assert_array_equal(found.test.images, test_images)
    np.testing.assert_array_equal(found.test.labels, test_labels)
    assert found.class_names[:2] == ("class 0", "class 1")
    again = opened(name, folder_of(root), imbalance_factor=3.0)
    assert again.imbalance_factor == 3


def test_the_archive_is_unpacked_once(dataset):
    name, root, _ = dataset
    expected = opened(name, root).train.images
    folder = folder_of(root)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    cifar = ffds.data.sources.cifar.CIFAR10 if name == "cifar10" else ffds.data.sources.cifar.CIFAR100
    file = cifar.published.archive.file
    (root / "kept.tar.gz").rename(root / file)
    np.testing.assert_array_equal(opened(name, root).train.images, expected)
    assert sorted(path.name for path in root.iterdir()) == sorted([f".{file}.lock", folder.name, file])
    (root / file).unlink()
    assert len(opened(name, root).train) == len(expected)


def test_an_altered_file_is_refused(dataset):
    name, root, _ = dataset
    file = folder_of(root) / ("data_batch_3" if name == "cifar10" else "train")
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"not the published file\n.*{file.name}\n.*md5"):
        opened(name, root)
    file.unlink()
    with pytest.raises(
        InputError, match=r"not the published file(.*\n)+.*No such file(.*\n)+.*data.download=true"
    ):
        opened(name, root)


class Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def test_a_hostile_pickle_does_nothing(tmp_path):
    content = pickle.dumps({"data": Payload(tmp_path / "canary")}, protocol=2)
    file = tmp_path / "data_batch_1"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"asks for (posix|nt)\.mkdir"):
        read_batch(file, md5(content))
    assert not (tmp_path / "canary").exists()
    pickle.loads(content)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_what_is_accepted_is_said(name, tmp_path):
    words = (
        r"cifar-10+-(batches-py|python)/, the archive cifar-10+-python.tar.gz, or Parquet(.*\n)+.*root=DIR"
    )
    with pytest.raises(InputError, match=words) as caught:
        open_dataset(Data(name=name))
    assert "data.root=DIR data.download=true" in str(caught.value)
    with pytest.raises(InputError, match=words):
        opened(name, tmp_path)
    with pytest.raises(InputError, match=words):
        opened(name, tmp_path / "gone")
    with pytest.raises(InputError, match=r"needs data\.root"):
        open_dataset(Data(name=name, download=True))
