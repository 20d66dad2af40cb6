"""Scikit-learn's handwritten digits: 1,797 real 8x8 images that come without a download."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from ffds.data.long_tail import part_of_each_class
from ffds.data.source import ArrayImages, Labelled, Source
from ffds.recipes.schema import Data
from ffds.seeding import derived_seed

__all__ = ["open_digits"]


def open_digits(data: Data) -> Source:
    """The source `digits`: grey images (8, 8, 1), 0 .. 16 scaled to 0 .. 255.

    The test set is a balanced cut of 50 images a class by `data.seed`; 124 to 133 images a class remain for
    training, so n_max is 124.
    """
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    everything = Labelled.all_of(ArrayImages(grey), labels, "digits row {}".format)
    test = part_of_each_class(labels, [50] * 10, derived_seed(data.seed, "digits-test"))
    description = "handwritten digits of scikit-learn (UCI, Alpaydin and Kaynak 1998)"
    names = tuple(map(str, digits.target_names))
    return Source(description, names, train=everything.take(~test), test=everything.take(test))
