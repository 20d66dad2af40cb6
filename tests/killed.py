"""A process that ends itself with SIGKILL at an exact call."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from tests.training import processes


def until(act: Callable[..., Any], out: Any, module: str, name: str, at: int, when: str) -> None:
    """Do `act` until the call number `at` of a function, and end before or after it."""
    *inner, leaf = name.split(".")
    owner: Any = import_module(module)
    for part in inner:
        owner = getattr(owner, part)
    original, calls = getattr(owner, leaf), 0

    def deadly(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and when == "before":
            processes.kill_self()
        result = original(*arguments, **settings)
        if calls == at:
            processes.kill_self()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, leaf, deadly)
        act(out)
