import hashlib
import os
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ffds.data.sources.archive
from ffds.data.sources.archive import Archive
from ffds.errors import InputError
from ffds.files import held
from tests.said import heard


def make(path, names):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as content:
            for name in names:
                content.writestr(name, name)
    else:
        inner = path.parent / "inner"
        inner.write_text("text")
        with tarfile.open(path, "w:gz") as content:
            for name in names:
                content.add(inner, name)
        inner.unlink()
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=["set.tar.gz", "set.zip"])
def packed(request, tmp_path):
    sums = make(tmp_path / request.param, ["set/a", "set/b/c"])
    return Archive(f"http://127.0.0.1:1/{request.param}", sums, "set"), tmp_path


def test_it_is_unpacked_and_nothing_else_stays(packed):
    archive, root = packed
    folder = archive.unpacked(root, download=False)
    assert sorted(path.name for path in folder.rglob("*")) == ["a", "b", "c"]
    assert sorted(path.name for path in root.iterdir()) == sorted([lock_of(archive), "set", archive.file])


def lock_of(archive):
    return f".{archive.file}.lock"


def test_what_is_unpacked_already_is_taken_as_it_is(packed):
    archive, root = packed
    (root / "set").mkdir()
    (root / archive.file).write_text("not looked at")
    assert archive.unpacked(root, download=True) == root / "set"
    assert sorted(path.name for path in root.iterdir()) == ["set", archive.file]


def test_nothing_there_and_nothing_asked(tmp_path):
    assert Archive("http://127.0.0.1:1/set.zip", "", "set").unpacked(tmp_path, download=False) is None
    assert not list(tmp_path.iterdir())


def test_another_archive_of_that_name_is_refused(packed):
    archive, root = packed
    with (root / archive.file).open("ab") as content:
        content.write(b"more")
    with pytest.raises(InputError, match=r"is not the published archive(.*\n)+.*data.download=true"):
        archive.unpacked(root, download=False)
    assert not (root / "set").exists()


def test_a_failure_leaves_nothing_behind(packed, monkeypatch):
    archive, root = packed
    monkeypatch.setattr(ffds.data.sources.archive.Path, "replace", full_disk)
    with pytest.raises(InputError, match=r"could not be unpacked(.*\n)+.*No space"):
        archive.unpacked(root, download=False)
    assert sorted(path.name for path in root.iterdir()) == sorted([lock_of(archive), archive.file])


def full_disk(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("version", [sys.version_info, (3, 11, 2)], ids=["this Python", "without a filter"])
@pytest.mark.parametrize("name", ["../outside", "../../outside"])
def test_a_member_outside_the_root_is_refused(name, version, tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "set.tar.gz", "w:gz") as content:
        content.add(__file__, "set/a")
        member = content.gettarinfo(__file__)
        member.name = name
        with Path(__file__).open("rb") as file:
            content.addfile(member, file)
    sums = hashlib.md5((root / "set.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(ffds.data.sources.archive.sys, "version_info", version)
    with pytest.raises(InputError, match="could not be unpacked"):
        Archive("http://127.0.0.1:1/set.tar.gz", sums, "set").unpacked(root, download=False)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".set.tar.gz.lock", "root", "set.tar.gz"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_root_that_cannot_be_written(packed):
    archive, root = packed
    root.chmod(0o555)
    try:
        with pytest.raises(InputError, match=r"could not be unpacked(.*\n)+.*right to write"):
            archive.unpacked(root, download=False)
    finally:
        root.chmod(0o755)


@pytest.mark.parametrize("there", [True, False])
def test_of_two_processes_one_brings_it_and_the_other_waits(there, packed):
    archive, root = packed
    if not there:
        (root / archive.file).unlink()
    found = []
    other = threading.Thread(target=lambda: found.append(archive.unpacked(root, download=True)))
    with heard() as said:
        with held(root / lock_of(archive)):
            other.start()
            said.wait_for("waiting", other.is_alive)
            (root / "set").mkdir()
        other.join(60)
    assert found == [root / "set"]
    assert not list((root / "set").iterdir()), "it was unpacked again"
    assert said.getvalue() == "waiting for another process to bring set/\n"


def test_processes_that_unpack_at_once_all_get_it(packed):
    archive, root = packed
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: archive.unpacked(root, download=False), range(4)))
    assert found == [root / "set"] * 4


def test_without_a_lock_it_is_unpacked_or_says_why_not(packed, monkeypatch):
    archive, root = packed
    (root / lock_of(archive)).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(ffds.data.sources.archive.Path, "replace", full_disk)
        with pytest.raises(InputError, match=r"could not be unpacked(.*\n)+.*or .* set data.root$"):
            archive.unpacked(root, download=False)
    assert archive.unpacked(root, download=False).is_dir()


def test_a_root_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    archive = Archive("http://127.0.0.1:1/set.zip", "", "set")
    with pytest.raises(InputError, match=r"could not be fetched(.*\n)+.*put the file at"):
        archive.unpacked(tmp_path / "file" / "root", download=True)


def test_a_new_root_is_locked_too(tmp_path, monkeypatch):
    archive, root = Archive("http://127.0.0.1:1/set.zip", "", "set"), tmp_path / "new"
    monkeypatch.setattr(
        ffds.data.sources.archive, "fetch", lambda *_: seen.append(held(root / lock_of(archive)))
    )
    monkeypatch.setattr(ffds.data.sources.archive, "_unpack", lambda *_: None)
    seen = []
    archive.unpacked(root, download=True)
    assert seen == [None]
    assert (root / lock_of(archive)).is_file()


def test_it_is_fetched_when_asked_for(packed, monkeypatch):
    archive, root = packed
    content = (root / archive.file).read_bytes()
    (root / archive.file).unlink()
    monkeypatch.setattr(
        ffds.data.sources.archive, "fetch", lambda url, target, md5: target.write_bytes(content)
    )
    assert archive.unpacked(root, download=True).is_dir()
