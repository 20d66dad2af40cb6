import hashlib
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import ffds.data.archive
from ffds.data.archive import Archive
from ffds.errors import InputError


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
    assert sorted(path.name for path in root.iterdir()) == sorted(["set", archive.file])


def test_what_is_unpacked_already_is_taken_as_it_is(packed):
    archive, root = packed
    (root / "set").mkdir()
    (root / archive.file).write_text("not looked at")
    assert archive.unpacked(root, download=True) == root / "set"


def test_nothing_there_and_nothing_asked(tmp_path):
    assert Archive("http://127.0.0.1:1/set.zip", "", "set").unpacked(tmp_path, download=False) is None


def test_another_archive_of_that_name_is_refused(packed):
    archive, root = packed
    with (root / archive.file).open("ab") as content:
        content.write(b"more")
    with pytest.raises(InputError, match=r"is not the published archive(.*\n)+.*data.download=true"):
        archive.unpacked(root, download=False)
    assert not (root / "set").exists()


def test_a_failure_leaves_nothing_behind(packed, monkeypatch):
    archive, root = packed
    monkeypatch.setattr(ffds.data.archive.Path, "replace", full_disk)
    with pytest.raises(InputError, match=r"could not be unpacked(.*\n)+.*No space"):
        archive.unpacked(root, download=False)
    assert [path.name for path in root.iterdir()] == [archive.file]


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
    monkeypatch.setattr(ffds.data.archive.sys, "version_info", version)
    with pytest.raises(InputError, match="could not be unpacked"):
        Archive("http://127.0.0.1:1/set.tar.gz", sums, "set").unpacked(root, download=False)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "set.tar.gz"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_root_that_cannot_be_written(packed):
    archive, root = packed
    root.chmod(0o555)
    try:
        with pytest.raises(InputError, match=r"could not be unpacked(.*\n)+.*right to write"):
            archive.unpacked(root, download=False)
    finally:
        root.chmod(0o755)


def test_it_is_fetched_when_asked_for(packed, monkeypatch):
    archive, root = packed
    content = (root / archive.file).read_bytes()
    (root / archive.file).unlink()
    monkeypatch.setattr(ffds.data.archive, "fetch", lambda url, target, md5: target.write_bytes(content))
    assert archive.unpacked(root, download=True).is_dir()
