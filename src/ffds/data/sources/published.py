"""A published dataset in any of its forms: the original files, their archive, or Parquet files."""

from __future__ import annotations

import hashlib
import shutil
import socket
import tarfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ffds.data.source import Source, existing_root, root_path
from ffds.data.sources.parquet import open_parquet
from ffds.data.sources.shards import has_training_files
from ffds.errors import InputError
from ffds.files import lock_or_wait
from ffds.recipes.schema import Data

__all__ = ["Published", "open_published"]

SECONDS_WITHOUT_A_BYTE = 60
MOST_NAMED = 5
"""Classes in a message."""


@dataclass(frozen=True)
class Published:
    """Where and how a dataset is published.

    The archive at `url` unpacks to the directory `folder`, which is known by what lies in it as `marker`;
    `label_column` is the label's column in the Parquet form. Each of the `num_classes` classes has
    `train_images` and `test_images` images.
    """

    title: str
    url: str
    sha256: str
    folder: str
    marker: str
    label_column: str
    num_classes: int
    train_images: int
    test_images: int

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def accepted(self) -> str:
        """The forms that may lie below `data.root`, for a message."""
        parquet = "Parquet files train-*.parquet and test-*.parquet (or val-*, valid-*)"
        return f"the folder {self.folder}/, the archive {self.archive}, or {parquet}"


def open_published(data: Data, published: Published, read_original: Callable[[Path], Source]) -> Source:
    """The first of: the original folder (`data.root` or in it), Parquet files, the archive, a download."""
    root = None if data.root is None else root_path(data.root)
    as_parquet = root is not None and has_training_files(root)
    folders = () if root is None else (root / published.folder, *([] if as_parquet else [root]))
    original = next((folder for folder in folders if (folder / published.marker).exists()), None)
    column = data.label_column or published.label_column
    if original is None and as_parquet:
        # Published images are held at their own size: image_size is what the network sees.
        as_stored = {"label_column": column, "image_size": None, "eval_resize": None}
        source = open_parquet(data.model_copy(update=as_stored))
    else:
        source = read_original(original or _unpacked(data, published))
    got, expected = f"{len(source.class_names)} classes", f"{published.num_classes} classes"
    if got != expected and column == published.label_column:
        what, fix = f"this is not {published.title}", "set data.name to the dataset that lies there"
        raise InputError(what, where=data.root, got=got, allowed=expected, fix=fix)
    if column == published.label_column:
        _check_complete(published, source)
    return source


def _check_complete(published: Published, source: Source) -> None:
    """Refuse what is left of a download that broke off: classes then have fewer images than published."""
    # A pre-cut pack lacks images on purpose; its ranks say whether it lacks others.
    expected = {} if source.ranks is not None else {"training": (source.train, published.train_images)}
    for split, (images, count) in (expected | {"test": (source.test, published.test_images)}).items():
        found = [int((images.labels == label).sum()) for label in range(published.num_classes)]
        wrong = [f"{source.class_names[c]}: {n:,}" for c, n in enumerate(found) if n != count]
        if wrong:
            more = f" and {len(wrong) - MOST_NAMED} more classes" if len(wrong) > MOST_NAMED else ""
            raise InputError(
                f"this is not all of {published.title}: {len(images):,} {split} images, not "
                f"{count * published.num_classes:,}",
                where=source.description,
                got=", ".join(wrong[:MOST_NAMED]) + more,
                allowed=f"{count:,} {split} images of each class",
                fix="remove it and fetch it again (data.download=true gets the original), or train on what "
                "is there as on data of your own: data.name=folder or parquet",
            )


def _unpacked(data: Data, published: Published) -> Path:
    """The directory of the original files, unpacked from their archive, which is downloaded on request."""
    fix = "give the directory of any of these: data.root=DIR; or fetch it: data.root=DIR data.download=true"
    if data.root is None or not data.download:
        existing_root(data, published.accepted, fix)
    root = root_path(data.root or "")
    folder, archive = root / published.folder, root / published.archive
    if folder.is_dir():
        return folder
    if not (archive.is_file() or data.download):
        raise InputError(f"no {published.title}", where=root, allowed=published.accepted, fix=fix)
    with ExitStack() as stack:
        with suppress(OSError, InputError):  # without a lock it is tried all the same
            root.mkdir(parents=True, exist_ok=True)
            waiting = f"waiting for another process that unpacks into {root}"
            stack.enter_context(lock_or_wait(root / f".{archive.name}.lock", waiting))
            for left in root.glob(f"{_unfinished(archive)}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        if not folder.is_dir():
            _unpack(published, archive, folder)
    return folder


def _unpack(published: Published, archive: Path, folder: Path) -> None:
    """Download the archive if it is missing, and unpack it: each of the two is complete or not there."""
    what = "unpacked" if archive.is_file() else "downloaded"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=_unfinished(archive)) as unfinished:
            if archive.is_file():
                _check_sum(published, archive, archive, "remove it, then fetch it with data.download=true")
            else:
                part = Path(unfinished, archive.name)
                _download(published, part)
                _check_sum(published, part, published.url, "run the same command again")
                part.replace(archive)
            if archive.suffix == ".zip":
                shutil.unpack_archive(archive, unfinished)
            else:
                with tarfile.open(archive) as content:
                    # Refuses members outside of the directory; Python before 3.11.4 has no such filter.
                    content.extraction_filter = getattr(tarfile, "data_filter", None)
                    content.extractall(unfinished)
            Path(unfinished, folder.name).replace(folder)
    except InputError:
        raise
    except Exception as error:  # the readers of archives raise nearly anything on broken bytes
        where = folder.parent if what == "unpacked" else published.url
        fix = f"run it again, put the file at {archive}, or unpack it elsewhere and set data.root"
        raise InputError(f"{archive.name} could not be {what}", where=where, got=error, fix=fix) from error


def _unfinished(archive: Path) -> str:
    """How the name of a directory begins in which an archive is downloaded and unpacked."""
    return f".{archive.name}-"


def _download(published: Published, target: Path) -> None:
    from torchvision.datasets.utils import download_url

    # torchvision would wait for ever for a server that stopped sending.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_WITHOUT_A_BYTE)
    try:
        download_url(published.url, target.parent, target.name)
    finally:
        socket.setdefaulttimeout(before)


def _check_sum(published: Published, archive: Path, where: object, fix: str) -> None:
    with archive.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 != published.sha256:
        what, allowed = f"{archive.name} is not the published archive", f"sha256 {published.sha256}"
        got = f"{archive.stat().st_size:,} bytes, sha256 {sha256}"
        raise InputError(what, where=where, got=got, allowed=allowed, fix=fix)
