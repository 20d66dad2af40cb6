"""How many processes, on which devices, with how many threads; and what is refused."""

import pytest
import torch

from ffds.errors import InputError
from ffds.jobs.jobs import ALONE, Jobs
from ffds.recipes.load import load_recipe

RECIPE = load_recipe("digits").recipe


def gpus(monkeypatch, number, visible=None):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_one_job_a_device_unless_a_number_is_given():
    assert Jobs.asked(None) == ALONE
    assert Jobs.asked(3) == Jobs(3)
    assert Jobs.asked(None, [1, 0]) == Jobs(2, (1, 0))
    assert Jobs.asked(4, [1, 0]) == Jobs(4, (1, 0))


def test_one_job_without_a_device_needs_no_process_of_its_own():
    assert not ALONE.in_own_processes
    assert Jobs(2).in_own_processes
    assert Jobs(1, (0,)).in_own_processes


def test_the_cores_are_divided_by_the_jobs_not_by_what_is_left(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert [e["OMP_NUM_THREADS"] for e in Jobs(3).environments(3)] == ["5"] * 3
    assert [e["OMP_NUM_THREADS"] for e in Jobs(3).environments(1)] == ["5"]
    assert [e["OMP_NUM_THREADS"] for e in Jobs(20).environments(2)] == ["1"] * 2


def test_the_compilers_processes_are_shared_out(monkeypatch):
    monkeypatch.setattr("ffds.jobs.jobs.usable_cores", lambda: 16)
    given = [Jobs(count).environments(1)[0]["TORCHINDUCTOR_COMPILE_THREADS"] for count in (1, 3, 20)]
    assert given == ["16", "5", "1"]


def test_devices_are_given_out_in_turn(monkeypatch):
    gpus(monkeypatch, 4)
    found = [e["CUDA_VISIBLE_DEVICES"] for e in Jobs(5, (3, 1)).environments(5)]
    assert found == ["3", "1", "3", "1", "3"]
    assert all("CUDA_VISIBLE_DEVICES" not in e for e in Jobs(2).environments(2))


def test_devices_are_numbered_as_this_process_sees_them(monkeypatch):
    gpus(monkeypatch, 2, visible="5,GPU-8a")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in Jobs(2, (1, 0)).environments(2)] == ["GPU-8a", "5"]


@pytest.mark.parametrize("count", [0, -1])
def test_no_job_is_refused(count):
    with pytest.raises(InputError, match="--jobs"):
        Jobs(count)


def test_an_idle_device_is_refused():
    with pytest.raises(InputError, match="more devices than processes") as caught:
        Jobs(1, (0, 1))
    assert "--jobs 2" in str(caught.value)


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_jobs_under_torchrun_are_refused(variable, monkeypatch):
    monkeypatch.setenv(variable, "0")
    assert Jobs() == ALONE
    for given in ((2,), (1, (0,))):
        with pytest.raises(InputError, match="torchrun") as caught:
            Jobs(*given)
        assert "leave out --jobs" in str(caught.value)


@pytest.mark.parametrize(("number", "allowed"), [(0, "no GPU"), (2, "0 to 1")])
def test_a_device_that_is_not_there_is_refused(number, allowed, monkeypatch):
    gpus(monkeypatch, number)
    with pytest.raises(InputError, match="no such GPU") as caught:
        Jobs(2, (0, 7) if number else (0,)).check([RECIPE])
    assert allowed in str(caught.value)
    assert ("got:     7" if number else "got:     0") in str(caught.value)


def test_devices_that_are_there_are_taken(monkeypatch):
    gpus(monkeypatch, 2)
    Jobs(3, (0, 1)).check([RECIPE])


@pytest.mark.parametrize("setting", ["trainer.devices=2", "trainer.num_nodes=2"])
def test_a_run_on_several_devices_is_refused(setting):
    spread = load_recipe("digits", [setting]).recipe
    ALONE.check([spread])
    with pytest.raises(InputError, match=setting):
        Jobs(2).check([RECIPE, spread])
