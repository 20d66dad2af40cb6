"""The tree of stretches: where runs part, who trains what, what is on disk already; and the plan in words."""

from dataclasses import replace

import pytest

from ffds.data.dataset import Split
from ffds.jobs.engine import train_stretch
from ffds.jobs.plan import plan
from ffds.paper.reference import METHOD_TITLES
from ffds.recipes.load import load_recipe
from ffds.recipes.schedule import start_epoch
from ffds.training.train import train_recipe
from tests.training import tiny

EPOCHS = 6


def recipes(*methods):
    return [
        tiny.recipe(f"schedule.epochs={EPOCHS}", method=method)
        for method in methods or ("ce", "ib", "d-ffds", "fl")
    ]


IB, DEFERRED = (start_epoch(one.method, EPOCHS) for one in recipes("ib", "d-ffds"))


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    tiny.use(monkeypatch)


def tree(out, *methods):
    """Method, last epoch and predecessor of each stretch."""

    def name(stretch):
        return stretch and f"{stretch.recipe.method.name} {stretch.until}"

    return {name(one): name(one.after) for one in plan(recipes(*methods), out).stretches}


def test_each_epoch_is_in_one_stretch(tmp_path):
    assert 0 < IB < DEFERRED < EPOCHS
    assert tree(tmp_path) == {
        f"ce {IB}": None,
        f"ce {DEFERRED}": f"ce {IB}",
        f"ce {EPOCHS}": f"ce {DEFERRED}",
        f"ib {EPOCHS}": f"ce {IB}",
        f"d-ffds {EPOCHS}": f"ce {DEFERRED}",
        f"fl {EPOCHS}": None,
    }


def test_the_order_of_the_runs_decides_who_trains_what_they_share(tmp_path):
    expected = {f"ib {IB}": None, f"ib {EPOCHS}": f"ib {IB}", f"ce {EPOCHS}": f"ib {IB}"}
    assert tree(tmp_path, "ib", "ce") == expected


def test_a_shorter_run_of_the_same_history_takes_its_end_from_the_longer_one(tmp_path):
    settings = ("schedule.milestones=[[0.95, 0.1]]", "schedule.warmup=0")
    long, short = (tiny.recipe(f"schedule.epochs={n}", *settings, method="ce") for n in (7, 4))
    planned = plan([long, short], tmp_path)
    stretches = [(one.until, one.after and one.after.until) for one in planned.stretches]
    assert stretches == [(4, None), (7, 4), (4, 4)]
    assert [one.to_train for one in planned.runs] == [7, 0]


def test_branches_do_not_depend_on_how_far_a_run_is(tmp_path):
    expected = {"ce": {IB, DEFERRED}, "ib": {IB}, "d-ffds": {IB, DEFERRED}, "fl": set()}
    left, branches = [], []

    def look(entry):
        runs = plan(recipes(), tmp_path).runs
        left.append(sum(one.to_train for one in runs))
        branches.append({one.recipe.method.name: set(one.branches) for one in runs})

    once = 2 * EPOCHS + (EPOCHS - IB) + (EPOCHS - DEFERRED)
    settings = {"branches": {IB, DEFERRED}, "until": EPOCHS - 1, "after_epoch": look}
    train_stretch(recipes("ce")[0], tmp_path, shown=False, **settings)
    # An epoch is done when its checkpoint is there.
    assert left == list(range(once - 1, once - EPOCHS, -1))
    assert branches == [expected] * (EPOCHS - 1)


def test_what_is_on_disk_needs_no_stretch(tmp_path):
    (ce,) = recipes("ce")
    train_stretch(ce, tmp_path, until=IB, branches={IB, DEFERRED}, shown=False)
    assert tree(tmp_path) == {
        f"ce {DEFERRED}": None,
        f"ce {EPOCHS}": f"ce {DEFERRED}",
        f"ib {EPOCHS}": None,
        f"d-ffds {EPOCHS}": f"ce {DEFERRED}",
        f"fl {EPOCHS}": None,
    }
    train_stretch(ce, tmp_path, branches={IB, DEFERRED}, shown=False)
    assert tree(tmp_path) == {f"{method} {EPOCHS}": None for method in ("ib", "d-ffds", "fl")}
    assert [(one.done, one.to_train) for one in plan([ce], tmp_path).runs] == [(EPOCHS, 0)]


def test_table_1a_needs_1610_epochs_instead_of_2200(tmp_path):
    settings = "schedule.epochs=200", "schedule.warmup=5", "schedule.milestones=[[0.8, 0.1], [0.9, 0.01]]"
    table = [load_recipe("digits", settings, method=method).recipe for method in METHOD_TITLES]
    planned = plan(table, tmp_path)
    assert sum(run.recipe.schedule.epochs for run in planned.runs) == 2200
    assert str(planned).startswith("plan: 11 runs, 2200 epochs: 0 done, 590 shared, 1610 to train\n  digits/")


def test_a_finished_run_of_other_images_is_a_failure(monkeypatch, tmp_path):
    ce, fl = recipes("ce", "fl")
    run = train_recipe(ce, out=tmp_path, shown=False)
    assert not plan([ce, fl], tmp_path).failures
    images = tiny.dataset()
    tiny.use(monkeypatch, replace(images, train=Split(255 - images.train.images, images.train.labels)))
    planned = plan([ce, fl], tmp_path)
    assert "on other images" in str(planned.failures[run.path])
    assert [one.recipe for one in planned.runs] == [fl]
