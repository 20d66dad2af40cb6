"""Files that are either there whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["flush_directory", "json_text", "write_bytes", "write_json", "write_text"]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk, then put it in its place in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_directory(path.parent)


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """As `write_bytes`, as JSON; NaN and infinity are refused because JSON has no word for them."""
    write_text(path, json_text(content))


def json_text(content: object) -> str:
    """What `write_json` writes."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def flush_directory(directory: Path) -> None:
    """Flush the entries of a directory, so that a rename in it survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
