import hashlib
import os
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from ffds.data import open_dataset
from ffds.data.sources.cifar import PUBLISHED
from ffds.errors import InputError
from ffds.recipes.schema import Data

TORCHVISION = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
RNG = np.random.default_rng(0)
CANARY = "canary"


class Old:
    """Pickled as these values, which are those of `object.__reduce__`."""

    def __init__(self, *values):
        self.values = values

    def __reduce__(self):
        return self.values


def old_pickle(entries):
    return pickle.dumps(entries, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def old_array(array):
    """Pickled as numpy's arrays were when CIFAR was published."""
    dtype = Old(np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0))
    return Old(*array.__reduce__()[:2], (1, array.shape, dtype, False, array.tobytes()))


@pytest.fixture(params=["cifar10", "cifar100"])
def dataset(request, tmp_path, monkeypatch):
    """(name, folder, arrays): a small dataset in the original form, with sums of its own."""
    name, kind = request.param, TORCHVISION[request.param]
    classes, label_key = PUBLISHED[name].num_classes, "labels" if name == "cifar10" else "fine_labels"
    folder = tmp_path / PUBLISHED[name].folder
    folder.mkdir()
    arrays = {}

    def write(file, entries):
        content = old_pickle(entries)
        (folder / file).write_bytes(content)
        return hashlib.md5(content).hexdigest()

    for files in ("train_list", "test_list"):
        sums = []
        for file, _ in getattr(kind, files):
            labels = np.tile(np.arange(classes), 3)
            images = RNG.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
            rows = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
            arrays[file] = images, labels
            sums.append([file, write(file, {label_key: labels.tolist(), "data": old_array(rows)})])
        monkeypatch.setattr(kind, files, sums)
    facts = replace(PUBLISHED[name], train_images=3 * len(kind.train_list), test_images=3)
    monkeypatch.setitem(PUBLISHED, name, facts)
    names = {kind.meta["key"]: [f"class {c}" for c in range(classes)]}
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": write(kind.meta["filename"], names)})
    return name, folder, arrays


def opened(name, root, **settings):
    return open_dataset(Data(name=name, root=str(root), **settings))


def test_the_original_batches(dataset):
    name, folder, arrays = dataset
    *train, (test_images, test_labels) = arrays.values()
    renamed = folder.with_name("renamed")
    shutil.copytree(folder, renamed)
    for root in (folder.parent, folder, renamed):
        source = opened(name, root)
        np.testing.assert_array_equal(source.train.images, np.concatenate([images for images, _ in train]))
        np.testing.assert_array_equal(source.train.labels, np.concatenate([labels for _, labels in train]))
        np.testing.assert_array_equal(source.test.images, test_images)
        np.testing.assert_array_equal(source.test.labels, test_labels)
        assert source.class_names[:2] == ("class 0", "class 1")
        assert opened(name, root, imbalance_factor=3.0).imbalance_factor == 3


def test_the_archive_is_unpacked(dataset, monkeypatch):
    name, folder, _ = dataset
    expected = opened(name, folder).train.images
    archive = folder.parent / PUBLISHED[name].archive
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], sha256=sha256))
    np.testing.assert_array_equal(opened(name, folder.parent).train.images, expected)


def test_an_altered_file_is_refused_and_never_unpickled(dataset, tmp_path, monkeypatch):
    name, folder, _ = dataset
    file = folder / TORCHVISION[name].train_list[-1][0]
    words = rf"not the published file\n.*{file.name}\n.*{{}}(.*\n)+.*{TORCHVISION[name].train_list[-1][1]}\n"
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=words.format("md5")):
        opened(name, folder)
    monkeypatch.chdir(tmp_path)
    file.write_bytes(pickle.dumps({"data": Old(os.mkdir, (CANARY,))}))
    with pytest.raises(InputError, match=words.format("md5")):
        opened(name, folder)
    assert not Path(CANARY).exists()
    pickle.loads(file.read_bytes())
    assert Path(CANARY).exists()
    file.unlink()
    with pytest.raises(InputError, match=words.format("no such file") + ".*data.download=true"):
        opened(name, folder)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("root", [None, ".", "gone"])
def test_what_is_accepted_is_said(name, root, tmp_path):
    words = r"the archive cifar-10+-python.tar.gz, or Parquet(.*\n)+.*data\.root=DIR data\.download=true"
    with pytest.raises(InputError, match=words):
        open_dataset(Data(name=name, root=root and str(tmp_path / root), download=root is None))
