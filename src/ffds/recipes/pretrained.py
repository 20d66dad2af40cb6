"""What a network begins with: the file of its weights, the sum of that file, and what comes along with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffds.errors import InputError
from ffds.run_contents import kept_path

__all__ = ["SUFFIXES", "config_beside", "is_run", "sum_of_file", "weights_file"]

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
"""Of files with weights: safetensors, or a state dict saved by torch."""
_NAMES = ("model.safetensors", "pytorch_model.bin")
_WHERE = "model.weights"


def weights_file(place: str) -> Path:
    """The file of weights that `model.weights` names.

    It is the file itself; in the directory of a run that of its best epoch, where it keeps
    one, or the newest checkpoint's; in any other directory
    ``model.safetensors``, ``pytorch_model.bin``, or the only file that ends like one with weights.

    Raises:
        InputError: nothing is there, or no such file, or several.
    """
    path = Path(place).expanduser()
    allowed = f"a file ({', '.join(SUFFIXES)}), a directory that holds one, or the directory of a run"
    if path.is_file():
        return path
    if not path.is_dir():
        fix = "a run that has begun goes on without it: ffds train RUN/recipe.yaml"
        raise InputError("no such weights", where=_WHERE, got=place, allowed=allowed, fix=fix)
    if is_run(path):
        if (kept := kept_path(path / "checkpoints")) is None:
            raise InputError("the run has no checkpoint yet", where=_WHERE, got=place)
        return kept / "model.safetensors"
    files = sorted(one.name for one in path.iterdir() if one.suffix in SUFFIXES and one.is_file())
    found = next((name for name in _NAMES if name in files), files[0] if len(files) == 1 else None)
    if found is None:
        got = f"{place} with {', '.join(files[:5]) if files else 'no file of weights'}"
        what = "which of these weights?" if files else "a directory without weights"
        raise InputError(what, where=_WHERE, got=got, allowed=allowed, fix="name the file")
    return path / found


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run."""
    return (path / "recipe.yaml").is_file() and (path / "checkpoints").is_dir()


def sum_of_file(file: Path) -> str:
    """``sha256:`` and 16 digits of what is in a file."""
    try:
        with file.open("rb") as opened:
            return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"
    except OSError as error:
        raise InputError("weights cannot be read", where=file, got=error.strerror) from error


def config_beside(place: str) -> Mapping[str, Any]:
    """The ``config.json`` in a directory of weights, as timm writes it for the hub; empty if there is none.

    Raises:
        InputError: it is no JSON object.
    """
    file = Path(place).expanduser() / "config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("config.json cannot be read", where=file, got=error) from error
    return config
