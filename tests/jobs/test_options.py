"""How many jobs, where, with which part of the machine; and what is refused."""

import pytest
import torch

from ffds.errors import InputError
from ffds.jobs.options import ALONE, Jobs
from ffds.recipes.load import load_recipe

RECIPE = load_recipe("digits").recipe
ADDRESS = "tcp://host:8786"


def gpus(monkeypatch, number, visible=""):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def devices(jobs):
    return [one.get("CUDA_VISIBLE_DEVICES") for one in jobs.environments()]


def test_one_job_a_device_unless_a_number_is_given():
    assert Jobs.asked(None) == ALONE
    assert Jobs.asked(3) == Jobs(3)
    assert Jobs.asked(None, [1, 0]) == Jobs(2, (1, 0))
    assert Jobs.asked(4, [1, 0]) == Jobs(4, (1, 0))
    assert Jobs.asked(None, scheduler=ADDRESS) == Jobs(scheduler=ADDRESS)
    assert not ALONE.on_dask
    assert all(jobs.on_dask for jobs in (Jobs(2), Jobs(1, (0,)), Jobs(scheduler=ADDRESS)))


def test_the_cores_are_divided_by_the_jobs(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr("ffds.jobs.options.usable_cores", lambda: 16)
    for count, share in ((1, "16"), (3, "5"), (20, "1")):
        given = {"OMP_NUM_THREADS": share, "TORCHINDUCTOR_COMPILE_THREADS": share}
        assert Jobs(count).environments() == [given] * count


def test_another_cluster_has_the_threads_of_the_command_where_they_are_set(monkeypatch):
    for given, expected in (("3", {"OMP_NUM_THREADS": "3"}), ("", {})):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert Jobs(scheduler=ADDRESS).environments() == [expected]


def test_devices_are_given_out_in_turn_and_numbered_as_this_process_sees_them(monkeypatch):
    gpus(monkeypatch, 4)
    assert devices(Jobs(5, (3, 1))) == ["3", "1", "3", "1", "3"]
    assert devices(Jobs(2)) == [None, None]
    gpus(monkeypatch, 2, visible="5,GPU-8a")
    assert devices(Jobs(2, (1, 0))) == ["GPU-8a", "5"]
    Jobs(3, (0, 1)).check([RECIPE])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *(((count,), ["--jobs", "1 to 1000"]) for count in (0, -1, 1001, 10**9)),
        ((1, (0, 1)), ["more devices than processes", "--jobs 2"]),
        ((2, (), ADDRESS), ["--scheduler", "leave out --jobs and --devices"]),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(InputError) as caught:
        Jobs(*given)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("given", [(2,), (1, (0,)), (1, (), ADDRESS)])
@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_jobs_under_torchrun_are_refused(variable, given, monkeypatch):
    monkeypatch.setenv(variable, "0")
    assert Jobs() == ALONE
    with pytest.raises(InputError, match=r"(?s)torchrun.*leave out --jobs"):
        Jobs(*given)


@pytest.mark.parametrize(("number", "asked", "allowed"), [(0, 0, "no GPU"), (2, 7, "0 to 1")])
def test_a_device_that_is_not_there_is_refused(number, asked, allowed, monkeypatch):
    gpus(monkeypatch, number)
    with pytest.raises(InputError, match=rf"(?s)no such GPU.*got: +{asked}\n.*{allowed}"):
        Jobs(1, (asked,)).check([RECIPE])


@pytest.mark.parametrize("setting", ["trainer.devices=2", "trainer.num_nodes=2"])
def test_a_run_on_several_devices_is_refused(setting):
    spread = load_recipe("digits", [setting]).recipe
    ALONE.check([spread])
    for jobs in (Jobs(2), Jobs(scheduler=ADDRESS)):
        with pytest.raises(InputError, match=setting):
            jobs.check([RECIPE, spread])
