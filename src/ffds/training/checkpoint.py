"""Checkpoints that are whole or absent: written aside, flushed, renamed; verified before they are read.

A checkpoint is a directory ``epoch-0130`` (130 epochs done) or ``epoch-0130-step-00042`` (42 steps into the
next one) that holds ``model.safetensors``, ``optimizer.safetensors``, ``loss.safetensors``, ``state.json``
and, written last, ``manifest.json`` with size and sha256 of each. Nothing is ever unpickled. Only saving and
restoring import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ffds.environment import versions
from ffds.errors import InputError
from ffds.files import flush_directory, saving
from ffds.settings import by_dotted_key

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMAT", "Checkpoint", "Checkpoints"]

FORMAT = 2
KEPT = 2
"""The newest and the one before it, in case the newest is broken."""

_NAME = re.compile(r"epoch-(\d{4,})(?:-step-(\d{5,}))?")
_TENSORS = ("model", "optimizer", "loss")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on; `identity`, the run it belongs to, is filled in when it is read.

    `loss` holds the buffers of every loss and the running counts of the epoch, by rank; `state` the point
    reached and all plain numbers.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    loss: dict[str, Tensor]
    state: dict[str, Any]
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        directory: of all of them.
        identity: what the run is; a checkpoint of another identity is refused, None accepts any.
        earlier: the same in the words of an earlier version, whose checkpoints are accepted too.
        skipped: broken checkpoints that `latest` skipped, with the reason; the next `save` deletes them.
    """

    directory: Path
    identity: Mapping[str, Any] | None = None
    earlier: Mapping[str, Any] | None = None
    skipped: dict[Path, str] = field(default_factory=dict)

    def save(self, checkpoint: Checkpoint, epoch: int, step: int = 0) -> Path:
        """Write the checkpoint after `epoch` epochs and `step` steps; delete all but the newest two.

        Raises:
            FfdsError: the disk is full; older checkpoints are untouched.
        """
        target = self.directory / (f"epoch-{epoch:04d}" + (f"-step-{step:05d}" if step else ""))
        temporary = target.with_name(target.name + ".tmp")
        for leftover in self.directory.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        contents = self._contents(checkpoint)
        with saving("a checkpoint", self.directory, sum(map(len, contents.values()))):
            try:
                temporary.mkdir(parents=True)
                for name, content in contents.items():
                    with (temporary / name).open("wb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                flush_directory(temporary)
                shutil.rmtree(target, ignore_errors=True)
                temporary.rename(target)
                flush_directory(self.directory)
            except OSError:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        # Broken ones do not count among those kept.
        broken = [path for path in self.skipped if path != target]
        sound = [path for path in self._newest_first() if path not in broken]
        for old in [*broken, *sound[KEPT:]]:
            shutil.rmtree(old, ignore_errors=True)
        self.skipped.clear()
        return target

    def newest_epoch(self) -> int:
        """Epochs done at the newest checkpoint, 0 without one; nothing is verified."""
        return max((int(path.name.split("-")[1]) for path in self._newest_first()), default=0)

    def newest_identity(self) -> Mapping[str, Any]:
        """Identity of the run at the newest checkpoint, empty where it is not known; nothing is verified."""
        for path in self._newest_first()[:1]:
            with suppress(OSError, ValueError, KeyError, TypeError):
                identity: Mapping[str, Any] = json.loads((path / "manifest.json").read_bytes())["identity"]
                return identity
        return {}

    def parameter(self, epoch: int, name: str) -> NDArray[Any] | None:
        """A tensor of the network after an epoch, read without torch; None if that checkpoint is gone."""
        file = self.directory / f"epoch-{epoch:04d}" / "model.safetensors"
        if not file.is_file():
            return None
        with safe_open(file, framework="numpy") as tensors:
            parameter: NDArray[Any] = tensors.get_tensor(name)
        return parameter

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, None if there is none at all.

        Raises:
            InputError: none verifies, or the newest sound one belongs to another run or another format.
        """
        paths = self._newest_first()
        for path in paths:
            try:
                return self._read(path)
            except _BrokenError as error:
                self.skipped[path] = str(error)
                print(f"warning: checkpoint {path} is broken ({error}), skipped", file=sys.stderr)
        if paths:
            got = "; ".join(f"{path.name}: {reason}" for path, reason in self.skipped.items())
            fix = "restore one, or delete the run directory to train from the start"
            raise InputError("no checkpoint of this run can be read", where=self.directory, got=got, fix=fix)
        return None

    def _newest_first(self) -> list[Path]:
        """The directories of the checkpoints."""
        if not self.directory.is_dir():
            return []
        names = {path: _NAME.fullmatch(path.name) for path in self.directory.iterdir()}
        ranked = [(int(name[1]), int(name[2] or 0), path) for path, name in names.items() if name]
        return [path for _, _, path in sorted(ranked, reverse=True)]

    def _contents(self, checkpoint: Checkpoint) -> dict[str, bytes]:
        """The files by name, the manifest last."""
        from safetensors.torch import save

        contents = {
            f"{name}.safetensors": save({k: v.contiguous() for k, v in getattr(checkpoint, name).items()})
            for name in _TENSORS
        }
        contents["state.json"] = json.dumps(checkpoint.state, indent=1).encode()
        files = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        }
        manifest = {"format": FORMAT, "identity": self.identity, "versions": versions(), "files": files}
        return contents | {"manifest.json": json.dumps(manifest, indent=1).encode()}

    def _like(self, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the run is, in the words of this version or the earlier one, whichever `identity` is in."""
        own = [one for one in (self.identity, self.earlier) if one is not None]
        there = by_dotted_key(identity).keys()
        return min(own, key=lambda one: len(by_dotted_key(one).keys() ^ there))

    def _read(self, path: Path) -> Checkpoint:
        from safetensors.torch import load

        identity, contents = _verified(path)
        if self.identity is not None and (got := _differences(identity, self._like(identity))):
            fix = "use the recipe that made it, or another --out DIR"
            raise InputError("checkpoint belongs to another run", where=path, got=got, fix=fix)
        try:
            tensors = {name: load(contents[f"{name}.safetensors"]) for name in _TENSORS}
            state = json.loads(contents["state.json"])
        except (SafetensorError, ValueError) as error:
            raise _BrokenError(f"not a checkpoint of ffds: {error}") from error
        return Checkpoint(**tensors, state=state, identity=identity)


class _BrokenError(Exception):
    """A checkpoint that does not verify."""


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    theirs, ours = by_dotted_key(there), by_dotted_key(here)
    differing = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
    return "; ".join(f"{key}: {theirs.get(key)} there, {ours.get(key)} here" for key in differing)


def _verified(path: Path) -> tuple[Mapping[str, Any], dict[str, bytes]]:
    """The identity of a checkpoint, and the content of its files, verified against the manifest."""
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
        version, files = manifest["format"], manifest["files"]
        identity: Mapping[str, Any] = manifest["identity"]
        names = (*(f"{name}.safetensors" for name in _TENSORS), "state.json") if version == FORMAT else ()
        expected = {name: (files[name]["bytes"], files[name]["sha256"]) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _BrokenError("manifest.json is missing or damaged") from error
    if version != FORMAT:
        got, allowed = f"format {version}", f"format {FORMAT}"
        fix = f"use the ffds version that wrote it: {manifest.get('versions', {}).get('ffds')}"
        raise InputError("checkpoint has another format", where=path, got=got, allowed=allowed, fix=fix)
    contents: dict[str, bytes] = {}
    for name, (size, digest) in expected.items():
        if not (path / name).is_file():
            raise _BrokenError(f"{name} is missing")
        content = contents[name] = (path / name).read_bytes()
        if len(content) != size:
            raise _BrokenError(f"{name} has {len(content)} bytes, not {size}")
        if hashlib.sha256(content).hexdigest() != digest:
            raise _BrokenError(f"{name} does not match its checksum")
    return identity, contents
