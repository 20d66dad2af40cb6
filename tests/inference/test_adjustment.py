"""Probabilities adjusted to other shares of the classes and to what validation images say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ffds
from ffds.cli import main
from ffds.errors import InputError
from ffds.inference.adjustment import Adjustment, class_shares
from ffds.inference.fitting import (
    TAUS,
    adjust_run,
    balanced_accuracy,
    balanced_nll,
    calibration,
    fitted_temperature,
)
from ffds.inference.load import evaluate_run
from ffds.run_directory import Run
from tests.training import tiny

IMAGES = tiny.dataset(validation=True)
SHARES = np.array(tiny.COUNTS) / sum(tiny.COUNTS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = tiny.recipe("schedule.epochs=3", "data.validation=0.3", method="ce")
    return tiny.train(recipe, tmp_path_factory.mktemp("runs"), images=IMAGES)


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    tiny.use(monkeypatch, IMAGES)
    return Run(Path(shutil.copytree(trained.path, tmp_path / "copy")))


def logits(run, split):
    predictor = ffds.load(run, adjust=False)
    with torch.inference_mode():
        return predictor.network(predictor.preprocess(torch.from_numpy(split.images))).double().numpy()


def softmax(values):
    weights = np.exp(values - values.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_the_temperature_is_where_the_likelihood_is_greatest(truth):
    chance = np.random.default_rng(0)
    given = 3 * chance.standard_normal((300, 4))
    labels = np.array([chance.choice(4, p=row) for row in softmax(given / truth)])
    found = fitted_temperature(torch.from_numpy(given), torch.from_numpy(labels))

    def nll(temperature):
        return -np.log(softmax(given / temperature)[np.arange(300), labels]).mean()

    assert all(nll(found * factor) > nll(found) for factor in (0.99, 1.01))
    assert found == pytest.approx(truth, rel=0.3)


def test_a_temperature_stays_in_its_range():
    certain = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert 0.05 <= fitted_temperature(certain, torch.tensor([0])) < 0.2
    assert 5 < fitted_temperature(certain, torch.tensor([1])) <= 20


@pytest.mark.parametrize("by", ["balanced_accuracy", "nll"])
def test_the_strength_is_the_best_one_on_validation_images(by, run):
    found = adjust_run(run, by=by)
    given, labels = logits(run, IMAGES.validation), IMAGES.validation.labels
    scores = []
    for tau in TAUS:
        probability = softmax(given / found.temperature - tau * np.log(SHARES))
        right = probability.argmax(1) == labels
        nll = -np.log(probability[np.arange(len(labels)), labels])
        each = [right[labels == c].mean() if by != "nll" else -nll[labels == c].mean() for c in range(10)]
        scores.append(np.mean(each))
    assert scores[TAUS.index(found.tau)] == pytest.approx(max(scores))
    assert found.chosen_by == by
    assert adjust_run(run, tau=0.7).tau == 0.7


def test_it_is_applied_wherever_the_run_is_used(run, capsys):
    found = adjust_run(run, tau=0.5)
    expected = softmax(logits(run, IMAGES.test) / found.temperature - 0.5 * np.log(SHARES))
    predictor = ffds.load(run)
    assert f"adjustment.json says: temperature {found.temperature:.3f}, tau 0.5" in capsys.readouterr().err
    got = predictor.probabilities(IMAGES.test.images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    scores, predictions = evaluate_run(run, adjusted=True)
    assert predictions.confidence.tolist() == got.amax(1).tolist()
    assert scores.accuracy == pytest.approx(found.after["test"]["all"]["accuracy"])
    assert scores.measures["ece"] == pytest.approx(found.after["test"]["all"]["ece"], abs=0.01)
    assert evaluate_run(run).scores.accuracy == found.before["test"]["all"]["accuracy"]
    raw = ffds.load(run, adjust=False).predict(IMAGES.test.images)
    assert [one.probability for one in raw] == evaluate_run(run).predictions.confidence.tolist()
    assert json.loads((run.path / "adjustment.json").read_text()) == found.model_dump()


PRIORS = {
    "uniform": [1] * 10,
    "train": tiny.COUNTS,
    "shares.csv": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    "shares.json": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
}


def written(tmp_path, name):
    shares = dict(zip(IMAGES.class_names, PRIORS[name], strict=True))
    if name.endswith("csv"):
        lines = ["class,share", *(f"{key},{value}" for key, value in reversed(shares.items()))]
        (tmp_path / name).write_text("\n".join(lines))
    elif name.endswith("json"):
        (tmp_path / name).write_text(json.dumps(shares))
    return str(tmp_path / name) if "." in name else name


@pytest.mark.parametrize("prior", PRIORS)
def test_another_prior_weighs_the_probabilities(prior, run, tmp_path):
    asked, new = written(tmp_path, prior), np.array(PRIORS[prior]) / sum(PRIORS[prior])
    weighed = softmax(logits(run, IMAGES.test)) * new / SHARES
    expected = weighed / weighed.sum(1, keepdims=True)
    got = evaluate_run(run, prior=asked).predictions
    np.testing.assert_allclose(got.confidence, expected.max(1), rtol=1e-4)
    found = adjust_run(run, prior=asked)
    assert prior == "uniform" or found.tau == 1
    np.testing.assert_allclose(list(found.prior.values()), new)
    calm = softmax(logits(run, IMAGES.test) / found.temperature) * new / SHARES
    both = evaluate_run(run, prior=asked, adjusted=True).predictions.confidence
    np.testing.assert_allclose(both, (calm / calm.sum(1, keepdims=True)).max(1), rtol=1e-4)


def test_calibration_by_group():
    """ECE and NLL of a group are those of its images alone."""
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels = torch.arange(60) % 2
    found = calibration(given, labels, [50, 20, 3], None)
    alone = calibration(given[labels == 0], labels[labels == 0], [50, 20, 3], None)
    assert found["head"] == alone["all"]
    assert found["tail"] == {"accuracy": None, "ece": None, "nll": None} or found["tail"]["nll"]
    one = torch.tensor([[0.0, 2.0, 0.0]] * 4, dtype=torch.float64)
    confidence = np.exp(2) / (np.exp(2) + 2)
    measured = calibration(one, torch.tensor([1, 1, 1, 0]), [3, 2, 1], None)["all"]
    assert measured["ece"] == pytest.approx(100 * abs(0.75 - confidence))
    assert balanced_accuracy(one, torch.tensor([1, 1, 1, 0])) == 50
    assert balanced_nll(one, torch.tensor([1, 1, 1, 0])) == pytest.approx(1 - np.log(confidence))


def test_an_adjustment_of_another_state_or_a_damaged_one_is_refused(run, monkeypatch):
    found = adjust_run(run)
    file = run.path / "adjustment.json"
    cases = {
        "another checkpoint": json.dumps(found.model_dump() | {"epoch": 2}),
        "other classes": json.dumps(found.model_dump() | {"prior": {"a": 1.0}}),
        "cannot be read": json.dumps(found.model_dump() | {"temperature": -1}),
        "cannot be read\n": "{",
    }
    for message, text in cases.items():
        file.write_text(text)
        for use in (lambda: ffds.load(run), lambda: evaluate_run(run, adjusted=True)):
            with pytest.raises(InputError, match=message):
                use()
        assert ffds.load(run, adjust=False).adjustment is None
    file.unlink()
    with pytest.raises(InputError, match="no adjustment"):
        evaluate_run(run, adjusted=True)
    tiny.use(monkeypatch, tiny.dataset())
    with pytest.raises(InputError, match=r"no validation images(.|\n)*data.validation=0.1"):
        adjust_run(run)
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cat,1\ndgo,2", "did you mean dog"),
        ("cat,1", "no share(.|\n)*dog"),
        ("cat,1\ncat,2\ndog,1", "two shares"),
        ("cat,0\ndog,1", "not above 0"),
        ("cat,nan\ndog,1", "not above 0"),
        ("cat,1\ndog,x", "no shares of classes"),
        ("cat;1", "no shares of classes|no share"),
    ],
)
def test_shares_that_do_not_fit_are_refused(text, told, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        class_shares(str(tmp_path / "a.csv"), ["cat", "dog"], [3, 1])


def test_the_verbs(run, capsys):
    assert main(["adjust", str(run.path), "--tau", "0.25"]) == 0
    out = capsys.readouterr().out
    assert "tau 0.25, on 20 validation images" in out
    assert all(name in out for name in ("validation", "test", "head", "middle", "tail", "NLL after"))
    assert main(["adjust", str(run.path), "--json"]) == 0
    assert Adjustment.model_validate(json.loads(capsys.readouterr().out)).validation_images == 20
    assert main(["eval", str(run.path), "--adjusted", "--tta", "flip", "--prior", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 40
    for wrong in (["--tau", "-1"], ["--prior", "nowhere.csv"]):
        assert main(["adjust", str(run.path), *wrong]) == 2
