"""Messages: one line for each part, whoever wrote it; short, printable, and the same from another process."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffds.errors import InputError, memory_may_run_out, printable, tell

HOSTILE = st.text() | st.sampled_from(
    ["\x1b[2J", "a\rb", "\u202e", "\ud800", "x" * 5000, "\n  fix: none\nerror:"]
)


@given(what=HOSTILE, where=HOSTILE, got=HOSTILE, fix=HOSTILE)
def test_no_part_of_a_message_can_pretend_to_be_another(what, where, got, fix):
    error = InputError(what, where=where, got=got, fix=fix)
    lines = str(error).split("\n")
    assert len(lines) == 1 + sum(map(bool, (where, got, fix)))
    assert all(line.isprintable() and len(line) < 1100 for line in lines)
    assert str(pickle.loads(pickle.dumps(error))) == str(InputError.joined([error])) == str(error)


@given(HOSTILE)
def test_what_is_printable_stays_as_it_is(text):
    shown = printable(text)
    assert shown.replace("\n", "").isprintable()
    assert printable(shown) == shown
    assert (shown == text) == text.replace("\n", "").isprintable()


def test_notes_never_reach_the_terminal_as_they_are(capsys):
    tell("note: \x1b[2J\udcff of\nclass")
    assert capsys.readouterr().err == "note: \\x1b[2J\\udcff of\nclass\n"


def test_nobody_needs_to_listen(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    tell("nobody hears this")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=repr,
)
def test_memory_that_runs_out_is_one_message(error):
    with pytest.raises(InputError, match="memory ran out") as caught, memory_may_run_out():
        raise error
    assert str(error).partition("\n")[0] in str(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(28, "No space"), ValueError("memory")]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error), match=str(error.args[-1])), memory_may_run_out():
        raise error
