"""Threads that decode, encode and hash images."""

import threading

import pytest

from ffds.data import decode as threads
from ffds.data.decode import MOST, image_threads


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (3, 3), (MOST, MOST), (1000, MOST)])
def test_a_thread_for_each_core_up_to_a_bound(cores, expected, monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    # Work that waits for the others: it ends only if so many threads run at once.
    barrier = threading.Barrier(expected)

    def met(_):
        barrier.wait(10)
        return threading.get_ident()

    with image_threads() as pool:
        together = set(pool.map(met, range(expected)))
        later = set(pool.map(lambda _: threading.get_ident(), range(4 * expected)))
    assert len(together) == expected
    assert later <= together
