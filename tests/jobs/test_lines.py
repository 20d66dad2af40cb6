"""Lines that come whole, whatever is written at a time."""

import io

import pytest
from rich.console import Console

from ffds.jobs.lines import PrefixedLines


class Writes(io.StringIO):
    """Notes each write."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def write(self, text):
        self.seen.append(text)
        return len(text)

    def isatty(self):
        return True


@pytest.fixture
def behind():
    return Writes()


def test_a_line_is_one_write(behind):
    lines = PrefixedLines(behind)
    with lines.prefixed("ce: "):
        print("epoch", 1, "of", 2, file=lines)
        print("no", end="", file=lines)
        print("t yet", file=lines)
    print("free", file=lines)
    assert behind.seen == ["ce: epoch 1 of 2\n", "ce: not yet\n", "free\n"]


def test_every_line_has_the_prefix(behind):
    lines = PrefixedLines(behind)
    with lines.prefixed("ce: "):
        print("a\n\nb", file=lines)
    assert "".join(behind.seen) == "ce: a\nce: \nce: b\n"


def test_what_has_no_end_is_ended_with_its_run(behind):
    lines = PrefixedLines(behind)

    def fails():
        with lines.prefixed("ce: "):
            lines.write("cut sh")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    print("next", file=lines)
    assert behind.seen == ["ce: cut sh\n", "next\n"]


def test_it_is_no_terminal(behind):
    lines = PrefixedLines(behind)
    assert not lines.isatty()
    assert not Console(file=lines).is_terminal
