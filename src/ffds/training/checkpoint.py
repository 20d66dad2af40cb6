"""Checkpoints that are whole or absent: written aside, flushed, renamed; verified before they are read.

A checkpoint is a directory ``epoch-0130`` (130 epochs done) or ``epoch-0130-step-00042`` (42 steps into the
next one) that holds ``model.safetensors``, ``optimizer.safetensors``, ``loss.safetensors``, ``state.json``
and, written last, ``manifest.json`` with size and sha256 of each, and its own sha256. Nothing is ever
unpickled. Only saving and restoring import torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from ffds.errors import InputError, tell
from ffds.files import flush_directory, remove_aside, saving
from ffds.run_contents import CHECKPOINT_NAME, checkpoint_path, checkpoints_in, kept_beside, kept_path
from ffds.settings import by_dotted_key
from ffds.training.manifest import FORMAT, WRONG_TYPES, BrokenError, Manifest, manifest_text

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "Checkpoints", "complete"]

KEPT = 2
"""The newest and the one before it, in case the newest is broken."""

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


@contextmanager
def complete(directory: Path) -> Iterator[None]:
    """InputError where a checkpoint that verifies lacks what a run needs, or has it of another type."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        what, fix = "a checkpoint lacks what a run needs", "delete it, or use another --out DIR"
        raise InputError(what, where=directory, got=repr(error), fix=fix) from error


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
        target = self._path(epoch, step)
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
            remove_aside(broken)
        self.skipped.clear()
        self.recover()
        self.prune()
        return target

    def recover(self) -> None:
        """Undo what a save that was killed has left; only for the process that may save."""
        for leftover in self.directory.glob("*.tmp"):
            remove_aside(leftover)
        for aside in self.directory.glob("epoch-*.old"):
            if CHECKPOINT_NAME.fullmatch(aside.name):
                target = aside.with_suffix("")
                if target.exists():
                    remove_aside(aside)
                    continue
                with suppress(OSError):
                    aside.rename(target)

    def prune(self) -> None:
        """Delete all but the newest two and those of epochs that they keep; broken ones do not count."""
        paths = [path for path in self._newest_first() if path not in self.skipped]
        kept = {kept_beside(path) for path in paths[:KEPT]}
        for old in paths[KEPT:]:
            if old not in kept:
                remove_aside(old)

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint; nothing is verified."""
        return bool(self._newest_first())

    def not_needed(self) -> list[Path]:
        """What a run that is done does without: all but the newest one that verifies and the one it keeps.

        None if none verifies.
        """
        for path in (paths := self._newest_first()):
            with suppress(BrokenError):
                (manifest := Manifest.read(path)).contents(manifest.files)
                return [one for one in paths if one not in (path, kept_beside(path))]
        return []

    def newest_epoch(self) -> int:
        """Epochs done at the newest checkpoint, 0 without one; nothing is verified."""
        return max((int(path.name.split("-")[1]) for path in self._newest_first()), default=0)

    def newest_identity(self) -> Mapping[str, Any]:
        """Identity of the run at the newest checkpoint whose manifest verifies, empty where there is none."""
        for path in self._newest_first():
            try:
                return Manifest.read(path).identity
            except BrokenError as error:
                self._skip(path, str(error))
        return {}

    def kept_epoch(self) -> int:
        """Epochs done at the checkpoint that is kept for use, 0 without one; nothing is verified."""
        path = kept_path(self.directory)
        return 0 if path is None else int(path.name.split("-")[1])

    def parameter(self, epoch: int, name: str) -> NDArray[Any] | None:
        """A tensor of the network after an epoch, read without torch; None if that checkpoint is gone.

        Raises:
            InputError: the file does not verify.
        """
        path = self._path(epoch)
        if not (path / "model.safetensors").is_file():
            return None
        try:
            content = Manifest.read(path).contents(["model.safetensors"])["model.safetensors"]
            parameter: NDArray[Any] = load_arrays(content)[name]
        except (BrokenError, SafetensorError, *WRONG_TYPES) as error:
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
                manifest = Manifest.read(path)
                checkpoint = self._read(path, manifest)
                differing = "" if self.identity is None else self._differences(manifest.identity)
            except (BrokenError, RecursionError) as error:
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

    def kept(self) -> Checkpoint | None:
        """The checkpoint of the epoch that the newest one keeps, or the newest; as `latest` and `at`."""
        newest = self.latest()
        epoch = None if newest is None else newest.state.get("reached", {}).get("kept_epoch")
        return newest if epoch is None else self.at(epoch)

    def at(self, epoch: int) -> Checkpoint:
        """The checkpoint after an epoch; InputError where it is not there or cannot be read."""
        path = self._path(epoch)
        try:
            return self._read(path, Manifest.read(path))
        except (BrokenError, RecursionError) as error:
            fix = "restore it, or delete the run directory to train from the start"
            raise InputError("checkpoint is broken", where=path, got=error, fix=fix) from error

    def _path(self, epoch: int, step: int = 0) -> Path:
        return checkpoint_path(self.directory, epoch, step)

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped[path] = reason
        tell(f"warning: checkpoint {path} is broken ({reason}), skipped")

    def _newest_first(self) -> list[Path]:
        """The directories of the checkpoints."""
        return checkpoints_in(self.directory)

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
        """What differs between another run's identity and this one's, in its words, with both values."""
        own = [by_dotted_key(one) for one in (self.identity, self.earlier) if one is not None]
        theirs = by_dotted_key(identity)
        ours = min(own, key=lambda one: len(one.keys() ^ theirs.keys()))
        differing = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
        return "; ".join(f"{key}: {theirs.get(key)} there, {ours.get(key)} here" for key in differing)

    def _read(self, path: Path, manifest: Manifest) -> Checkpoint:
        from safetensors.torch import load

        if manifest.format != FORMAT:
            got, allowed = f"format {manifest.format}", f"format {FORMAT}"
            fix = f"use the ffds version that wrote it: {manifest.ffds}"
            raise InputError("checkpoint has another format", where=path, got=got, allowed=allowed, fix=fix)
        contents = manifest.contents([*(f"{name}.safetensors" for name in _TENSORS), "state.json"])
        try:
            tensors = {name: load(contents[f"{name}.safetensors"]) for name in _TENSORS}
            state = json.loads(contents["state.json"])
        except (SafetensorError, RuntimeError, *WRONG_TYPES) as error:
            raise BrokenError(f"not a checkpoint of ffds: {error}") from error
        if not isinstance(state, dict):
            raise BrokenError("not a checkpoint of ffds: state.json holds no object")
        return Checkpoint(**tensors, state=state, identity=manifest.identity)
