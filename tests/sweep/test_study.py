"""The study: what makes two sweeps one, who may go on with it, which trials count, which begins next."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState

from ffds.data.dataset import Split
from ffds.errors import InputError
from ffds.methods.ffds import DFFDS
from ffds.sweep.space import Space, searched_recipe, with_validation
from ffds.sweep.study import checked_name, counted, identity, next_trial, open_study, study_name
from tests.training import tiny

METHOD = DFFDS(num_groups=3)
SPACE = Space.around(METHOD, 10)
FIRST = SPACE.point(METHOD)


def opened(directory, identity=None, storage=None, name="mine"):
    return open_study(name, storage, directory, identity or {"key": 1}, FIRST)


def begun(study, directory, trials=100, seed=0):
    return next_trial(study, SPACE, seed, trials, directory)


def killing(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture(params=["journal", "database"])
def storage(request, tmp_path):
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


# Identity


def of(*overrides, images=None):
    recipe = with_validation(searched_recipe("digits", overrides))
    return identity(recipe, images or tiny.dataset(validation=True), Space.around(recipe.method, 10))


@pytest.mark.parametrize("change", ["data.root=elsewhere", "trainer.checkpoint_every=2", "method.k=0.1"])
def test_places_speed_and_searched_settings_are_no_part_of_the_identity(change):
    assert of(change) == of()


def test_a_key_younger_than_finished_studies_leaves_their_names_while_it_is_null():
    known = f"sha256:{'0' * 16}"
    assert "data.images" not in of()
    assert of(f"data.images={known}") == of() | {"data.images": known}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("schedule.epochs=7", "schedule.epochs"),
        ("trainer.seed=1", "trainer.seed"),
        ("method.label_smoothing=0", "method.label_smoothing"),
        ("method=ffds", "method.name"),
        ("method.gamma_max=6", "searched gamma_min <= gamma_max"),
    ],
)
def test_every_other_setting_is(change, key, tmp_path):
    ours, theirs = of(change), of()
    assert ours[key] != theirs[key]
    opened(tmp_path, theirs)
    with pytest.raises(InputError) as error:
        opened(tmp_path, ours)
    message = str(error.value)
    assert "study mine is another search" in message
    assert f"{key}: {json.dumps(ours[key])}" in message
    assert f"{key}: {json.dumps(theirs[key])}" in message
    assert "trainer.batch_size" not in message, "only what differs"
    opened(tmp_path, ours, name="other")


@pytest.mark.parametrize("labels", [False, True])
def test_the_images_are_part_of_it_but_not_those_of_the_test(labels):
    images = tiny.dataset(validation=True)
    for part, expected in (("test", set()), ("train", {"images"}), ("validation", {"images"})):
        split = getattr(images, part)
        inverted, moved = (
            Split(255 - split.images, split.labels),
            Split(split.images, np.roll(split.labels, 1)),
        )
        other = of(images=replace(images, **{part: moved if labels else inverted}))
        assert {key for key in other if other[key] != of()[key]} == expected


def test_it_survives_json_and_names_the_study():
    same, recipe = of(), searched_recipe("digits")
    assert json.loads(json.dumps(same)) == same
    name = study_name(recipe, same)
    assert name == study_name(recipe, dict(reversed(same.items())))
    assert name.startswith("d-ffds-seed0-")
    assert name != study_name(recipe, of("schedule.epochs=7"))


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "x" * 101])
def test_a_name_that_is_no_file(name):
    with pytest.raises(InputError, match="name of a study"):
        checked_name(name)
    assert checked_name("d-ffds.2026_1") == "d-ffds.2026_1"


# Opening


def test_own_settings_are_the_first_trial_once(storage, tmp_path):
    for _ in range(3):
        study = opened(tmp_path, storage=storage)
    assert [trial.state for trial in counted(study)] == [TrialState.WAITING]
    assert begun(study, tmp_path).params == FIRST


def test_a_lock_left_in_a_relative_directory_leads_to_the_study(tmp_path, monkeypatch):
    """For optuna takes over only a lock whose file it can look at; for one that dangles it waits for ever."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(JournalFileSymlinkLock, "release", killing)
        with pytest.raises(KeyboardInterrupt):
            opened(Path("runs"))
    lock = tmp_path / "runs" / "mine.log.lock"
    assert lock.is_symlink()
    assert lock.resolve() == tmp_path / "runs" / "mine.log"


@pytest.mark.parametrize(
    "storage",
    ["nonsense", "sqlite:////nowhere/at/all/x.db", "nodialect://me:secret@h/db", "redis://me:secret@h"],
)
def test_a_storage_that_cannot_be_opened(storage, tmp_path):
    with pytest.raises(InputError, match="cannot be opened") as error:
        opened(tmp_path, storage=storage)
    assert "postgresql+psycopg://" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_database_without_its_driver(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match="pip install 'psycopg") as error:
        opened(tmp_path, storage="postgresql+psycopg://me:secret@localhost/none")
    assert "secret" not in str(error.value)


# The next trial


def test_no_more_trials_than_asked_for(storage, tmp_path):
    study = opened(tmp_path, storage=storage)
    assert [begun(study, tmp_path, 3) is not None for _ in range(5)] == [True, True, True, False, False]
    assert len(study.trials) == 3
    again = opened(tmp_path, storage=storage)
    assert len(counted(again)) == 3, "an unfinished trial counts once"
    assert [begun(again, tmp_path, 4) is not None for _ in range(5)] == [True] * 4 + [False]


def test_draws_depend_on_the_seed_and_on_the_place_among_the_trials(tmp_path):
    first, again, other = (opened(tmp_path, name=name) for name in ("first", "again", "other"))
    ours = [begun(first, tmp_path).params for _ in range(6)]
    assert ours == [begun(again, tmp_path).params for _ in range(6)]
    assert len({tuple(params.items()) for params in ours}) == 6
    theirs = [begun(other, tmp_path, seed=1).params for _ in range(2)]
    assert theirs[0] == ours[0] == FIRST
    assert theirs[1] != ours[1]


def test_unfinished_trials_come_first_and_in_their_own_places(storage, tmp_path):
    whole = opened(tmp_path, name="whole")
    expected = [begun(whole, tmp_path).params for _ in range(5)]
    study = opened(tmp_path, storage=storage)
    trials = [begun(study, tmp_path) for _ in range(3)]
    study.tell(trials[0], 1.0)
    for _ in range(2):
        study = opened(tmp_path, storage=storage)
        assert [trial.number for trial in counted(study)] == [0, 3, 4]
    again = [begun(study, tmp_path) for _ in range(4)]
    assert [trial.number for trial in again] == [3, 4, 5, 6]
    assert [trials[0].params, again[0].params, again[1].params] == expected[:3]
    assert len(counted(study)) == 5


def test_in_a_database_the_trial_of_another_directory_is_left_alone(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    begun(opened(tmp_path, storage=storage), tmp_path / "elsewhere")
    study = opened(tmp_path, storage=storage)
    assert [trial.state for trial in counted(study)] == [TrialState.RUNNING]
    study.ask()  # killed before it left its directory
    states = [trial.state for trial in counted(opened(tmp_path, storage=storage))]
    assert states == [TrialState.RUNNING] * 2


def test_killed_while_a_trial_was_to_wait_again(tmp_path, monkeypatch):
    begun(opened(tmp_path), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killing)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    assert [trial.state for trial in counted(opened(tmp_path))] == [TrialState.WAITING]
