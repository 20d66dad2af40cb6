"""The phases of every method: their epochs, learning rates, samplers and statistics."""

import pytest
import torch
from torch import nn

from ffds.errors import InputError
from ffds.losses import DifficultyBalancedLoss, FFDSLoss
from ffds.methods.registry import METHODS
from ffds.methods.reweighting import Custom
from ffds.recipes.load import load_recipe
from ffds.recipes.schedule import lr_factor
from ffds.run_directory import Run
from ffds.training.evaluate import evaluate
from ffds.training.phases import phases
from tests.training import tiny

COUNTS = [20, 300, 5, 80]


def recipe(method, *overrides):
    groups = ("method.num_groups=2",) if method in {"ffds", "d-ffds"} else ()
    return load_recipe("cifar100-lt-100", [*groups, *overrides], method=method).recipe


@pytest.mark.parametrize("method", METHODS)
def test_the_sampler_is_that_of_the_last_phase(method):
    plain, balanced = METHODS[method].model_fields["sampler"].default, "class-balanced"
    cases = [((), plain), ((f"method.sampler={balanced}",), balanced)]
    for settings, expected in cases[: 1 if hasattr(METHODS[method], "candidates") else 2]:
        *first, last = [phase.stage.sampler for phase in phases(recipe(method, *settings), COUNTS)]
        assert last == expected
        assert set(first) <= {"instance-balanced"}


@pytest.mark.parametrize("epochs", [2, 3, 7, 60, 200])
@pytest.mark.parametrize("method", METHODS)
def test_phases_cover_every_epoch_once(method, epochs):
    one = recipe(method, f"schedule.epochs={epochs}")
    plan = phases(one, COUNTS)
    covered = [epoch for phase in plan for epoch in range(phase.start, phase.stop)]
    assert covered == list(range(one.epochs))
    assert all(phase.start < phase.stop for phase in plan)
    factors = [factor for phase in plan for factor in phase.lr_factors]
    assert factors == [lr_factor(one, epoch) for epoch in range(one.epochs)]
    assert all(len(phase.lr_factors) == len(phase.trained) == phase.stop - phase.start for phase in plan)
    for phase in plan:
        length = phase.stop - phase.start
        drawn = [phase.drawing(phase.start + done) for done in range(length)]
        assert drawn == [(phase.stage.sampler, done / length) for done in range(length)]


@pytest.mark.parametrize(
    ("method", "start"),
    [("ldam-drw", 160), ("ib", 100), ("ib-cb", 100), ("ib-fl", 100), ("d-ffds", 130), ("mixup-drw", 160)],
)
def test_published_starts(method, start):
    first, second = phases(recipe(method), COUNTS)
    assert (first.start, first.stop, second.start, second.stop) == (0, start, start, 200)


@pytest.mark.parametrize(("epochs", "mixed"), [(200, range(4, 197)), (60, range(1, 59)), (5, range(5))])
def test_cmo_begins_and_ends_without_mixing(epochs, mixed):
    (phase,) = phases(recipe("cmo", f"schedule.epochs={epochs}"), COUNTS)
    assert [epoch for epoch, mix in enumerate(phase.mixes) if mix] == list(mixed)


WITH_STATISTICS = FFDSLoss(COUNTS, num_groups=2)


@pytest.mark.parametrize(("loss", "gathers"), [(nn.CrossEntropyLoss(), False), (WITH_STATISTICS, True)])
def test_a_loss_of_your_own(loss, gathers):
    one = recipe("ce", "schedule.epochs=5").model_copy(update={"method": Custom(loss="own")})
    (phase,) = phases(one, COUNTS, loss)
    assert phase.stage.loss is loss
    assert (phase.start, phase.stop) == (0, 5)
    assert list(phase.lr_factors) == [lr_factor(one, epoch) for epoch in range(5)]
    assert phase.statistics is (loss if gathers else None)
    assert phase.next_from(4) is None


def test_a_loss_that_follows_validation_is_refused_without_any_before_a_run_begins(tmp_path):
    recipe = tiny.recipe(method="cdb")
    with pytest.raises(InputError, match=r"(?s)renewed by the accuracy on validation.*data\.validation=0\.1"):
        tiny.train(recipe, tmp_path, images=tiny.dataset())
    left = {file.name for file in Run.of(recipe, tmp_path).path.iterdir()}
    assert left <= {"lock"}


def test_the_loss_of_the_next_epoch_follows_the_accuracy_on_validation_images(tmp_path):
    """Whatever epochs are scored, and as the same network, evaluated by itself, says."""
    images = tiny.dataset(validation=True)
    recipe = tiny.recipe("trainer.eval_every=3", "method.tau=1.0", method="cdb")
    loop = tiny.loop(tmp_path, recipe, images=images)
    for epoch in (1, 2):
        loop.train(until=epoch)
        evaluated = evaluate(loop.fabric, loop.state.network, loop.validation, images.class_counts, None)
        per_class = evaluated.scores.per_class
        expected = DifficultyBalancedLoss(len(per_class), tau=1.0)
        expected.renew(torch.tensor(per_class) / 100)
        weight = loop.phases[0].stage.loss.weight
        torch.testing.assert_close(weight, expected.weight)
        assert weight.unique().numel() > 1
    assert [line["validation"] for line in loop.run.metrics] == [None, None]
