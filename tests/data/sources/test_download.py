import contextlib
import hashlib
import http.server
import threading

import pytest

from ffds.data.sources.archive import fetch, md5_of
from ffds.errors import InputError

CONTENT = bytes(range(256)) * 20_000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at any path and writes down the ranges asked for."""

    ranges_honoured = True
    stops_after = len(CONTENT)
    lies_about_the_range = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/set.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if "gone" in self.path:
            self.send_error(404)
            return
        if not self.server.ranges_honoured:
            start = 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if start:
            said = 0 if self.server.lies_about_the_range else start
            self.send_header("Content-Range", f"bytes {said}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(CONTENT[start : max(start, self.server.stops_after)])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "set.tar.gz"


def part_of(target, content):
    target.parent.mkdir()
    part = target.with_name("set.tar.gz.part")
    part.write_bytes(content)
    return part


def test_a_whole_file(server, target, capsys):
    fetch(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert md5_of(target) == MD5
    assert [file.name for file in target.parent.iterdir()] == ["set.tar.gz"]
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 10
    assert lines[-1] == "set.tar.gz: 5.1 of 5.1 MB"


def test_an_interrupted_one_is_kept_and_gone_on_with(server, target):
    server.stops_after = 3_000_000
    with pytest.raises(
        InputError, match=r"(?s)could not be fetched.*ended after 3,000,000 of 5,120,000.*again"
    ):
        fetch(server.url, target, MD5)
    assert not target.exists()
    server.stops_after = len(CONTENT)
    fetch(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000000-"]


def test_a_server_without_ranges_starts_again(server, target):
    server.ranges_honoured = False
    part_of(target, CONTENT[:1000])
    fetch(server.url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_starts_again(server, target):
    part_of(target, CONTENT + b"more")
    fetch(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_complete_part_is_not_fetched_again(server, target):
    part_of(target, CONTENT)
    fetch(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("had", [b"", b"x" * 1000])
def test_another_content_is_removed(server, target, had):
    part_of(target, had)
    expected = MD5 if had else "0" * 32
    with pytest.raises(InputError, match=rf"another content than published(.*\n)+.*md5 {expected}"):
        fetch(server.url, target, expected)
    assert list(target.parent.iterdir()) == []


def test_another_range_than_asked_is_not_appended(server, target):
    server.lies_about_the_range = True
    part = part_of(target, CONTENT[:1000])
    with pytest.raises(InputError, match="another range than asked"):
        fetch(server.url, target, MD5)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_missing_file_and_a_missing_server(server, target):
    with pytest.raises(InputError, match="404"):
        fetch(server.url + ".gone", target, MD5)
    with pytest.raises(InputError, match="could not be fetched"):
        fetch("http://127.0.0.1:1/set.tar.gz", target, MD5)


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"could not be fetched(.*\n)+.*put the file at"):
        fetch(server.url, tmp_path / "file" / "set.tar.gz", MD5)
