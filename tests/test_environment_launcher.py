"""What torchrun and Fabric leave in the environment of the processes they start."""

import pytest

from ffds.environment import is_first_rank, is_rank, ranks, ranks_here

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
FABRIC = {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("told", "rank", "first", "here", "all_ranks"),
    [
        pytest.param({}, False, True, 1, 1, id="alone"),
        pytest.param(dict.fromkeys(TORCHRUN, ""), False, True, 1, 1, id="set to nothing"),
        pytest.param(TORCHRUN, True, False, 4, 8, id="a rank of torchrun"),
        pytest.param(
            TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, True, True, 4, 8, id="the first of torchrun"
        ),
        pytest.param(
            TORCHRUN | {"RANK": "4", "LOCAL_RANK": "0"}, True, False, 4, 8, id="the first of a second machine"
        ),
        pytest.param(FABRIC, True, False, 2, 2, id="a process that Fabric started"),
    ],
)
def test_what_a_launcher_told(told, rank, first, here, all_ranks, monkeypatch):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (is_rank(), is_first_rank(), ranks_here(), ranks()) == (rank, first, here, all_ranks)
