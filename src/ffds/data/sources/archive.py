"""The original archive of a dataset: found below the root, unpacked once, fetched on request."""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ffds.errors import InputError
from ffds.files import held, waited

__all__ = ["Archive", "fetch", "md5_of"]

CHUNK = 1 << 20
SECONDS_WITHOUT_A_BYTE = 60
RANGE_BEYOND_THE_END = 416
PARTIAL_CONTENT = 206


def md5_of(file: Path) -> str:
    """The md5 sum of a file, in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch(url: str, target: Path, md5: str) -> None:
    """Fetch `url` into `target`, through ``target.part``, which a later call goes on with.

    Args:
        url: http or https.
        target: the file to write; its directory is made if missing.
        md5: the published sum, in hex; a file with another sum is removed.

    Raises:
        InputError: the server, the connection or the disk fails (what arrived is kept), or the sum differs.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (part.exists() and md5_of(part) == md5):
            _transfer(url, part)
        found = md5_of(part)
        if found == md5:
            part.replace(target)
        else:
            part.unlink()
    except (OSError, HTTPException) as error:
        raise InputError(
            f"{target.name} could not be fetched",
            where=url,
            got=error,
            fix=f"run the same command again to go on, or put the file at {target}",
        ) from error
    if found != md5:
        raise InputError(
            f"{target.name} arrived with another content than published, and was removed",
            where=url,
            got=f"md5 {found}",
            allowed=f"md5 {md5}",
            fix="run the same command again",
        )


def _transfer(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "ffds"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=SECONDS_WITHOUT_A_BYTE)
    except HTTPError as error:
        error.close()
        if error.code != RANGE_BEYOND_THE_END or not have:
            raise
        part.unlink()
        _transfer(url, part)
        return
    with response:
        resumed = response.status == PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError(f"the server sent another range than asked: {response.headers['Content-Range']}")
        start = have if resumed else 0
        total = start + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if resumed else "wb") as file:
            for chunk in _shown(_chunks(response), part.stem, start, total):
                file.write(chunk)
    arrived = part.stat().st_size
    if arrived < total:
        raise OSError(f"the connection ended after {arrived:,} of {total:,} bytes")


def _chunks(response: IO[bytes]) -> Iterator[bytes]:
    while chunk := response.read(CHUNK):
        yield chunk


def _shown(chunks: Iterable[bytes], name: str, start: int, total: int) -> Iterator[bytes]:
    """The chunks, with a bar on a terminal and a line every tenth elsewhere."""
    if not sys.stderr.isatty():
        yield from _told(chunks, name, start, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, completed=start, total=total or None)
        for chunk in chunks:
            yield chunk
            progress.advance(task, len(chunk))


def _told(chunks: Iterable[bytes], name: str, start: int, total: int) -> Iterator[bytes]:
    done, tenths = start, 10 * start // total if total else 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if total and 10 * done // total > tenths:
            tenths = 10 * done // total
            print(f"{name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB", file=sys.stderr, flush=True)


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
