"""Test-time augmentation: the mean of the probabilities of several views, the same in eval and predict."""

import numpy as np
import pytest
import torch

import ffds
from ffds.errors import InputError
from ffds.inference.load import evaluate_run
from ffds.inference.views import ViewsTransform
from ffds.recipes.schema import Data
from tests.data.pictures import write_folder
from tests.inference.test_predictor import CLASSES, files_of, trained_on


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    base = tmp_path_factory.mktemp("views")
    photos = write_folder(base / "photos", dict.fromkeys(CLASSES, 3), dict.fromkeys(CLASSES, 2))
    return trained_on(photos, base / "runs"), files_of(photos / "test")


@pytest.mark.parametrize("augmentation", ["flip", "crops"])
def test_eval_and_predict_agree(augmentation, trained):
    run, files = trained
    found = ffds.load(run, augmentation=augmentation).predict(files)
    evaluated = evaluate_run(run, augmentation=augmentation).predictions
    assert [one.probability for one in found] == evaluated.confidence.tolist()
    assert [CLASSES.index(one.label) for one in found] == evaluated.prediction.tolist()
    assert evaluated.confidence.tolist() != evaluate_run(run).predictions.confidence.tolist()


def test_the_mean_of_an_image_and_its_mirror_image(trained):
    run, _ = trained
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    plain, both = ffds.load(run), ffds.load(run, augmentation="flip")
    expected = torch.stack([plain.probabilities(image), plain.probabilities(image[:, ::-1])]).mean(0)
    torch.testing.assert_close(both.probabilities(image), expected)
    with pytest.raises(InputError, match="no such augmentation"):
        ffds.load(run, augmentation="turn")


SIZES = [(24, 28, 28), (24, 32, 28), (24, None, 28), (None, None, 16), (16, None, 16)]


@pytest.mark.parametrize(("size", "resize", "stored"), SIZES)
def test_crops_are_the_centre_and_the_corners(size, resize, stored):
    """A picture that falls from the upper left to the lower right: so do its crops."""
    line = torch.arange(stored, dtype=torch.float32)
    picture = ((line[:, None] + line) * 255 / (2 * stored - 2)).round().to(torch.uint8)[None, ..., None]
    data = Data(name="folder", image_size=size, eval_resize=resize, mean=(0.0,), std=(1.0,))
    views = ViewsTransform(data, "crops")(picture)
    side = size or stored
    assert views.shape == (5, 1, side, side)
    centre, upper_left, upper_right, lower_left, lower_right = views.mean((1, 2, 3)).tolist()
    assert upper_left < centre - 0.01
    assert centre + 0.01 < lower_right
    assert upper_right == pytest.approx(lower_left, abs=2e-3)
    assert upper_right == pytest.approx(centre, abs=1e-2)
    if resize:
        torch.testing.assert_close(views[:1], ViewsTransform(data, "none")(picture))
