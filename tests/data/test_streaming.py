"""Images in their files against the same images in memory: equal to the last bit; and the workers' fate."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from ffds.data import decode as decoding
from ffds.data import open_dataset
from ffds.data.decode import FileImages, Stored
from ffds.data.loader import EvalBatches, TrainBatches
from ffds.data.streaming import PIECE, StreamedImages, decode_pieces
from ffds.errors import FfdsError, InputError
from ffds.recipes.schema import Data
from tests.data.pictures import bomb, write_folder, write_picture
from tests.data.test_decode import special_files

CPU = torch.device("cpu")
SETTINGS = {"image_size": 10, "eval_resize": 12, "augment": ("resized-crop", "hflip"), "cache": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    return write_folder(root, {"ant": 40, "bee": 20, "owl": 11}, {"ant": 5, "bee": 5, "owl": 7})


def data(root, **settings):
    return Data(name="folder", root=str(root), **SETTINGS | settings)


@pytest.fixture(scope="module")
def in_memory(root):
    return open_dataset(data(root, in_memory=True))


@pytest.fixture(scope="module")
def streamed(root):
    return open_dataset(data(root, in_memory=False, workers=2))


def check_equal(batches, expected):
    batches, expected = list(batches), list(expected)
    assert len(batches) == len(expected) > 0
    for one, other in zip(batches, expected, strict=True):
        assert one.global_size == other.global_size
        for ours, theirs in zip(one[:3], other[:3], strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
        assert one.images.is_contiguous(memory_format=torch.channels_last)


def train(dataset, root, batch_size=16, **ranks):
    return TrainBatches(dataset.train, data(root), batch_size=batch_size, seed=4, device=CPU, **ranks)


def evaluate(split, root, batch_size=9, **ranks):
    return EvalBatches(split, data(root), batch_size=batch_size, device=CPU, **ranks)


def test_it_behaves_like_the_array_in_memory(in_memory, streamed):
    array, images = in_memory.train.images, streamed.train.images
    assert type(images) is StreamedImages
    assert (images.shape, len(images)) == (array.shape, len(array)) == ((71, 12, 12, 3), 71)
    for index in (5, -1, slice(3, 9), np.array([70, 0, 0]), streamed.train.labels == 2, slice(0)):
        np.testing.assert_array_equal(images[index], array[index], strict=True)
    np.testing.assert_array_equal(np.asarray(images), array)
    part = streamed.train.take(some := np.array([3, 60, 3]))
    assert type(part.images) is StreamedImages
    np.testing.assert_array_equal(part.images[:], array[some])
    np.testing.assert_array_equal(part.labels, in_memory.train.labels[some])


@pytest.mark.parametrize(("batch_size", "start_step"), [(1, 69), (16, 1), (70, 0), (500, 0)])
def test_training_batches_are_bit_equal(batch_size, start_step, in_memory, streamed, root):
    for epoch in (0, 3):
        check_equal(*(train(one, root, batch_size).epoch(epoch, start_step) for one in (streamed, in_memory)))


def test_an_evaluation_during_an_epoch(in_memory, streamed, root):
    ours, theirs = (train(one, root).epoch(0) for one in (streamed, in_memory))
    check_equal([next(ours)], [next(theirs)])
    check_equal(*(evaluate(one.test, root) for one in (streamed, in_memory)))
    check_equal(ours, theirs)


def test_each_rank_decodes_its_rows_only(in_memory, root, monkeypatch):
    decoded, decode = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *given: decoded.append(given) or decode(*given))
    own = open_dataset(data(root, in_memory=False, workers=0))
    for rank in range(3):
        ranks = {"rank": rank, "world_size": 3}
        ours, theirs = (list(train(one, root, **ranks).epoch(2)) for one in (own, in_memory))
        check_equal(ours, theirs)
        assert len(decoded) == sum(len(batch.labels) for batch in ours)
        check_equal(*(evaluate(one.test, root, 5, **ranks) for one in (own, in_memory)))
        decoded.clear()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_stops_at_its_batch_and_is_named(workers, tmp_path):
    write_folder(tmp_path, {"a": 6, "b": 6}, {"a": 1, "b": 1})
    (tmp_path / "train" / "b" / "002.jpg").write_bytes(b"GIF89a")
    own = open_dataset(data(tmp_path, in_memory=False, workers=workers))
    assert own.class_counts == [6, 6]
    with pytest.raises(InputError, match=r"cannot be read\n.*train/b/002\.jpg\n(.*\n)*.*on_bad_image=skip"):
        list(train(own, tmp_path, 4).epoch(0))
    assert not multiprocessing.active_children()


def test_what_cannot_be_opened_has_no_digest(tmp_path):
    write_folder(tmp_path, {"a": 6, "b": 6}, {"a": 2, "b": 2})
    for name in special_files(tmp_path / "train" / "b", outside=False):
        (place := tmp_path / "train" / "a" / name).symlink_to(tmp_path / "train" / "b" / name)
        split = open_dataset(data(tmp_path, in_memory=False)).train
        with pytest.raises(InputError, match=rf"cannot be read\n.*{place}\n.*no regular file"):
            split.digest  # noqa: B018
        place.unlink()


@pytest.mark.parametrize("in_memory", [True, False])
def test_all_that_cannot_be_read_is_left_out_wherever_images_are_kept(in_memory, tmp_path):
    write_folder(tmp_path, {"a": 6, "b": 6}, {"a": 2, "b": 2})
    ants, sound = tmp_path / "train" / "a", (tmp_path / "train" / "a" / "000.jpg").read_bytes()
    faults = special_files(ants, outside=False) | {
        "empty.png": "no bytes",
        "cut.jpg": "truncated",
        "flipped.jpg": "known format",
    }
    faults |= {"bomb.png": "DecompressionBomb"}
    for name, content in {
        "empty.png": b"",
        "cut.jpg": sound[: len(sound) // 2],
        "flipped.jpg": bytes([sound[0] ^ 1]) + sound[1:],
        "bomb.png": bomb(12_000),
    }.items():
        (ants / name).write_bytes(content)
    (tmp_path / "test" / "b" / "empty.png").touch()
    (ants / "directory.png").mkdir()
    dataset = open_dataset(data(tmp_path, in_memory=in_memory, workers=2, on_bad_image="skip", augment=()))
    assert dataset.class_counts == [6, 6]
    assert len(dataset.test) == 4
    places = [ants / name for name in sorted(faults)] + [tmp_path / "test" / "b" / "empty.png"]
    assert [line.split(": ")[0] for line in dataset.skipped] == list(map(str, places))
    for place, line in zip(places[:-1], dataset.skipped, strict=False):
        assert faults[place.name] in line


SIDE = 12
SHAPE = (SIDE, SIDE, 3)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pictures")
    return tuple(write_picture(directory / f"{k:02d}.jpg", k) for k in range(PIECE))


def decoded(paths, pieces, workers=2, stored=Stored(SIDE), shape=SHAPE):  # noqa: B008
    return decode_pieces(FileImages(tuple(paths), stored), shape, pieces, workers)


def pids():
    return sorted(child.pid for child in multiprocessing.active_children())


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 1, 2 + len(os.sched_getaffinity(0))])
@pytest.mark.parametrize("size", [1, PIECE])
def test_pieces_come_in_order_with_the_pixels_of_their_files(workers, size, paths, capfd):
    order = np.random.default_rng(size).permutation(np.arange(2 * PIECE) % len(paths))
    pieces = [order[start : start + size] for start in range(0, len(order), size)]
    images = [images.copy() for images, faults in decoded(paths, pieces, workers) if not faults]
    expected = FileImages(paths, Stored(SIDE)).read(order, "stop").images
    np.testing.assert_array_equal(np.concatenate(images), expected)
    assert pids() == []
    assert capfd.readouterr().err == "", "more workers than cores are no reason to warn"


@pytest.mark.parametrize("workers", [0, 2])
def test_another_size_is_an_error(workers, tmp_path):
    files = [write_picture(tmp_path / f"{k}.png", k, size) for k, size in enumerate([(4, 4), (4, 4), (4, 5)])]
    with pytest.raises(InputError, match=r"differ in size\n.*2\.png\n.*4x5\n.*4x4"):
        list(decoded(files, [np.arange(2), np.arange(3)], workers, Stored(), (4, 4, 3)))


def test_signals_are_for_the_training_process(paths):
    with closing(decoded(paths, [np.arange(2)] * 20)) as pieces:
        next(pieces), next(pieces)  # both have begun
        before = pids()
        for pid in before:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert sum(len(images) for images, _ in pieces) == 36
    assert len(before) == 2
    with closing(decoded(paths, [np.arange(2)] * 20)) as pieces:
        next(pieces)
    assert pids() == [], "left where the reader stops early"


def test_a_killed_worker_is_named_with_its_image(paths, monkeypatch, tmp_path):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # another DataLoader of this process may have set one
    begun, decode = tmp_path / "begun", decoding.decode

    def slowly(content, stored):
        if content == paths[2]:
            begun.touch()
            time.sleep(1000)
        return decode(content, stored)

    monkeypatch.setattr(decoding, "decode", slowly)
    pieces = decoded(paths, [np.arange(0, 2), np.arange(2, 4), np.arange(4, 6)])
    next(pieces)
    wait_until(begun.exists)
    killed = pids()[1]
    os.kill(killed, signal.SIGKILL)
    time.sleep(0.5)  # nothing is raised in other code
    message = rf"a decoding worker \(pid {killed}\) was killed by SIGKILL\n  where:   {paths[2]}\n"
    with pytest.raises(FfdsError, match=message) as caught:
        list(pieces)
    assert caught.value.exit_code == 2
    assert pids() == []


def test_a_worker_that_exits_by_itself(paths, monkeypatch):
    monkeypatch.setattr(decoding, "decode", lambda *_: os._exit(3))
    with pytest.raises(FfdsError, match=rf"decoding worker .* ended with exit code 3\n.*{paths[0]}"):
        list(decoded(paths, [np.arange(2)], 1))


SCRIPT = """
import multiprocessing, sys, time
from pathlib import Path
import numpy as np
from ffds.data import decode
from ffds.data.streaming import decode_pieces
end, *paths = sys.argv[1:]
files, original = decode.FileImages(tuple(map(Path, paths)), decode.Stored(12)), decode.decode
decode.decode = lambda path, stored: time.sleep(600) if path == files.paths[1] else original(path, stored)
pieces = decode_pieces(files, (12, 12, 3), [np.array([k > 1]).astype(int) for k in range(20)], 2)
next(pieces)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if end == "killed":
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["killed", "exits"])
def test_workers_end_with_their_parent_and_need_no_main_guard(end, paths, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", end, *paths[:2]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        started = process.stdout.readline().split()
        if end == "killed":
            process.kill()
    assert len(started) == 2
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
