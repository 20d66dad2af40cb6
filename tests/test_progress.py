import sys
from io import StringIO

import pytest

from ffds.progress import track


def test_elsewhere_every_tenth_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(2000), "chips")) == list(range(2000))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"chips: {k:,} of 2,000" for k in range(200, 2001, 200)]


def test_the_end_is_always_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines()[-1] == "letters: 3 of 3"
    assert list(track([], "letters")) == []


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(track([4, 5], "chips")) == [4, 5]
    assert "chips" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
