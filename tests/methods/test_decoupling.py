"""A classifier of its own after cross-entropy: what changes, what does not, and what is trained once."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffds.errors import InputError
from ffds.jobs.engine import train_all
from ffds.recipes.load import load_recipe
from ffds.recipes.schedule import described_schedule
from ffds.run_directory import Run
from ffds.training.evaluate import eval_batches
from tests.training import tiny
from tests.training.test_resume import FINE_TUNED, check_parts

TRAINED = ("crt", "lws")
CLOSED = ("tau-norm", "ncm", "posthoc-la")
HELD = "data.validation=0.3"
ADAMW = ("optimizer.name=adamw", "optimizer.lr=0.01", "trainer.ema=0.9")


def one(method, *settings):
    return tiny.recipe(HELD, *settings, method=method)


def train(method, out, *settings, **given):
    return tiny.train(one(method, *settings), out, images=tiny.dataset(validation=True), **given)


def newest(run, file="model"):
    return load_file(sorted(run.checkpoints.iterdir())[-1] / f"{file}.safetensors")


@pytest.fixture
def steps(monkeypatch):
    """Epoch of every training step taken."""
    return tiny.steps_taken(monkeypatch)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("crt", ()), ("crt", ADAMW), ("lws", ()), ("lws", ADAMW), ("tau-norm", ()), ("posthoc-la", ADAMW)],
)
def test_it_goes_on_from_a_finished_run_and_changes_no_bit_of_the_backbone(method, settings, steps, tmp_path):
    alone = train(method, tmp_path / "alone", *settings)
    ce = train("ce", tmp_path, *settings)
    del steps[:]
    run = train(method, tmp_path, *settings)
    assert steps == ([tiny.EPOCHS] * tiny.STEPS if method in TRAINED else [])
    assert tiny.trace(run) == tiny.trace(alone)
    assert [line["phase"] for line in run.metrics[:-1]] == ["cross-entropy"] * tiny.EPOCHS
    before, after = newest(ce), newest(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= {"head.weight", "head.bias"}
    momentum, kept = newest(ce, "optimizer"), newest(run, "optimizer")
    of_backbone = [name for name in momentum if name.startswith("backbone.") and not name.endswith("trained")]
    assert of_backbone
    assert all(torch.equal(momentum[name], kept[name]) for name in of_backbone)


def test_ce_may_also_come_after_one_that_begins_with_it(steps, tmp_path):
    alone = train("ce", tmp_path / "alone")
    train("lws", tmp_path)
    del steps[:]
    assert tiny.trace(train("ce", tmp_path)) == tiny.trace(alone)
    assert train("crt", tmp_path).done
    assert steps == [tiny.EPOCHS] * tiny.STEPS


def test_a_comparison_trains_cross_entropy_once(steps, tmp_path, monkeypatch):
    tiny.use(monkeypatch, tiny.dataset(validation=True))
    recipes = [one(method) for method in ("crt", "ce", "lws", *CLOSED)]
    assert train_all(recipes, out=tmp_path, shown=False) == {}
    assert len(steps) == (tiny.EPOCHS + len(TRAINED)) * tiny.STEPS
    assert all(Run.of(recipe, tmp_path).done for recipe in recipes)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("lws", FINE_TUNED), ("crt", ("data.mixup=0.4",)), ("tau-norm", ("trainer.keep=best",))],
)
def test_stopped_at_every_fifth_poll(method, settings, tmp_path):
    check_parts(one(method, *settings), tmp_path, 5, images=tiny.dataset(validation=True))


def features(run):
    """Features of the training images, their labels, and the classifier, by the run's own network."""
    loop = tiny.loop(run.path / "again", run.recipe, images=tiny.dataset(validation=True))
    loop.state.model.load_state_dict(newest(run))
    network = loop.state.model.eval()
    with torch.inference_mode():
        batches = list(eval_batches(loop.fabric, loop.dataset.train, run.recipe.data))
        found = torch.cat([network.backbone(batch.images) for batch in batches]).double().numpy()
    return found, loop.dataset.train.labels


def test_the_classifiers_in_closed_form_are_those_of_the_papers(tmp_path):
    before = newest(train("ce", tmp_path))
    weight, bias = (before[f"head.{name}"].double().numpy() for name in ("weight", "bias"))
    rows, labels = features(train("ce", tmp_path))
    means = np.stack([rows[labels == c].mean(0) for c in range(len(tiny.COUNTS))])
    shares = np.array(tiny.COUNTS) / sum(tiny.COUNTS)
    expected = {
        ("tau-norm", 0.7): (weight / np.linalg.norm(weight, axis=1, keepdims=True) ** 0.7, 0 * bias),
        ("ncm", None): (means / np.linalg.norm(means, axis=1, keepdims=True), 0 * bias),
        ("posthoc-la", 1.5): (weight, bias - 1.5 * np.log(shares)),
        ("posthoc-la", 0.0): (weight, bias),
    }
    for (method, tau), values in expected.items():
        run = train(method, tmp_path, *(() if tau is None else (f"method.tau={tau}",)))
        for name, value in zip(("weight", "bias"), values, strict=True):
            np.testing.assert_allclose(newest(run)[f"head.{name}"].numpy(), value, rtol=1e-4, atol=1e-5)


def test_validation_images_choose_tau(tmp_path):
    chosen = train("posthoc-la", tmp_path, "method.tau=null").metrics[-1]["validation"]
    given = [train("posthoc-la", tmp_path, f"method.tau={tau}").metrics[-1] for tau in (0, 0.5, 1, 2)]
    assert all(chosen["balanced_accuracy"] >= line["validation"]["balanced_accuracy"] for line in given)


@pytest.mark.parametrize("method", ["tau-norm", "posthoc-la"])
def test_without_validation_images_tau_has_to_be_given(method, tmp_path):
    with pytest.raises(InputError, match=r"(?s)validation images.*data\.validation=0\.1.*method\.tau=1"):
        tiny.train(one(method, "method.tau=null"), tmp_path, images=tiny.dataset())
    assert not list(tmp_path.rglob("recipe.yaml"))
    assert tiny.train(one(method, "method.tau=1"), tmp_path, images=tiny.dataset()).done


@pytest.mark.parametrize("method", ["lws", "tau-norm", "posthoc-la"])
def test_a_cosine_head_has_no_weights_and_biases_to_change(method):
    with pytest.raises(InputError, match=r"linear head: set model\.head to auto or linear"):
        one(method, "model.head=cosine")


@pytest.mark.parametrize("method", ["crt", "ncm"])
def test_a_cosine_head_can_be_trained_or_computed_anew(method, tmp_path):
    assert train(method, tmp_path, "model.head=cosine", "model.head_scale=16").done


def test_the_published_epochs():
    recipe = load_recipe("cifar100-lt-100", method="crt").recipe
    assert recipe.epochs == 230
    assert list(described_schedule(recipe).items())[-3:] == [
        ("201–210", "phase 2: crt, lr 0.1, classifier only"),
        ("211–220", "phase 2: crt, lr 0.01, classifier only"),
        ("221–230", "phase 2: crt, lr 0.001, classifier only"),
    ]
    short = load_recipe("digits", ["schedule.epochs=6"], method="crt").recipe
    assert list(described_schedule(short).items())[-1] == ("7–7", "phase 2: crt, lr 0.1, classifier only")
