"""What can go wrong outside the code, each kind with the exit code of the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Self

__all__ = ["FfdsError", "InputError", "Interrupted", "NonFiniteLossError", "nearest", "printable"]

UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which a terminal obeys, and what stands for bytes of a file name that are not UTF-8."""


class FfdsError(Exception):
    """An end that the command line reports without a traceback, in words that can be printed anywhere."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(FfdsError, ValueError):
    """The user's recipe, data or arguments cannot be used: exit code 2.

    It says what is wrong, where (``file:line``, a path), what was found and may stand there, and what to do.

    >>> print(InputError("unknown key schedule.epocs", where="my.yaml:7", fix="did you mean epochs?"))
    unknown key schedule.epocs
      where:   my.yaml:7
      fix:     did you mean epochs?
    """

    exit_code = 2

    def __init__(
        self, what: str, *, where: object = "", got: object = "", allowed: object = "", fix: str = ""
    ) -> None:
        fields = {"where": where, "got": got, "allowed": allowed, "fix": fix}
        lines = [f"  {name + ':':<9}{value}" for name, value in fields.items() if str(value)]
        super().__init__("\n".join([what, *lines]))

    @classmethod
    def joined(cls, errors: Iterable[InputError]) -> Self:
        """All errors at once, as one."""
        return cls("\n".join(str(error) for error in errors))


class NonFiniteLossError(FfdsError):
    """Loss or gradient became NaN or infinite; training stopped before the optimizer step: exit code 3."""

    exit_code = 3

    def __init__(self, message: str, diagnosis: Path | None = None) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class Interrupted(FfdsError):  # noqa: N818  (an end that was asked for, not an error)
    """A signal ended the run, its state is saved, the same command goes on: exit code 75."""

    exit_code = 75


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
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
