"""Scores and predictions against a count by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from ffds.data.dataset import Split
from ffds.errors import FfdsError
from ffds.recipes.schema import Data, Trainer
from ffds.training.backend.devices import launch_fabric
from ffds.training.evaluate import BATCH_SIZE, Predictions, eval_batches, evaluate

PLAIN = Data(name="digits", mean=(0.0,), std=(1.0,))
COUNTS = [50, 9, 3]


class Reading(nn.Module):
    """Logits are the first three pixels, so the test writes them; dropout would show training mode."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.batches = []

    def forward(self, images):
        self.batches.append((len(images), self.training, torch.is_grad_enabled()))
        return self.dropout(images.flatten(1)[:, :3]) * self.scale


def written(count, seed=0):
    chance = np.random.default_rng(seed)
    images = chance.integers(0, 256, (count, 2, 2, 1), dtype=np.uint8)
    return Split(images, chance.integers(0, 3, count))


def scored(model, split, precision="32", **given):
    one = launch_fabric(Trainer(precision=precision, accelerator="cpu"))
    return evaluate(one, model, eval_batches(one, split, PLAIN), COUNTS, PLAIN.cut, **given)


def expected(split):
    logits = split.images.reshape(len(split), -1)[:, :3].astype(np.float64) / 255 * 10
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    return exponent / exponent.sum(1, keepdims=True)


@pytest.mark.parametrize("count", [1, BATCH_SIZE, BATCH_SIZE + 1, 2 * BATCH_SIZE + 100])
def test_against_numpy(count):
    split, model = written(count), Reading()
    scores, predictions = scored(model, split)
    probability = expected(split)
    predicted = probability.argmax(1)
    rows = np.arange(count)
    assert predictions.index.tolist() == rows.tolist()
    assert predictions.label.tolist() == split.labels.tolist()
    assert predictions.prediction.tolist() == predicted.tolist()
    np.testing.assert_allclose(predictions.confidence, probability.max(1), rtol=1e-5)
    np.testing.assert_allclose(predictions.label_probability, probability[rows, split.labels], rtol=1e-4)
    assert scores.accuracy == pytest.approx(100 * (predicted == split.labels).mean())
    for c in range(3):
        own = split.labels == c
        found = scores.per_class[c]
        assert found == (pytest.approx(100 * (predicted == c)[own].mean()) if own.any() else None)
    assert sum(size for size, _, _ in model.batches) == count
    assert {(training, grad) for _, training, grad in model.batches} == {(False, False)}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back_also_where_a_poll_stops_it(training):
    model, polls = Reading().train(training), []
    scored(model, written(600), poll=lambda: polls.append(1))
    assert len(polls) == 3, "after each batch"
    assert model.training is training
    with pytest.raises(ZeroDivisionError):
        scored(model, written(5), poll=lambda: 1 / 0)
    assert model.training is training


@pytest.mark.parametrize(("precision", "kind"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_recipe(precision, kind):
    network, kinds = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), []
    network.register_forward_hook(lambda module, inputs, logits: kinds.append(logits.dtype))
    assert scored(network, written(5), precision).predictions.confidence.dtype == np.float32
    assert kinds == [kind]


def predictions(order):
    order = np.array(order)
    half = order.astype(np.float32) / 10
    return Predictions(order, order % 3, (order + 1) % 3, half, half / 2)


def test_names_of_classes_and_files_stand_beside_their_numbers(tmp_path):
    files = [Path(f"{number}.png") for number in range(3)]
    named = replace(predictions([2, 0, 1]), class_names=["a, b", "ü", "c"], files=files)
    named = replace(named, prediction=np.where(named.index == 1, -1, named.prediction))
    named.write(tmp_path / "p.parquet")
    columns = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert columns["label_name"] == ["a, b", "ü", "c"]
    assert columns["prediction_name"] == ["ü", None, "a, b"], "no class where a logit was not finite"
    assert columns["file"] == ["0.png", "1.png", "2.png"]
    named.write(tmp_path / "p.csv")
    header, first, *_ = (tmp_path / "p.csv").read_text("utf-8").splitlines()
    assert header == ",".join(columns)
    assert first == '0,0,1,0.0,0.0,"a, b",ü,0.png'


def test_written_in_the_order_of_the_set_and_kept_if_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "predictions.parquet"
    path.write_text("what was there before")
    predictions([4, 0, 3, 1, 2]).write(path)
    assert pq.read_table(path).to_pydict() == {
        "index": [0, 1, 2, 3, 4],
        "label": [0, 1, 2, 0, 1],
        "prediction": [1, 2, 0, 1, 2],
        "confidence": [pytest.approx(i / 10) for i in range(5)],
        "label_probability": [pytest.approx(i / 20) for i in range(5)],
    }
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FfdsError, match=r"disk full while saving predictions.parquet .* bytes needed"):
        predictions([2, 3]).write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.parquet"]
