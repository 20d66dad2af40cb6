"""Original archives, unpacked and downloaded; and the three real packs, under their names and as Parquet."""

import contextlib
import functools
import hashlib
import http.server
import re
import shutil
import socket
import tarfile
import threading
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import ffds.data.sources.published
from ffds.data.decode import Stored
from ffds.data.long_tail import long_tail_counts, tail_counts, tail_rows
from ffds.data.open import open_source
from ffds.data.source import Source
from ffds.data.sources import cifar, tiny_imagenet
from ffds.data.sources.folder import labelled_files
from ffds.data.sources.published import Published, open_published
from ffds.errors import InputError
from ffds.files import try_lock
from ffds.recipes.schema import Data
from tests.standard_error import captured_stderr

PACKS = Path(__file__).parents[3] / "../shared/data"
with_packs = pytest.mark.skipif(not PACKS.is_dir(), reason="the real packs are not beside this checkout")
LOCK = ".{}.lock"
NOTHING = labelled_files([], Stored())


def write_archive(path, names):
    """An archive whose members hold their own names."""
    with zipfile.ZipFile(path, "w") if path.suffix == ".zip" else tarfile.open(path, "w:gz") as content:
        for name in names:
            if path.suffix == ".zip":
                content.writestr(name, name)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(name)
                content.addfile(member, BytesIO(name.encode()))


def published(archive, url="http://127.0.0.1:1"):
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Published("Set", f"{url}/{archive.name}", sha256, "set", "a", "label", 2, 0, 0)


@pytest.fixture(params=["set.tar.gz", "set.zip"])
def archive(request, tmp_path):
    file = tmp_path / "root" / request.param
    file.parent.mkdir()
    write_archive(file, ["set/a", "set/b/c"])
    return file


def opened(kind, root, download=False):
    """The folder from which the original files would be read."""
    data = Data(name="cifar10", root=str(root), download=download)
    source = open_published(data, kind, lambda folder: Source(str(folder), ("x", "y"), NOTHING, NOTHING))
    return Path(source.description)


def contents(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_it_is_unpacked_once_and_nothing_else_stays(archive):
    kind, root = published(archive), archive.parent
    folder = opened(kind, root)
    assert contents(root) == sorted(
        [LOCK.format(archive.name), archive.name, "set", "set/a", "set/b", "set/b/c"]
    )
    assert (folder / "b" / "c").read_text() == "set/b/c"
    archive.write_text("not looked at")
    assert opened(kind, root, download=True) == opened(kind, folder) == folder


@pytest.mark.parametrize("change", [lambda content: content + b"more", lambda content: content[:-20]])
def test_another_archive_of_that_name_is_refused(change, archive):
    kind = published(archive)
    archive.write_bytes(change(archive.read_bytes()))
    words = rf"not the published archive(.*\n)+.*bytes, sha256(.*\n)+.*{kind.sha256}(.*\n)+.*download=true"
    with pytest.raises(InputError, match=words):
        opened(kind, archive.parent)
    assert contents(archive.parent) == sorted([LOCK.format(archive.name), archive.name])


@pytest.mark.parametrize("lock", [True, False])
def test_a_failure_leaves_nothing_behind(lock, archive, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    kind, root = published(archive), archive.parent
    if not lock:  # then it is tried without one
        (root / LOCK.format(archive.name)).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(InputError, match=r"could not be unpacked(.*\n)+.*No space.*\n.*set data.root$"):
            opened(kind, root)
    assert contents(root) == sorted([LOCK.format(archive.name), archive.name])
    assert opened(kind, root).is_dir()


def test_what_a_killed_process_left_is_removed(archive):
    left = archive.with_name(f".{archive.name}-half")
    (left / "set").mkdir(parents=True)
    opened(published(archive), archive.parent)
    assert not left.exists()


@pytest.mark.parametrize("name", ["../outside", "../../outside", "/tmp/ffds-outside"])
def test_no_member_is_written_outside(name, tmp_path):
    """Even if a hostile archive had the published sum."""
    for suffix in (".tar.gz", ".zip"):
        archive = tmp_path / "a" / "root" / f"set{suffix}"
        archive.parent.mkdir(parents=True, exist_ok=True)
        write_archive(archive, ["set/a", name])
        with contextlib.suppress(InputError):
            opened(published(archive), archive.parent)
        # A tar that climbs is refused; otherwise the member is left out or unpacked below the directory.
        assert (archive.parent / "set").exists() == (suffix == ".zip" or name[0] == "/")
        assert not list(tmp_path.rglob("*outside*"))
        shutil.rmtree(archive.parent / "set", ignore_errors=True)
        assert not Path("/tmp/ffds-outside").exists()


@pytest.mark.parametrize("there", [True, False])
def test_of_two_processes_one_brings_it_and_the_other_waits(there, archive):
    kind, root, folders = published(archive), archive.parent, []
    if not there:
        archive.unlink()
    other = threading.Thread(target=lambda: folders.append(opened(kind, root, download=True)))
    with captured_stderr() as stderr:
        with try_lock(archive.with_name(LOCK.format(archive.name))):
            other.start()
            stderr.wait_for("waiting", other.is_alive)
            (root / "set").mkdir()
        other.join(60)
    assert folders == [root / "set"]
    assert contents(root / "set") == [], "it was unpacked again"
    assert stderr.getvalue() == f"waiting for another process that unpacks into {root}\n"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A directory and the address at which it can be downloaded from."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    directory = tmp_path / "served"
    directory.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_it_is_downloaded_when_asked_for(archive, served, tmp_path):
    directory, url = served
    kind, root, content = published(archive, url), tmp_path / "new", archive.read_bytes()
    with pytest.raises(InputError, match=r"could not be downloaded(.*\n)+.*404"):
        opened(kind, root, download=True)
    (directory / archive.name).write_bytes(content[:-20])
    with pytest.raises(InputError, match=rf"not the published archive(.*\n)+.*{kind.sha256}(.*\n)+.*again"):
        opened(kind, root, download=True)
    assert contents(root) == [LOCK.format(archive.name)]
    (directory / archive.name).write_bytes(content)
    assert contents(opened(kind, root, download=True)) == ["a", "b", "b/c"]
    assert (root / archive.name).read_bytes() == content
    assert len(list(root.iterdir())) == 3


def test_a_server_that_stops_or_is_missing_and_a_root_that_cannot_be_made(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(ffds.data.sources.published, "SECONDS_WITHOUT_A_BYTE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        kind = published(archive, f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(InputError, match=r"could not be downloaded(.*\n)+.*timed out"):
            opened(kind, tmp_path / "new", download=True)
    assert socket.getdefaulttimeout() is None
    with pytest.raises(InputError, match=r"could not be downloaded(.*\n)+.*put the file at"):
        opened(published(archive), tmp_path / "new", download=True)
    with pytest.raises(InputError, match=r"could not be downloaded(.*\n)+.*Not a directory"):
        opened(published(archive), archive / "below", download=True)


NAMES = {
    "cifar10": ("cifar10-if10", "label", {10: 20_431, 50: 13_996, 100: 12_406}),
    "cifar100": ("cifar100-if10", "fine_label", {10: 19_573, 50: 12_608, 100: 10_847}),
    "tiny-imagenet": ("tiny-imagenet-if10", "label", {10: 39_072, 50: 25_082, 100: 21_549}),
}


@with_packs
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("as_parquet", [False, True])
def test_subsets_of_the_packs(name, as_parquet):
    folder, column, totals = NAMES[name]
    given = {"name": "parquet", "label_column": column} if as_parquet else {"name": name}
    data = Data(root=str(PACKS / folder), **given)
    files = sorted((PACKS / folder).glob("train-*.parquet"))
    ranks = np.concatenate([pq.read_table(file, columns=["lt_rank"])["lt_rank"].to_numpy() for file in files])
    source = open_source(data)
    assert len(source.test) == 10_000
    for factor, total in totals.items():
        data = data.model_copy(update={"imbalance_factor": float(factor)})
        counts = np.array(long_tail_counts(max(source.counts), len(source.class_names), factor))
        assert tail_counts(source, data) == counts.tolist()
        rows = tail_rows(source, data)
        assert len(rows) == total
        np.testing.assert_array_equal(rows, np.flatnonzero(ranks < counts[source.train.labels]))


@with_packs
def test_a_pack_that_is_another_than_named():
    with pytest.raises(InputError, match=r"this is not CIFAR-10\n.*\n.*200 classes"):
        open_source(Data(name="cifar10", root=str(PACKS / "tiny-imagenet-if10")))


def test_what_is_downloaded_is_published_with_its_sum_and_comes_encrypted():
    for kind in (*cifar.PUBLISHED.values(), tiny_imagenet.PUBLISHED):
        assert kind.url.startswith("https://")
        assert re.fullmatch("[0-9a-f]{64}", kind.sha256)


def write_parquet(root, **counts):
    """Splits of so many tiny images for each of CIFAR-10's classes."""
    content = BytesIO()
    Image.new("RGB", (1, 1)).save(content, "PPM")
    for split, of_class in counts.items():
        labels = np.repeat(np.arange(10), of_class)
        images = [{"bytes": content.getvalue(), "path": None}] * len(labels)
        pq.write_table(pa.table({"img": images, "label": labels}), root / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("split", ["val", "valid", "validation", "eval"])
@pytest.mark.parametrize("in_directories", [False, True])
def test_the_second_split_is_the_test_set_under_any_usual_name(tmp_path, split, in_directories):
    """Also where the original files have a directory of that name."""
    write_parquet(tmp_path, train=[3] * 10, **{split: [2] * 10})
    if in_directories:
        for file in list(tmp_path.iterdir()):
            directory = tmp_path / file.name.partition("-")[0]
            directory.mkdir()
            file.rename(directory / "0000.parquet")
    kind = Published("Set", "https://x/set.zip", "", "set", "val", "label", 10, 3, 2)
    data = Data(name="cifar10", root=str(tmp_path))
    for one in (data, data.model_copy(update={"test_split": split})):
        source = open_published(one, kind, None)
        assert (source.counts, len(source.test), source.validation) == ((3,) * 10, 20, None)
        assert source.test_split == split


def test_parquet_files_of_a_part_are_refused(tmp_path):
    full = {"train": [5000] * 10, "test": [1000] * 10}
    write_parquet(tmp_path, **full)
    data = Data(name="cifar10", root=str(tmp_path))
    assert open_source(data).counts == (5000,) * 10
    for split, words in (
        ("train", "49,998 training images, not 50,000"),
        ("test", "9,998 test images, not 10,000"),
    ):
        write_parquet(tmp_path, **full | {split: [full[split][0] - 2, *full[split][1:]]})
        with pytest.raises(InputError, match=rf"not all of CIFAR-10: {words}\n.*\n.*0: .*998\n"):
            open_source(data)
        write_parquet(tmp_path, **full)
