"""The study: who may go on with it, which trials count, who begins which."""

import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState

from ffds.errors import InputError
from ffds.files import held
from ffds.methods.ffds import DFFDS
from ffds.sweep.claims import claim, give_back, left, revive, worker
from ffds.sweep.space import Space
from ffds.sweep.study import checked_name, counted, open_study

METHOD = DFFDS(num_groups=3)
SPACE = Space.around(METHOD, 10)
FIRST = SPACE.point(METHOD)


def opened(directory, identity=None, storage=None, name="mine"):
    return open_study(name, storage, directory, identity or {"key": 1}, FIRST)


def begun(study, trials=100, name="worker", seed=0):
    return claim(study, SPACE, seed, trials, name)


def killing(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture(params=["journal", "database"])
def storage(request, tmp_path):
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


# Opening


def test_own_settings_are_the_first_trial_once(storage, tmp_path):
    for _ in range(3):
        study = opened(tmp_path, storage=storage)
    assert [trial.state for trial in counted(study)] == [TrialState.WAITING]
    assert begun(study).params == FIRST
    assert [trial.state for trial in counted(opened(tmp_path, storage=storage))] == [TrialState.RUNNING]


def test_killed_while_it_was_made(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", killing)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    assert [trial.state for trial in counted(opened(tmp_path))] == [TrialState.WAITING]


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


def test_the_study_of_another_search_is_refused(storage, tmp_path):
    opened(tmp_path, {"schedule.epochs": 200, "same": 1}, storage)
    with pytest.raises(InputError) as error:
        opened(tmp_path, {"schedule.epochs": 100, "same": 1}, storage)
    message = str(error.value)
    assert "study mine is another search" in message
    assert "schedule.epochs: 100" in message
    assert "schedule.epochs: 200" in message
    assert "same" not in message.replace("the same", "")
    opened(tmp_path, {"schedule.epochs": 100}, storage, name="other")


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("nonsense", "cannot be opened"),
        ("sqlite:////nowhere/at/all/x.db", "cannot be opened"),
        ("nodialect://me:secret@host/db", "cannot be opened"),
        ("redis://me:secret@host/db", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened(storage, words, tmp_path):
    with pytest.raises(InputError, match=words) as error:
        opened(tmp_path, storage=storage)
    assert "postgresql+psycopg://" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_database_without_its_driver(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match="pip install 'psycopg") as error:
        opened(tmp_path, storage="postgresql+psycopg://me:secret@localhost/none")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "x" * 101])
def test_a_name_that_is_no_file(name):
    with pytest.raises(InputError, match="name of a study"):
        checked_name(name)


def test_a_name_that_is_one():
    assert checked_name("d-ffds.2026_1") == "d-ffds.2026_1"


# Who begins which trial


def test_no_more_trials_than_asked_for(storage, tmp_path):
    study = opened(tmp_path, storage=storage)
    assert [begun(study, 3) is not None for _ in range(5)] == [True, True, True, False, False]
    assert len(study.trials) == 3
    assert not left(study, 3)
    assert left(study, 4)


def test_draws_depend_on_the_place_not_on_the_worker(tmp_path):
    alone, many = (opened(tmp_path, name=name) for name in ("alone", "many"))
    ours = [begun(alone).params for _ in range(6)]
    theirs = [begun(opened(tmp_path, name="many"), name=f"worker {n}").params for n in range(6)]
    assert ours == theirs
    assert len({tuple(params.items()) for params in ours}) == 6
    assert [begun(opened(tmp_path, name="other"), seed=1).params for _ in range(2)][1] != ours[1]
    assert many.trials[3].params == ours[3]


def test_what_is_given_back_is_tried_first_and_in_its_own_place(storage, tmp_path):
    study, whole = opened(tmp_path, storage=storage), opened(tmp_path, name="whole")
    expected = [begun(whole).params for _ in range(5)]
    trials = [begun(study) for _ in range(3)]
    for trial in trials[1:]:
        give_back(study, trial.number)
    assert [trial.number for trial in counted(study)] == [0, 3, 4]
    again = [begun(study) for _ in range(4)]
    assert [trial.number for trial in again] == [3, 4, 5, 6]
    assert [trial.params for trial in (trials[0], *again)][:3] == expected[:3]
    assert len(counted(study)) == 5


def test_a_trial_given_back_before_it_chose_gets_its_point(tmp_path):
    study = opened(tmp_path)
    trial = study.ask()
    give_back(study, trial.number)
    assert begun(study).params == FIRST


def test_one_given_back_counts_once(tmp_path):
    study = opened(tmp_path)
    for _ in range(3):
        give_back(study, begun(study, 1).number)
        assert left(study, 1)
    assert begun(study, 1) is not None
    assert begun(study, 1) is None
    assert len(counted(study)) == 1


def test_a_faster_process_of_another_machine(tmp_path, monkeypatch):
    study = opened(tmp_path)
    begun(study, 2)
    ask = optuna.Study.ask

    def late(self):
        monkeypatch.setattr(optuna.Study, "ask", ask)
        assert begun(study, 2) is not None
        return ask(self)

    monkeypatch.setattr(optuna.Study, "ask", late)
    assert begun(study, 2) is None
    assert len(counted(study)) == 2
    assert len(study.trials) == 3


# The dead


def killed(directory):
    """The name of a worker that is no more."""
    with worker(directory) as name:
        pass
    (directory / name).touch()
    return name


def test_the_trial_of_a_dead_worker_is_tried_again(storage, tmp_path):
    study = opened(tmp_path, storage=storage)
    params = begun(study, name=killed(tmp_path)).params
    revive(study, tmp_path, alone=False)
    assert [trial.state for trial in counted(study)] == [TrialState.WAITING]
    assert not list(tmp_path.glob("worker-*"))
    revive(study, tmp_path, alone=False)
    assert begun(study).params == params


def test_the_trial_of_a_living_one_is_left_alone(tmp_path):
    study = opened(tmp_path)
    with worker(tmp_path) as name:
        begun(study, name=name)
        revive(study, tmp_path, alone=True)
        assert [trial.state for trial in counted(study)] == [TrialState.RUNNING]
        assert held(tmp_path / name) is None
    assert not (tmp_path / name).exists()


def test_of_another_machine_nothing_is_known(tmp_path):
    study = opened(tmp_path)
    begun(study, name="worker-elsewhere.lock")
    revive(study, tmp_path, alone=False)
    assert [trial.state for trial in counted(study)] == [TrialState.RUNNING]


@pytest.mark.parametrize(("alone", "state"), [(True, TrialState.WAITING), (False, TrialState.RUNNING)])
def test_killed_before_it_left_its_name(alone, state, tmp_path):
    study = opened(tmp_path)
    study.ask()
    revive(study, tmp_path, alone=alone)
    assert [trial.state for trial in counted(study)] == [state]


def test_killed_while_it_gave_back(tmp_path, monkeypatch):
    study = opened(tmp_path)
    begun(study, name=killed(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killing)
        with pytest.raises(KeyboardInterrupt):
            revive(study, tmp_path, alone=True)
    revive(study, tmp_path, alone=True)
    assert [trial.state for trial in counted(study)] == [TrialState.WAITING]
