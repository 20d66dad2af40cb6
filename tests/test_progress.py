"""Progress: a bar on a terminal, plain lines elsewhere, silence where it is asked for."""

import re
import sys
from io import StringIO

import pytest

from ffds.progress import Progress, live_line, track


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_every_tenth_and_the_end_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(2000), "chips")) == list(range(2000))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"chips: {k:,} of 2,000" for k in range(200, 2001, 200)]
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines()[-1] == "letters: 3 of 3"
    assert list(track([], "letters")) == []


def report(*, shown: bool) -> None:
    with Progress("title", 100, "images", shown=shown) as progress:
        progress.say("begin")
        progress.start_at(50)
        for _ in range(5):
            progress.advance(10)
        progress.report("epoch 1", "in short")


@pytest.mark.parametrize(("shown", "said"), [(False, ""), (True, "begin\nepoch 1, 0:00:00 left\n")])
def test_results_are_lines_with_the_time_left(shown: bool, said: str, capsys) -> None:
    report(shown=shown)
    assert capsys.readouterr().err == said


def test_a_terminal_shows_a_bar_with_the_results_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(track([4, 5], "chips")) == [4, 5]
    report(shown=True)
    for part in ("chips", "100%", "begin", "in short", "images/s"):
        assert part in terminal.getvalue()


def test_the_live_line_fits_eighty_columns_with_the_tail_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb-no-more")
    scores = {"accuracy": 100.0, "head": 100.0, "middle": 100.0, "tail": 99.9}
    entry = {"epoch": 200, "validation": scores, "test": scores}
    with Progress("a-recipe-with-a-long-name d-ffds seed 0", 200, "images") as progress:
        progress.advance(100)
        progress.report("a line of more than eighty characters " * 3, live_line(entry, 200))
    last = (
        re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
        .replace("\r", "\n")
        .strip()
        .splitlines()[-1]
    )
    assert "200/200 val 100.0 test 100.0 tail 99.9" in last
    assert last.rstrip().endswith(("0:00:00", "-:--:--")), last
    assert "50%" in last
    assert "images/s" in last
    assert len(last) <= 80
