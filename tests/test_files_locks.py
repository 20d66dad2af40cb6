"""Locks end with whoever holds them."""

import threading

import pytest

from ffds.errors import InputError
from ffds.files import held, waited


def test_one_holder_at_a_time(tmp_path):
    first = held(tmp_path / "lock")
    assert first is not None
    assert held(tmp_path / "lock") is None
    first.close()
    second = held(tmp_path / "lock")
    assert second is not None
    second.close()


def test_a_file_is_made_only_if_it_is_to_be(tmp_path):
    assert held(tmp_path / "lock", make=False) is None
    assert not list(tmp_path.iterdir())


def test_waiting_ends_when_the_holder_does(tmp_path):
    first = held(tmp_path / "lock")
    got = []
    thread = threading.Thread(target=lambda: got.append(waited(tmp_path / "lock")))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    first.close()
    thread.join(60)
    got[0].close()


@pytest.mark.parametrize("lock", [held, waited])
def test_a_place_that_cannot_be_locked_is_named(lock, tmp_path):
    with pytest.raises(InputError, match="cannot lock") as error:
        lock(tmp_path)
    assert str(tmp_path) in str(error.value)
