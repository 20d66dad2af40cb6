"""The three real packs, under their own names and as plain Parquet."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ffds.data.long_tail import tail_counts, tail_rows
from ffds.data.open import open_dataset, open_source
from ffds.errors import InputError
from ffds.recipes.schema import Data

PACKS = Path(__file__).parents[3] / "../shared/data"
pytestmark = pytest.mark.skipif(not PACKS.is_dir(), reason="the real packs are not beside this checkout")

NAMES = {
    "cifar10": ("cifar10-if10", "label", {10: 20_431, 50: 13_996, 100: 12_406}),
    "cifar100": ("cifar100-if10", "fine_label", {10: 19_573, 50: 12_608, 100: 10_847}),
    "tiny-imagenet": ("tiny-imagenet-if10", "label", {10: 39_072, 50: 25_082, 100: 21_549}),
}


def settings(name, as_parquet=False, **more):
    folder, column, _ = NAMES[name]
    source = {"name": "parquet", "label_column": column} if as_parquet else {"name": name}
    return Data(**source, root=str(PACKS / folder), **more)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_parquet", [False, True])
def test_subsets_of_the_packs(name, as_parquet):
    folder, _, totals = NAMES[name]
    files = sorted((PACKS / folder).glob("train-*.parquet"))
    stored = np.concatenate(
        [pq.read_table(file, columns=["lt_rank"])["lt_rank"].to_numpy() for file in files]
    )
    source = open_source(settings(name, as_parquet))
    labels = source.train.labels
    assert len(source.test) == 10_000
    last = len(source.class_names) - 1
    for factor, total in totals.items():
        data = settings(name, as_parquet, imbalance_factor=float(factor))
        counts = np.array([int(max(source.counts) * factor ** (-c / last)) for c in range(last + 1)])
        assert tail_counts(source, data) == counts.tolist()
        rows = tail_rows(source, data)
        assert len(rows) == total
        np.testing.assert_array_equal(rows, np.flatnonzero(stored < counts[labels]))
    with pytest.raises(InputError, match=r"too few images(.*\n)+.*from imbalance_factor 10 on"):
        tail_counts(source, settings(name, as_parquet, imbalance_factor=5.0))


@pytest.fixture(scope="session")
def cifar100():
    return open_dataset(settings("cifar100", imbalance_factor=10.0, validation=0.05))


def test_a_real_pack_in_memory(cifar100):
    assert len(cifar100.train) + len(cifar100.validation) == 19_573
    assert len(cifar100.test) == 10_000
    assert cifar100.class_names[:2] == ("apple", "aquarium_fish")
    assert np.bincount(cifar100.test.labels).tolist() == [100] * 100
    channel_means = cifar100.test.images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(channel_means, [0.5088, 0.4874, 0.4419], atol=1e-3)


@pytest.mark.parametrize("row", [0, 511, 512, 9_999])
def test_pixels_stay_with_their_labels(cifar100, row):
    table = (
        pq.read_table(PACKS / "cifar100-if10" / "test-00000-of-00001.parquet").slice(row, 1).to_pylist()[0]
    )
    expected = np.asarray(Image.open(BytesIO(table["img"]["bytes"])))
    np.testing.assert_array_equal(cifar100.test.images[row], expected)
    assert cifar100.test.labels[row] == table["fine_label"]


def test_two_label_columns_are_ambiguous_in_plain_parquet():
    data = Data(name="parquet", root=str(PACKS / "cifar100-if10"))
    with pytest.raises(InputError, match=r"several columns can be the label\n.*\n.*fine_label, coarse_label"):
        open_source(data)


def test_coarse_labels_have_no_ranks_in_this_pack():
    data = Data(name="cifar100", root=str(PACKS / "cifar100-if10"), label_column="coarse_label")
    with pytest.raises(InputError, match="lt_rank does not number the images"):
        open_source(data)


def test_another_dataset_than_named():
    with pytest.raises(InputError, match=r"this is not CIFAR-10\n.*\n.*200 classes"):
        open_source(Data(name="cifar10", root=str(PACKS / "tiny-imagenet-if10")))
    with pytest.raises(InputError, match=r"data.label_column=label is not a column"):
        open_source(Data(name="cifar10", root=str(PACKS / "cifar100-if10")))
