from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import conventional
from ffds.data.dataset import Split
from ffds.data.transforms import EvalTransform
from ffds.recipes.load import load_recipe
from ffds.recipes.schema import Trainer
from ffds.training.backend.devices import launch_fabric
from ffds.training.evaluate import eval_batches, evaluate

DATA = load_recipe("cifar10-lt-100").recipe.data
COUNT, SIDE, CLASSES = 12, 8, 3


@pytest.fixture
def split() -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    return Split(images, generator.integers(CLASSES, size=COUNT))


def test_both_sides_evaluate_the_same_pixels(split: Split) -> None:
    theirs = conventional.PictureDataset(split, conventional.eval_transform(DATA))
    ours = EvalTransform(DATA)(torch.from_numpy(split.images))
    torch.testing.assert_close(ours, torch.stack([theirs[i][0] for i in range(COUNT)]), rtol=0, atol=1e-5)
    assert [theirs[i][1] for i in range(COUNT)] == split.labels.tolist()
    augmented = conventional.PictureDataset(split, conventional.train_transform(DATA, SIDE))
    assert augmented[0][0].shape == ours[0].shape


def test_both_sides_count_the_same_accuracy_and_the_yardstick_learns(split: Split) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE * 3, CLASSES))
    pictures = conventional.PictureDataset(split, conventional.eval_transform(DATA))
    batches = conventional.loader(pictures, batch_size=4, shuffle=True, workers=0)
    data, fabric = DATA.model_copy(update={"cut": None}), launch_fabric(Trainer(accelerator="cpu"))
    scores, _ = evaluate(fabric, model, eval_batches(fabric, split, data), [1] * CLASSES, data.cut)
    assert conventional.evaluate(model, batches) == pytest.approx(scores.accuracy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(20):
        seen = conventional.train_epoch(model, batches, nn.CrossEntropyLoss(), optimizer)
    assert seen == 100 == conventional.evaluate(model, batches)
