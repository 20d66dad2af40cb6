"""The tree of stretches: where runs part, who trains what, and what is on disk already."""

import pytest

from ffds.jobs.engine import train_stretch
from ffds.jobs.plan import plan
from ffds.recipes.schedule import start_epoch
from ffds.run_directory import Run
from ffds.training.train import train_recipe
from tests.training import tiny

METHODS = ("ce", "ib", "d-ffds", "fl")
EPOCHS = 6


def recipes(*methods):
    return [tiny.recipe(f"schedule.epochs={EPOCHS}", method=method) for method in methods or METHODS]


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
    assert tree(tmp_path, "ib", "ce") == {
        f"ib {IB}": None,
        f"ib {EPOCHS}": f"ib {IB}",
        f"ce {EPOCHS}": f"ib {IB}",
    }


def test_a_shorter_run_of_the_same_history_takes_its_end_from_the_longer_one(tmp_path):
    settings = ("schedule.milestones=[[0.95, 0.1]]", "schedule.warmup=0")
    long, short = (tiny.recipe(f"schedule.epochs={n}", *settings, method="ce") for n in (7, 4))
    planned = plan([long, short], tmp_path)
    assert [(one.until, one.after and one.after.until) for one in planned.stretches] == [
        (4, None),
        (7, 4),
        (4, 4),
    ]
    assert [one.to_train for one in planned.runs] == [7, 0]


def test_branches_do_not_depend_on_how_far_a_run_is(tmp_path):
    expected = {"ce": {IB, DEFERRED}, "ib": {IB}, "d-ffds": {IB, DEFERRED}, "fl": set()}
    left, branches = [], []

    def look(entry):
        runs = plan(recipes(), tmp_path).runs
        left.append(sum(one.to_train for one in runs))
        branches.append({one.recipe.method.name: set(one.branches) for one in runs})

    once = 2 * EPOCHS + (EPOCHS - IB) + (EPOCHS - DEFERRED)
    train_stretch(
        recipes("ce")[0], tmp_path, branches={IB, DEFERRED}, until=EPOCHS - 1, shown=False, after_epoch=look
    )
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


def test_half_a_checkpoint_is_none(tmp_path):
    (one,) = plan(recipes("ce"), tmp_path).runs
    place = one.trajectory.directory / one.trajectory.histories[DEFERRED][:16]
    (place / f"epoch-{DEFERRED:04d}.tmp").mkdir(parents=True)
    assert not one.trajectory.has(DEFERRED)
    assert one.trajectory.newest() == 0


def test_finished_runs_have_no_stretch(tmp_path):
    for one in recipes("ce", "fl"):
        train_recipe(one, out=tmp_path, shown=False)
    planned = plan(recipes("ce", "fl"), tmp_path)
    assert planned.stretches == ()
    assert [one.done for one in planned.runs] == [EPOCHS] * 2
    assert all(Run.of(one, tmp_path).done for one in recipes("ce", "fl"))
