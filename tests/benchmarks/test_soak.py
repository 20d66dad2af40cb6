"""A run that is killed again and again ends as one that never was."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak import soak


def test_killed_twelve_times(tmp_path: Path) -> None:
    """At calls that write, flush, rename or delete, most of them inside a save, and amid writing a file."""
    soaked = soak("run", 12, tmp_path / "soak", ways=("call", "call", "write"))
    assert soaked.kills.total() == 12
    assert soaked.finished > 0
    assert soaked.differing == ()


def test_a_cache_that_two_processes_write_is_right_whenever_one_is_killed(tmp_path: Path) -> None:
    soaked = soak("cache", 5, tmp_path / "soak")
    assert soaked.kills.total() == 5
    assert soaked.finished > 0
    assert soaked.differing == ()
