"""Decoding processes: their pixels, their order, and what becomes of them."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ffds.data.decode import FileImages, Stored
from ffds.data.streaming import PIECE, Decoders
from ffds.errors import FfdsError, InputError
from tests.data.pictures import write_picture

SIDE = 12
STORED = Stored(SIDE)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    return tuple(write_picture(root / f"{k:02d}.jpg", k) for k in range(2 * PIECE))


@pytest.fixture(scope="module")
def expected(paths):
    return FileImages(paths, STORED).read(np.arange(len(paths)), "stop").images


@pytest.fixture(scope="module")
def two():
    return Decoders(STORED, (SIDE, SIDE, 3), 2)


def decoders(workers):
    return Decoders(STORED, (SIDE, SIDE, 3), workers)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(found):
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def cut(count, size):
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


@pytest.fixture(scope="module", params=[0, 1, 3])
def some(request):
    """A few slots only, so that all are used again and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ffds.data.streaming.AHEAD", 4)
        return decoders(request.param)


@pytest.mark.parametrize("size", [1, 5, PIECE])
def test_pieces_come_in_order_with_the_pixels_of_their_files(some, size, paths, expected):
    order = np.random.default_rng(size).permutation(len(paths))
    pieces = [order[piece] for piece in cut(len(paths), size)]
    found = [images.copy() for images, faults in some.decode(paths, pieces) if not faults]
    assert [len(images) for images in found] == [len(piece) for piece in pieces]
    np.testing.assert_array_equal(np.concatenate(found), expected[order])


def test_two_readers_at_once_get_their_own(two, paths, expected):
    readers = [two.decode(paths, cut(len(paths), 3)), two.decode(paths, cut(len(paths), 3)[::-1])]
    found = [[], []]
    for k in (0, 0, 1, 0, 1, 1, 1, 0, *[0, 1] * 18):
        found[k].append(next(readers[k])[0].copy())
    assert all(next(reader, None) is None for reader in readers)
    np.testing.assert_array_equal(np.concatenate(found[0]), expected)
    np.testing.assert_array_equal(np.concatenate(found[1][::-1]), expected)


def test_a_reader_that_left_disturbs_nobody(two, paths, expected):
    next(two.decode(paths, cut(len(paths), 2)))
    (images, faults), *rest = two.decode(paths, [np.array([7, 3])])
    assert not faults
    assert not rest
    np.testing.assert_array_equal(images, expected[[7, 3]])


def test_what_cannot_be_read_is_told_by_its_place(two, paths, tmp_path, expected):
    bad, gone = tmp_path / "bad.jpg", tmp_path / "gone.jpg"
    bad.write_bytes(paths[0].read_bytes()[:200])
    (images, faults), *_ = two.decode((*paths[:2], bad, paths[3], gone), [np.arange(5)])
    assert list(faults) == [2, 4]
    assert "No such file" in faults[4]
    np.testing.assert_array_equal(images[[0, 1, 3]], expected[[0, 1, 3]])


def test_another_size_is_an_error_and_no_end(two, paths, tmp_path):
    files = [write_picture(tmp_path / f"{k}.png", k, size) for k, size in enumerate([(4, 4), (4, 4), (4, 5)])]
    as_they_are = Decoders(Stored(), (4, 4, 3), 1)
    with pytest.raises(InputError, match=r"differ in size\n.*2\.png\n.*4x5\n.*4x4"):
        list(as_they_are.decode(files, [np.arange(2), np.arange(3), np.arange(2)]))
    found = [images.copy() for images, _ in as_they_are.decode(files, [np.arange(2)])]
    np.testing.assert_array_equal(
        found[0], FileImages(tuple(files), Stored()).read(np.arange(2), "stop").images
    )


def test_signals_are_for_the_one_who_asks(two, paths, expected):
    next(two.decode(paths, cut(len(paths), 2)))
    pids = two.pids
    for pid in pids:
        assert os.getpgid(pid) != os.getpgid(0), "Ctrl-C would reach it"
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    found = [images.copy() for images, _ in two.decode(paths, cut(len(paths), PIECE))]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert two.pids == pids


@on_linux
def test_the_image_a_killed_worker_was_at_is_named(paths, tmp_path, expected):
    """A pipe that nobody writes to: whoever reads it hangs there."""
    hanging = tmp_path / "hanging.jpg"
    os.mkfifo(hanging)
    files = (*paths[:4], hanging, *paths[4:])
    own = decoders(2)
    reader = own.decode(files, [np.arange(0, 2), np.arange(2, 6), np.arange(6, 8)])
    np.testing.assert_array_equal(next(reader)[0], expected[:2])
    pids = own.pids
    wait_until(lambda: own._memory.position[1] == 2)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(FfdsError) as caught:
        next(reader)
    message = str(caught.value)
    assert f"decoding worker 1 (pid {pids[1]}) was killed by SIGKILL\n  where:   {hanging}\n" in message
    assert f"image 3 of the 4 from {files[2]} to {files[5]}" in message
    assert caught.value.exit_code == 1
    assert not any(map(is_alive, pids))
    found = [images.copy() for images, _ in own.decode(paths, cut(len(paths), PIECE))]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert not set(own.pids) & set(pids)


def test_a_worker_killed_while_it_waits(two, paths, expected):
    list(two.decode(paths, cut(4, 2)))
    os.kill(two.pids[0], signal.SIGKILL)
    with pytest.raises(FfdsError, match=rf"decoding worker 0 .* was killed by SIGKILL\n.*{paths[0].name}"):
        list(two.decode(paths, cut(4, 2)))


def test_a_worker_that_cannot_start(paths, monkeypatch, capfd):
    monkeypatch.setattr("ffds.data.streaming._COMMAND", "import sys; sys.exit(3)")
    with pytest.raises(FfdsError, match=r"decoding worker 0 .* ended with exit code 3"):
        list(decoders(1).decode(paths, cut(4, 2)))


@on_linux
def test_nothing_is_left_when_nobody_needs_them(paths):
    own = decoders(2)
    reader = own.decode(paths, cut(len(paths), 2))
    next(reader)
    pids = own.pids
    assert all(map(is_alive, pids))
    del reader, own
    gc.collect()
    assert not any(map(is_alive, pids))


SCRIPT = """
import os, sys, time
from pathlib import Path
import numpy as np
from ffds.data.streaming import Decoders
from ffds.data.decode import Stored
paths = [Path(name) for name in sys.argv[1:]]
decoders = Decoders(Stored(12), (12, 12, 3), 2)
reader = decoders.decode(paths, [np.arange(2)] * 100)
next(reader)
print(*decoders.pids, "torch" in sys.modules, flush=True)
time.sleep(600)
"""


@on_linux
def test_they_end_with_a_killed_script_that_has_no_main_guard(paths, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), *map(str, paths[:2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            *pids, torch_is_there = process.stdout.readline().split()
        finally:
            process.kill()
    assert len(pids) == 2
    assert torch_is_there == "False"
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(
    ("shape", "workers", "pieces"),
    [((256, 256, 3), 2, 16), ((256, 256, 3), 10, 20), ((1024, 1024, 3), 1, 2), ((3000, 4000, 3), 4, 4)],
)
def test_large_images_are_not_decoded_far_ahead(shape, workers, pieces):
    assert Decoders(Stored(), shape, workers)._layout.slots == pieces
