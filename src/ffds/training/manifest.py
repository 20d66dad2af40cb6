"""The manifest of a checkpoint: size and sha256 of each file, by which damage is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffds.environment import versions

__all__ = ["FORMAT", "WRONG_TYPES", "BrokenError", "Manifest", "manifest_text"]

FORMAT = 2
WRONG_TYPES = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What reading raises where JSON is damaged, or holds other types than expected, or too many brackets."""


def manifest_text(identity: Mapping[str, Any], contents: Mapping[str, bytes]) -> str:
    """The manifest of a run's checkpoint: size and sha256 of each file, and its own sha256 without that."""
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    rest = {"format": FORMAT, "identity": identity, "versions": versions(), "files": files}
    return json.dumps({**rest, "sha256": _checksum(rest)}, indent=1)


class BrokenError(Exception):
    """A checkpoint that does not verify."""


@dataclass(frozen=True)
class Manifest:
    """What a manifest says, verified against its own checksum; one that is older than those has none."""

    path: Path
    format: int
    ffds: object
    identity: Mapping[str, Any]
    files: Mapping[str, Any]
    has_checksum: bool

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest of the checkpoint at a path."""
        try:
            content = json.loads(_content(path / "manifest.json"))
            checksum = content.pop("sha256", None)
            if checksum is None:
                # A flipped bit in the name of the key.
                sound = content.keys() == {"format", "identity", "versions", "files"}
            else:
                sound = checksum == _checksum(content)
            version, identity, files = content["format"], content["identity"], content["files"]
            ffds = content["versions"].get("ffds")
        except (BrokenError, OSError, *WRONG_TYPES) as error:
            raise BrokenError("manifest.json is missing or damaged") from error
        # Later formats have a checksum.
        known = type(version) is int and (checksum is not None or 0 < version <= FORMAT)
        if not (sound and known and isinstance(identity, dict) and isinstance(files, dict)):
            raise BrokenError("manifest.json is missing or damaged")
        return cls(path, version, ffds, identity, files, checksum is not None)

    def contents(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of some files, verified."""
        contents: dict[str, bytes] = {}
        for name in names:
            try:
                size, digest = self.files[name]["bytes"], self.files[name]["sha256"]
            except WRONG_TYPES as error:
                raise BrokenError("manifest.json is missing or damaged") from error
            try:
                content = contents[name] = _content(self.path / name, size)
            except OSError as error:
                raise BrokenError(f"{name} cannot be read: {error.strerror}") from error
            if hashlib.sha256(content).hexdigest() != digest:
                raise BrokenError(f"{name} does not match its checksum")
        return contents


def _content(file: Path, size: object = None) -> bytes:
    """The content of a file, which is not read if it is of another size."""
    if not file.is_file():  # a FIFO would be waited for
        raise BrokenError(f"{file.name} is missing")
    found = file.stat().st_size
    if size is not None and found != size:
        raise BrokenError(f"{file.name} has {found} bytes, not {size}")
    return file.read_bytes()


def _checksum(content: Mapping[str, Any]) -> str:
    """The sha256 of JSON, however it is laid out."""
    values = json.loads(json.dumps(content))  # as it will be read
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
