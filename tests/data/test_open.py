import numpy as np
import pytest
from sklearn.datasets import load_digits

from ffds.data import open_dataset
from ffds.errors import InputError
from ffds.recipes.schema import Data


def digits(**settings):
    return open_dataset(Data(name="digits", **settings))


def rows(split):
    return {image.tobytes() for image in split.images}


def test_digits_are_the_real_ones():
    dataset, real = digits(), load_digits()
    assert dataset.train.images.shape == (1297, 8, 8, 1)
    assert np.bincount(dataset.test.labels).tolist() == [50] * 10
    assert dataset.class_counts == [128, 132, 127, 133, 131, 132, 131, 129, 124, 130]
    images = (real.images * 255 / 16).round().astype(np.uint8)
    label_of = dict(zip([image.tobytes() for image in images], real.target, strict=True))
    for split in (dataset.train, dataset.test):
        assert [label_of[image.tobytes()] for image in split.images] == split.labels.tolist()
    assert not rows(dataset.train) & rows(dataset.test)


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"imbalance_factor": 1.0}, [124] * 10),
        ({"imbalance_factor": 10.0}, [124, 96, 74, 57, 44, 34, 26, 20, 16, 12]),
        ({"imbalance_factor": 100.0}, [124, 74, 44, 26, 16, 9, 5, 3, 2, 1]),
        ({"imbalance_factor": 4.0, "profile": "step"}, [124] * 5 + [31] * 5),
    ],
)
def test_the_tail_of_the_digits(settings, counts):
    dataset = digits(**settings)
    assert dataset.class_counts == counts
    assert dataset.train.labels.tolist() == np.repeat(np.arange(10), counts).tolist()


def test_longer_tails_are_contained_and_the_seed_decides_the_rest():
    short, long, other = (digits(imbalance_factor=f, seed=s) for f, s in ((10, 0), (100, 0), (10, 1)))
    assert rows(long.train) < rows(short.train)
    np.testing.assert_array_equal(short.test.images, long.test.images)
    assert rows(short.test) != rows(other.test)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_validation_is_held_out_of_the_tail(part):
    whole, dataset = digits(imbalance_factor=100.0), digits(imbalance_factor=100.0, validation=part)
    held = np.bincount(dataset.validation.labels, minlength=10)
    assert (held + dataset.class_counts).tolist() == whole.class_counts
    assert min(dataset.class_counts) >= 1
    np.testing.assert_allclose(held, np.array(whole.class_counts) * part, atol=1)
    assert rows(dataset.validation) | rows(dataset.train) == rows(whole.train)
    assert not rows(dataset.validation) & rows(dataset.train)
    np.testing.assert_array_equal(dataset.test.images, whole.test.images)


def test_an_empty_validation_set_is_an_error():
    with pytest.raises(InputError, match="validation set would be empty"):
        digits(imbalance_factor=100.0, validation=0.001)
