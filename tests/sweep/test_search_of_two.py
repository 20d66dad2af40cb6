"""A sweep that trains two trials at a time; runs train by formula."""

import pytest

from ffds.errors import Interrupted, NonFiniteLossError
from ffds.jobs.cluster import Ended
from ffds.jobs.options import Jobs
from ffds.run_directory import Run
from tests.sweep import made


class Formula:
    """In place of `Cluster`: two slots whose processes take turns, an epoch by formula each.

    A stretch that is asked to stop does one epoch more, as a process may.
    """

    slots, epochs, diverges = 2, [], staticmethod(lambda recipe, epoch: False)

    def __init__(self, jobs, signals, *, shown):
        self.queue, self.stopped, self.ended = [], set(), set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, stretch):
        self.queue.append(stretch)

    def stop(self, stretch):
        self.stopped.add(stretch)

    def messages(self):
        while self.queue:
            ready = [one for one in self.queue if one.after is None or one.after in self.ended]
            assert len([one for one in self.queue if one.until == made.EPOCHS]) <= self.slots
            for stretch in ready:
                ended = self.step(stretch)
                yield stretch, "a line"
                if ended is not None:
                    self.queue.remove(stretch)
                    self.ended.add(stretch)
                    yield stretch, ended

    def step(self, stretch):
        done, stopped = len(stretch.run.metrics), stretch in self.stopped
        trainer = made.Trainer(interrupt=1, diverges=self.diverges)
        if not done and stretch.after is not None:  # it goes on from what the other run left
            stretch.run.path.mkdir(parents=True)
            stretch.run.take_epochs(stretch.after.run.metrics[: stretch.after.until])
        elif done < stretch.until:
            try:
                trainer(stretch.recipe, stretch.run.path.parents[2], after_epoch=lambda entry: None)
            except NonFiniteLossError as error:
                return Ended(3, str(error))
            except Interrupted:
                self.epochs.append((stretch.recipe.method, done + 1))
        if len(stretch.run.metrics) >= stretch.until:
            if stretch.until == made.EPOCHS:
                stretch.run.finish({})
            return Ended(0)
        return Ended(75) if stopped else None


@pytest.fixture
def two_jobs(monkeypatch):
    made.use(monkeypatch)
    monkeypatch.setattr("ffds.sweep.search.Cluster", Formula)
    monkeypatch.setattr(Formula, "epochs", [])
    return lambda out: made.swept(out, trials=20, jobs=Jobs(2))


def test_two_at_a_time_share_the_common_epochs_and_stop_early(two_jobs, tmp_path):
    result = two_jobs(tmp_path)
    assert len(result.trials) == len({one.run for one in result.trials}) == 20
    assert {one.result for one in result.trials} == {"finished", "stopped early"}
    for one in result.trials:
        assert one.score == pytest.approx(made.score(Run(one.run).recipe, one.epoch))
    assert len([epoch for _, epoch in Formula.epochs if epoch <= made.START]) == made.START
    assert len(Formula.epochs) == len({*map(str, Formula.epochs)}), "no epoch twice"
    assert two_jobs(tmp_path).trials == result.trials, "there is nothing left to do"


def test_two_at_a_time_a_failure_is_told_and_one_in_the_common_epochs_ends_it(
    two_jobs, tmp_path, monkeypatch
):
    failing = {made.START: 3, made.START + 2: 10}
    monkeypatch.setattr(
        Formula, "diverges", staticmethod(lambda one, epoch: failing.get(epoch) == one.method.num_groups)
    )
    with pytest.raises(NonFiniteLossError, match=f"epoch {made.START}"):
        two_jobs(tmp_path)
    del failing[made.START]
    failed = two_jobs(tmp_path).having("failed")
    assert {one.cause for one in failed} == {f"loss is not finite in epoch {made.START + 2}"}
    assert {one.settings["num_groups"] for one in failed} == {10}


def test_two_at_a_time_a_trial_that_is_killed_each_time_is_tried_by_the_next_command(
    two_jobs, tmp_path, monkeypatch
):
    step, killed = Formula.step, Ended(1, "the process that trained it was ended by SIGKILL")

    def dying(self, stretch):
        ended = step(self, stretch)
        return killed if ended is None and stretch.recipe.method.num_groups == 10 and stretch.after else ended

    with monkeypatch.context() as patch:
        patch.setattr(Formula, "step", dying)
        found = two_jobs(tmp_path)
    unfinished = found.having("unfinished")
    assert {one.cause for one in unfinished} == {killed.message}
    assert {one.settings["num_groups"] for one in unfinished} == {10}
    assert len(found.trials) == 20
    assert not two_jobs(tmp_path).having("unfinished")
