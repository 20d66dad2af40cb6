"""A file is there whole or as it was before; a lock ends with its holder."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from ffds.errors import InputError
from ffds.files import is_locked, lock_or_wait, try_lock, write_bytes, write_files, write_json, write_text
from tests.full_disk import room_for


def test_contents(tmp_path):
    file = tmp_path / "file"
    for content in (b"", b"\x00\xff" * 5000):
        write_bytes(file, content)
        assert file.read_bytes() == content
    write_text(file, "größe\r\n±\n")
    assert file.read_bytes() == b"gr\xc3\xb6\xc3\x9fe\r\n\xc2\xb1\n", "UTF-8, no translation of line ends"
    write_json(file, {"a": [1, None, "é"]})
    assert file.read_text().endswith("}\n")
    assert json.loads(file.read_text()) == {"a": [1, None, "é"]}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_old_file_stays_if_writing_fails(call, tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_bytes(file, b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(InputError, match="disk full while saving file below"):
        write_bytes(file, b"after")
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("full", [0, 1, 2])
def test_files_that_belong_together_are_all_new_or_all_as_before(full, tmp_path):
    files = [tmp_path / name for name in "abc"]
    before = dict.fromkeys(files, b"before")
    write_files(before)
    after = {file: b"after" * (100 if place == full else 1) for place, file in enumerate(files)}
    with room_for(100), pytest.raises(InputError, match=r"cannot save a, b, c below .*: File too large"):
        write_files(after)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_files(after)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == after


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names a descriptor by /proc")
def test_contents_are_flushed_before_the_rename_and_the_directory_after(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(Path(f"/proc/self/fd/{fd}").readlink()), fsync(fd))
    )
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("replace"), replace(self, to)))
    write_bytes(tmp_path / "file", b"content")
    content, *rest = events
    assert content.parent == tmp_path
    assert rest == ["replace", tmp_path]


def test_one_holder_at_a_time(tmp_path, capsys):
    file = tmp_path / "lock"
    assert not is_locked(file)
    assert not file.exists()
    first, later = try_lock(file), []
    assert try_lock(file) is None
    assert is_locked(file)
    thread = threading.Thread(target=lambda: later.append(lock_or_wait(file, "waiting")))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    first.close()
    thread.join(60)
    assert is_locked(file)
    later[0].close()
    assert not is_locked(file)
    assert capsys.readouterr().err == "waiting\n"
    lock_or_wait(file, "waiting").close()
    assert capsys.readouterr().err == ""


def test_a_place_that_cannot_be_locked_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot lock") as caught:
        try_lock(tmp_path)
    assert str(tmp_path) in str(caught.value)
