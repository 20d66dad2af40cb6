"""The original archive of a dataset: found below the root, unpacked once, fetched on request."""

from __future__ import annotations

import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from ffds.data.download import fetch, md5_of
from ffds.errors import InputError
from ffds.locks import held, waited

__all__ = ["Archive"]


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        url: where it is published.
        md5: its published sum, in hex.
        folder: the directory it unpacks to.
    """

    url: str
    md5: str
    folder: str

    @property
    def file(self) -> str:
        """Its file name."""
        return self.url.rsplit("/", 1)[-1]

    def unpacked(self, root: Path, download: bool) -> Path | None:
        """The unpacked directory below `root`: as it lies there, from the archive, or downloaded.

        Of several processes that need it at once, one fetches and unpacks, and the others wait for it.

        Args:
            root: the directory of the data; made by a download.
            download: fetch the archive if it is not there.

        Returns:
            The directory; None where neither it nor the archive is there and no download is asked for.

        Raises:
            InputError: the archive is not the published one, or cannot be fetched or unpacked.
        """
        target, archive = root / self.folder, root / self.file
        if target.is_dir():
            return target
        if not (archive.is_file() or download):
            return None
        with self._turn(root):
            if not target.is_dir():
                self._bring(archive)
                _unpack(archive, target)
        return target

    @contextmanager
    def _turn(self, root: Path) -> Iterator[None]:
        """Begin once no other process is at it; at once where there can be no lock."""
        lock, file = root / f".{self.file}.lock", None
        # Where nothing can be written, the step that has to write says so.
        with suppress(OSError, InputError):
            root.mkdir(parents=True, exist_ok=True)
            file = held(lock)
            if file is None:
                print(f"waiting for another process to bring {self.folder}/", file=sys.stderr, flush=True)
                file = waited(lock)
        with file or nullcontext():
            yield

    def _bring(self, archive: Path) -> None:
        """Fetch it, or check what is there."""
        if not archive.is_file():
            fetch(self.url, archive, self.md5)
        elif (found := md5_of(archive)) != self.md5:
            raise InputError(
                f"{archive.name} is not the published archive",
                where=archive,
                got=f"md5 {found}",
                allowed=f"md5 {self.md5}",
                fix="remove it, then fetch it with data.download=true",
            )


def _unpack(archive: Path, target: Path) -> None:
    """Unpack beside `target` and rename: it is complete or not there."""
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as parent:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as content:
                    content.extractall(parent)
            else:
                with tarfile.open(archive) as content:
                    _extract(content, parent)
            (Path(parent) / target.name).replace(target)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{archive.name} could not be unpacked",
            where=target.parent,
            got=error,
            fix="its directory needs room and the right to write; or unpack it elsewhere and set data.root",
        ) from error


def _extract(content: tarfile.TarFile, parent: str) -> None:
    """Refuse what would lie outside of `parent`."""
    if sys.version_info >= (3, 11, 4):
        content.extractall(parent, filter="data")
        return
    # Without that filter: files and directories below it, and nothing else.
    root = Path(parent).resolve()
    for member in content:
        below = (root / member.name).resolve().is_relative_to(root)
        if not below or not (member.isfile() or member.isdir()):
            raise tarfile.ExtractError(f"{member.name!r} is outside of the archive's directory, or no file")
    content.extractall(root)
