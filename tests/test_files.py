"""A file is there whole, or as it was before."""

import errno
import json
import math
import os
from pathlib import Path

import pytest

from ffds.files import flush_directory, write_bytes, write_json, write_text


def test_bytes(tmp_path):
    path = tmp_path / "file"
    for content in (b"", b"\x00\xff" * 5000):
        write_bytes(path, content)
        assert path.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_text_is_utf8_without_translation(tmp_path):
    write_text(tmp_path / "file", "größe\r\n±\n")
    assert (tmp_path / "file").read_bytes() == b"gr\xc3\xb6\xc3\x9fe\r\n\xc2\xb1\n"


def test_json(tmp_path):
    write_json(tmp_path / "file", {"a": [1, None, "é"]})
    text = (tmp_path / "file").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"a": [1, None, "é"]}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_word_for_it(value, tmp_path):
    write_json(tmp_path / "file", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"a": value})
    assert (tmp_path / "file").read_text() == "1\n"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_was_there_stays_if_writing_fails(call, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"after")
    monkeypatch.undo()
    assert path.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names a descriptor by /proc")
def test_on_the_disk_before_it_is_in_its_place(tmp_path, monkeypatch):
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


def test_a_missing_directory_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "missing" / "file", b"")
    with pytest.raises(FileNotFoundError):
        flush_directory(tmp_path / "missing")
