"""SIGKILL at every place where a study is written; runs train by formula."""

import signal

import pytest

from tests import killed
from tests.sweep import made
from tests.training import processes

TRIALS = 7
KILLS = {
    "before the first trial is there": ("optuna", "Study.enqueue_trial", 1, "before"),
    "before the study has its identity": ("optuna", "Study.set_user_attr", 1, "before"),
    "between two draws of a trial": ("optuna", "Trial.suggest_float", 5, "before"),
    "before an epoch is recorded": ("ffds.run_directory", "Run.add_epoch", 13, "before"),
    "after a score is reported": ("optuna", "Trial.report", 6, "after"),
    "before a finished run is": ("ffds.run_directory", "Run.finish", 2, "before"),
    "before a trial is told": ("optuna", "Study.tell", 2, "before"),
}


def work(out):
    with pytest.MonkeyPatch.context() as patch:
        made.use(patch)
        return made.swept(out, trials=TRIALS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return work(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("kill", KILLS)
def test_the_same_command_goes_on(kill, whole, tmp_path):
    process = processes.forked(killed.until, work, tmp_path, *KILLS[kill], log=tmp_path / "log")
    assert processes.exit_code(process) == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert made.outcome(work(tmp_path)) == made.outcome(whole)
    assert made.outcome(work(tmp_path)) == made.outcome(whole), "and then there is nothing left to do"
