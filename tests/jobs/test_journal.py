"""What processes of one command tell each other."""

import json
from pathlib import Path

import pytest

from ffds.errors import FfdsError, InputError, NonFiniteLossError
from ffds.jobs.journal import Journal

ERRORS = {
    Path("a"): NonFiniteLossError("nan\n  diagnosis: there"),
    Path("b"): InputError("wrong", got="1"),
    Path("c"): FfdsError("disk full"),
}


@pytest.mark.parametrize("shared", [False, True])
def test_failures_come_back_as_they_were(shared, tmp_path):
    file = tmp_path / "journal" if shared else None
    journal = Journal(file)
    assert journal.failures == {}
    journal.fail(ERRORS)
    assert journal.failures == ERRORS
    if shared:
        told = Journal(file).failures
        assert {path: (type(e), str(e), e.exit_code) for path, e in told.items()} == {
            path: (type(e), str(e), e.exit_code) for path, e in ERRORS.items()
        }


def test_another_process_sees_them_at_once(tmp_path):
    ours, theirs = Journal(tmp_path / "journal"), Journal(tmp_path / "journal")
    ours.fail({Path("a"): FfdsError("1")})
    theirs.fail({Path("b"): FfdsError("2")})
    assert set(ours.failures) == set(theirs.failures) == {Path("a"), Path("b")}


def test_the_newest_run_of_each_process(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert journal.newest(0) is None
    for process, run in ((0, "a"), (1, "b"), (0, "c")):
        Journal(tmp_path / "journal").begin(process, Path(run))
    journal.fail({Path("b"): FfdsError("x")})
    assert [journal.newest(process) for process in range(3)] == [Path("c"), Path("b"), None]
    assert journal.begun == {Path("a"), Path("b"), Path("c")}
    assert Journal().begun == set()


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    file = tmp_path / "journal"
    Journal(file).fail({Path("a"): FfdsError("1")})
    whole = file.read_text()
    file.write_text(whole + whole.replace('"a"', '"b"')[: len(whole) // 2])
    assert set(Journal(file).failures) == {Path("a")}
    assert json.loads(whole) == {"run": "a", "kind": "FfdsError", "message": "1"}
