"""Checkpoints that are whole or absent: written aside, flushed, renamed; verified before they are read.

A checkpoint is a directory ``epoch-0130`` (130 epochs done) or ``epoch-0130-step-00042`` (42 steps into the
next one) that holds ``model.safetensors``, ``optimizer.safetensors``, ``loss.safetensors``, ``state.json``
and, written last, ``manifest.json`` with size and sha256 of each, and its own sha256. Nothing is ever
unpickled. Only saving and restoring import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from ffds.environment import versions
from ffds.errors import InputError, tell
from ffds.files import flush_directory, saving
from ffds.settings import by_dotted_key

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMAT", "Checkpoint", "Checkpoints", "manifest_text"]

FORMAT = 2
KEPT = 2
"""The newest and the one before it, in case the newest is broken."""

_NAME = re.compile(r"epoch-(\d{4,})(?:-step-(\d{5,}))?(\.old)?")
"""With ``.old``, a checkpoint put aside until a new one of its name is in its place."""
_TENSORS = ("model", "optimizer", "loss")
_WRONG_TYPES = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What reading raises where JSON is damaged, or holds other types than expected, or too many brackets."""


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
        contents = self._contents(checkpoint)
        self.recover()
        with saving("a checkpoint", self.directory, sum(map(len, contents.values()))):
            try:
                temporary.mkdir(parents=True)
                for name, content in contents.items():
                    with (temporary / name).open("wb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                flush_directory(temporary)
                if target.exists():
                    target.rename(target.with_name(target.name + ".old"))
                temporary.rename(target)
                flush_directory(self.directory)
            except OSError:
                self.recover()
                raise
        for broken in self.skipped.keys() - {target}:
            _remove(broken)
        self.skipped.clear()
        self.recover()
        self.prune()
        return target

    def recover(self) -> None:
        """Undo what a save that was killed has left; only for the process that may save."""
        for leftover in self.directory.glob("*.tmp"):
            _remove(leftover)
        for aside in self.directory.glob("epoch-*.old"):
            if _NAME.fullmatch(aside.name):
                target = aside.with_suffix("")
                if target.exists():
                    _remove(aside)
                    continue
                with suppress(OSError):
                    aside.rename(target)

    def prune(self) -> None:
        """Delete all but the newest two; broken ones that `latest` skipped do not count."""
        for old in [path for path in self._newest_first() if path not in self.skipped][KEPT:]:
            _remove(old)

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint; nothing is verified."""
        return bool(self._newest_first())

    def beside_the_newest(self) -> list[Path]:
        """All but the newest one that verifies, which alone a run that is done needs; none if none does."""
        for path in (paths := self._newest_first()):
            with suppress(_BrokenError):
                (manifest := _Manifest.read(path)).contents(manifest.files)
                return [one for one in paths if one != path]
        return []

    def newest_epoch(self) -> int:
        """Epochs done at the newest checkpoint, 0 without one; nothing is verified."""
        return max((int(path.name.split("-")[1]) for path in self._newest_first()), default=0)

    def newest_identity(self) -> Mapping[str, Any]:
        """Identity of the run at the newest checkpoint whose manifest verifies, empty where there is none."""
        for path in self._newest_first():
            try:
                return _Manifest.read(path).identity
            except _BrokenError as error:
                self._skip(path, str(error))
        return {}

    def parameter(self, epoch: int, name: str) -> NDArray[Any] | None:
        """A tensor of the network after an epoch, read without torch; None if that checkpoint is gone.

        Raises:
            InputError: the file does not verify.
        """
        path = self.directory / f"epoch-{epoch:04d}"
        if not (path / "model.safetensors").is_file():
            return None
        try:
            content = _Manifest.read(path).contents(["model.safetensors"])["model.safetensors"]
            parameter: NDArray[Any] = load_arrays(content)[name]
        except (_BrokenError, SafetensorError, *_WRONG_TYPES) as error:
            fix = "restore it, or train the run again"
            raise InputError("checkpoint is broken", where=path, got=error, fix=fix) from error
        return parameter

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, None if there is none at all.

        Raises:
            InputError: none verifies, or the newest sound one belongs to another run or another format.
        """
        foreign: dict[Path, str] = {}
        for path in (paths := self._newest_first()):
            try:
                manifest = _Manifest.read(path)
                checkpoint = self._read(path, manifest)
                differing = self._differences(manifest.identity)
            except (_BrokenError, RecursionError) as error:
                self._skip(path, str(error))
                continue
            if not differing:
                for other, got in foreign.items():
                    self._skip(other, f"its manifest is of another run, unlike that of {path.name}: {got}")
                return checkpoint
            foreign[path] = differing
            # One without a checksum of its own may be damaged: then an older one is of this run.
            if manifest.has_checksum:
                break
        if foreign:
            path, got = next(iter(foreign.items()))
            fix = "use the recipe that made it, or another --out DIR"
            raise InputError("checkpoint belongs to another run", where=path, got=got, fix=fix)
        if paths:
            got = "; ".join(f"{path.name}: {reason}" for path, reason in self.skipped.items())
            fix = "restore one, or delete the run directory to train from the start"
            raise InputError("no checkpoint of this run can be read", where=self.directory, got=got, fix=fix)
        return None

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped[path] = reason
        tell(f"warning: checkpoint {path} is broken ({reason}), skipped")

    def _newest_first(self) -> list[Path]:
        """The directories of the checkpoints."""
        if not self.directory.is_dir():
            return []
        names = {path: _NAME.fullmatch(path.name) for path in self.directory.iterdir()}
        ranked = [
            (int(name[1]), int(name[2] or 0), not name[3], path) for path, name in names.items() if name
        ]
        return [path for *_, path in sorted(ranked, reverse=True)]

    def _contents(self, checkpoint: Checkpoint) -> dict[str, bytes]:
        """The files by name, the manifest last."""
        from safetensors.torch import save

        contents = {
            f"{name}.safetensors": save({k: v.contiguous() for k, v in getattr(checkpoint, name).items()})
            for name in _TENSORS
        }
        contents["state.json"] = json.dumps(checkpoint.state, indent=1).encode()
        return contents | {"manifest.json": manifest_text(self.identity or {}, contents).encode()}

    def _differences(self, identity: Mapping[str, Any]) -> str:
        """What differs between another run's identity and this one's, with both values."""
        return "" if self.identity is None else _differences(identity, self._like(identity))

    def _like(self, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the run is, in the words of this version or the earlier one, whichever `identity` is in."""
        own = [one for one in (self.identity, self.earlier) if one is not None]
        there = by_dotted_key(identity).keys()
        return min(own, key=lambda one: len(by_dotted_key(one).keys() ^ there))

    def _read(self, path: Path, manifest: _Manifest) -> Checkpoint:
        from safetensors.torch import load

        if manifest.format != FORMAT:
            got, allowed = f"format {manifest.format}", f"format {FORMAT}"
            fix = f"use the ffds version that wrote it: {manifest.ffds}"
            raise InputError("checkpoint has another format", where=path, got=got, allowed=allowed, fix=fix)
        contents = manifest.contents([*(f"{name}.safetensors" for name in _TENSORS), "state.json"])
        try:
            tensors = {name: load(contents[f"{name}.safetensors"]) for name in _TENSORS}
            state = json.loads(contents["state.json"])
        except (SafetensorError, RuntimeError, *_WRONG_TYPES) as error:
            raise _BrokenError(f"not a checkpoint of ffds: {error}") from error
        if not isinstance(state, dict):
            raise _BrokenError("not a checkpoint of ffds: state.json holds no object")
        return Checkpoint(**tensors, state=state, identity=manifest.identity)


def manifest_text(identity: Mapping[str, Any], contents: Mapping[str, bytes]) -> str:
    """The manifest of a run's checkpoint: size and sha256 of each file, and its own sha256 without that."""
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    rest = {"format": FORMAT, "identity": identity, "versions": versions(), "files": files}
    return json.dumps({**rest, "sha256": _checksum(rest)}, indent=1)


class _BrokenError(Exception):
    """A checkpoint that does not verify."""


@dataclass(frozen=True)
class _Manifest:
    """What a manifest says, verified against its own checksum; one that is older than those has none."""

    path: Path
    format: int
    ffds: object
    identity: Mapping[str, Any]
    files: Mapping[str, Any]
    has_checksum: bool

    @classmethod
    def read(cls, path: Path) -> _Manifest:
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
        except (_BrokenError, OSError, *_WRONG_TYPES) as error:
            raise _BrokenError("manifest.json is missing or damaged") from error
        # Later formats have a checksum.
        known = type(version) is int and (checksum is not None or 0 < version <= FORMAT)
        if not (sound and known and isinstance(identity, dict) and isinstance(files, dict)):
            raise _BrokenError("manifest.json is missing or damaged")
        return cls(path, version, ffds, identity, files, checksum is not None)

    def contents(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of some files, verified."""
        contents: dict[str, bytes] = {}
        for name in names:
            try:
                size, digest = self.files[name]["bytes"], self.files[name]["sha256"]
            except _WRONG_TYPES as error:
                raise _BrokenError("manifest.json is missing or damaged") from error
            try:
                content = contents[name] = _content(self.path / name, size)
            except OSError as error:
                raise _BrokenError(f"{name} cannot be read: {error.strerror}") from error
            if hashlib.sha256(content).hexdigest() != digest:
                raise _BrokenError(f"{name} does not match its checksum")
        return contents


def _content(file: Path, size: object = None) -> bytes:
    """The content of a file, which is not read if it is of another size."""
    if not file.is_file():  # a FIFO would be waited for
        raise _BrokenError(f"{file.name} is missing")
    found = file.stat().st_size
    if size is not None and found != size:
        raise _BrokenError(f"{file.name} has {found} bytes, not {size}")
    return file.read_bytes()


def _checksum(content: Mapping[str, Any]) -> str:
    """The sha256 of JSON, however it is laid out."""
    values = json.loads(json.dumps(content))  # as it will be read
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Delete a checkpoint, under another name first: a part of it never passes for one."""
    with suppress(OSError):
        path = path.rename(path.with_suffix(".tmp"))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    theirs, ours = by_dotted_key(there), by_dotted_key(here)
    differing = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
    return "; ".join(f"{key}: {theirs.get(key)} there, {ours.get(key)} here" for key in differing)
