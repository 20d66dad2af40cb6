"""What can go wrong outside the code, each kind with its exit code, and how it is said."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

__all__ = ["MOST_ERRORS", "Crashed", "FfdsError", "InputError", "Interrupted", "NonFiniteLossError"]
__all__ += ["QUIET", "memory_may_run_out", "nearest", "note", "one_line", "printable", "quiet", "tell"]

MOST_SHOWN = 1000
"""Characters of one part of a message."""
MOST_ERRORS = 30
"""Errors that one message names."""
QUIET = "FFDS_QUIET"
"""The environment variable by which ``--quiet`` reaches the processes that a command starts."""
NO_MEMORY = re.compile(
    "(?i)(not enough|can't allocate|cannot allocate|out of) memory|failed to map segment|bad_alloc"
)
"""What libraries say, in errors of any type, when the system gives them no memory."""


class FfdsError(Exception):
    """An end that the command line reports without a traceback, in words that can be printed anywhere.

    Its exit code is 2, where the kind of end has none of its own.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(FfdsError, ValueError):
    """The user's recipe, data or arguments cannot be used: exit code 2.

    It says what is wrong, where (``file:line``, a path), what was found and may stand there, and what to do:
    one line each, of which a long one is cut.

    >>> print(InputError("unknown key schedule.epocs", where="my.yaml:7", fix="did you mean epochs?"))
    unknown key schedule.epocs
      where:   my.yaml:7
      fix:     did you mean epochs?
    """

    def __init__(
        self, what: str, *, where: object = "", got: object = "", allowed: object = "", fix: str = ""
    ) -> None:
        fields = {"where": where, "got": got, "allowed": allowed, "fix": fix}
        lines = [f"  {name + ':':<9}{_part(value)}" for name, value in fields.items() if str(value)]
        super().__init__("\n".join([_part(what), *lines]))

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[list[str]]]:
        return type(self).joined, ([str(self)],)

    @classmethod
    def joined(cls, errors: Iterable[object]) -> Self:
        """All errors at once, as one; of very many the first ones, and how many more there are."""
        texts = list(map(str, errors))
        more = [f"and {len(texts) - MOST_ERRORS:,} more errors"] if len(texts) > MOST_ERRORS else []
        whole = cls("")
        whole.args = ("\n".join([*texts[:MOST_ERRORS], *more]),)
        return whole


class Crashed(FfdsError):  # noqa: N818  (an end, as `Interrupted`)
    """A process of the command ended by a bug, whose traceback it has printed: exit code 1."""

    exit_code = 1


class NonFiniteLossError(FfdsError):
    """Loss or gradient became NaN or infinite; training stopped before the optimizer step: exit code 3."""

    exit_code = 3

    def __init__(self, message: str, diagnosis: Path | None = None) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class Interrupted(FfdsError):  # noqa: N818  (an end that was asked for, not an error)
    """A signal ended the run, its state is saved, the same command goes on: exit code 75."""

    exit_code = 75


@contextmanager
def memory_may_run_out() -> Iterator[None]:
    """Turn the errors of all libraries that get no memory into an InputError."""
    try:
        yield
        return
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))):
            raise
        lines = str(error).strip().split("\n")
        got = next(filter(NO_MEMORY.search, lines), lines[0])
    # Raised here, where nothing refers any more to the arrays that filled the memory.
    fix = "free some memory, or take a smaller trainer.batch_size or data.image_size, or data.in_memory=false"
    raise InputError("memory ran out", got=got, fix=f"{fix}; the same command goes on from what is saved")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the most similar known name, whatever its letter case, or nothing.

    >>> nearest("epocs", ["epochs", "warmup"])
    'did you mean epochs?'
    """
    spelled = {one.strip().casefold(): one for one in known}
    close = difflib.get_close_matches(name.strip().casefold(), list(spelled), n=1, cutoff=0.6)
    return f"did you mean {spelled[close[0]]}?" if close else ""


def printable(text: str) -> str:
    r"""The text with an escape for each character that cannot be printed or that a terminal would obey.

    >>> print(printable("\x1b[31mred"))
    \x1b[31mred
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def tell(message: str) -> None:
    """Print a message for people on standard error, whether or not anybody reads there."""
    with suppress(OSError):
        print(printable(message), file=sys.stderr, flush=True)


def note(message: str) -> None:
    """As `tell`, for what is good to know and no error: said nowhere where `quiet` asks for it."""
    if not quiet():
        tell(message)


def quiet() -> bool:
    """Whether this command and the processes it starts shall tell of results and errors only."""
    return bool(os.environ.get(QUIET))


def one_line(text: str) -> str:
    """The text as `printable` gives it, in one line."""
    return printable(text).replace("\n", r"\n")


def _part(value: object) -> str:
    """The beginning and the end of a long text: a path is told from others by its end."""
    text, half = one_line(str(value)), MOST_SHOWN // 2
    return text if len(text) <= MOST_SHOWN else f"{text[:half]} … {text[-half:]}"
