"""Decoded images on disk: never stale, never half written, never in the way."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ffds.data import decode as decoding
from ffds.data.cache import cache_directory, clear, entries
from ffds.data.open import open_dataset
from ffds.errors import InputError
from ffds.files import try_lock
from ffds.recipes.schema import Data
from tests.data.pictures import same, write_picture
from tests.data.test_pack import DIGITS, as_pack, write_pack


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache that is empty, and where it keeps images."""
    monkeypatch.setenv("FFDS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def root(tmp_path):
    """A folder of 12 images to train on and 8 to test on, all different."""
    counts = {"train/a": 4, "train/b": 8, "test/a": 4, "test/b": 4}
    places = [f"{directory}/{k}.bmp" for directory, count in counts.items() for k in range(count)]
    for seed, place in enumerate(places):
        write_picture(tmp_path / "images" / place, seed, (6, 6))
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """Every image that is decoded from now on."""
    done, decode = [], decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *given: done.append(given) or decode(*given))
    return done


def folder(root, **settings):
    # Images that may be left in their files are looked at to find their size; these may not.
    return Data(name="folder", root=str(root), in_memory=True, **settings)


def check_as_without(data):
    """The dataset, which is the one that is opened without a cache."""
    dataset = open_dataset(data)
    same(dataset, open_dataset(data.model_copy(update={"cache": False})))
    return dataset


SETTINGS = [{}, {"image_size": 4}, {"imbalance_factor": 2.0}, {"validation": 0.3}, {"on_bad_image": "skip"}]


def test_the_second_opening_or_that_of_a_copy_gives_the_same_images_and_decodes_none(root, decoded):
    first = [check_as_without(folder(root, **settings)) for settings in SETTINGS]
    copy = shutil.copytree(root, root.parent / "copy", copy_function=shutil.copyfile)
    del decoded[:]
    for settings, dataset in zip(SETTINGS, first, strict=True):
        same(dataset, open_dataset(folder(root, **settings)))
    same(first[0], open_dataset(folder(copy)))
    assert decoded == []


def test_a_pack_is_decoded_once_for_each_tail_that_is_cut_from_it(tmp_path, decoded, place):
    write_pack(DIGITS, tmp_path / "pack")
    tails = [as_pack(DIGITS, tmp_path / "pack", imbalance_factor=factor) for factor in (10.0, 50.0)]
    for data in tails:
        check_as_without(data)
    assert len(list(place.glob("*.npz"))) == 3  # two training sets, one test set
    del decoded[:]
    for data in tails:
        open_dataset(data)
    assert decoded == []


def test_images_in_memory_are_not_kept_and_it_can_be_switched_off(root, place, decoded):
    open_dataset(DIGITS)
    open_dataset(folder(root, cache=False))
    assert not place.exists()
    open_dataset(folder(root))
    open_dataset(folder(root, cache=False))
    assert len(decoded) == 60


def test_a_changed_byte_is_seen_whatever_the_times_say(root):
    open_dataset(folder(root))
    file = root / "train" / "a" / "2.bmp"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    check_as_without(folder(root))


def test_a_file_that_changes_while_it_is_decoded_is_not_kept(root, place, monkeypatch):
    file, decode = root / "train" / "a" / "0.bmp", decoding.decode
    late = file.read_bytes()
    changed = late[:-1] + bytes([late[-1] ^ 1])
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", lambda *given: (file.write_bytes(changed), decode(*given))[1])
        open_dataset(folder(root))
    assert len(list(place.glob("*.npz"))) == 1  # the test set's
    file.write_bytes(late)
    check_as_without(folder(root))


def test_bad_images_are_left_out_again_and_named_where_they_lie(root, tmp_path, decoded):
    bad, data = root / "train" / "a" / "1.bmp", folder(root, on_bad_image="skip")
    bad.write_bytes(b"nothing")
    first = check_as_without(data)
    assert len(first.train) == 11
    assert [str(bad) in line for line in first.skipped] == [True]
    del decoded[:]
    assert open_dataset(data).skipped == first.skipped
    assert decoded == []
    shutil.copytree(root, tmp_path / "copy")
    moved = open_dataset(folder(tmp_path / "copy", on_bad_image="skip"))
    assert [str(tmp_path / "copy/train/a/1.bmp") in line for line in moved.skipped] == [True]
    same(first, moved)
    with pytest.raises(InputError, match=r"cannot be read\n.*1\.bmp"):
        open_dataset(folder(root))
    bad.rename(bad.with_name("1a.bmp"))
    assert check_as_without(data).skipped == tuple(line.replace("1.bmp", "1a.bmp") for line in first.skipped)


def training_entry(place):
    (entry,) = (file for file in place.glob("*.npz") if len(np.load(file)["images"]) == 12)
    return entry


def test_no_flipped_bit_reaches_the_images(root, place, capsys):
    right = open_dataset(folder(root)).train.images
    file = training_entry(place)
    sound = file.read_bytes()
    noticed = 0
    for position in range(0, len(sound), 13):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        np.testing.assert_array_equal(open_dataset(folder(root)).train.images, right)
        noticed += str(file) in capsys.readouterr().err
    assert noticed > len(sound) / 13 * 0.6


@pytest.mark.parametrize("length", [0, 500, -1])
def test_a_truncated_file_is_named_and_made_anew(length, root, place, capsys, decoded):
    right = open_dataset(folder(root))
    file = training_entry(place)
    file.write_bytes(file.read_bytes()[:length])
    del decoded[:]
    same(open_dataset(folder(root)), right)
    assert len(decoded) == 12
    message = capsys.readouterr().err
    assert message.startswith(f"warning: {file} is damaged")
    assert message.count("\n") == 1
    same(open_dataset(folder(root)), right)
    assert (len(decoded), capsys.readouterr().err) == (12, "")


def test_a_pickle_is_not_opened(root, place, tmp_path, capsys):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "canary",)

    open_dataset(folder(root))
    file, hostile = training_entry(place), np.array([Hostile()], dtype=object)
    for images, about in ((hostile, np.load(file)["about"]), (np.zeros(1), hostile)):
        np.savez(file, images=images, about=about)
        check_as_without(folder(root))
        assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()


def check_warned(capsys, reason=""):
    """One line for the training set and one for the test set."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("warning: decoded images are not kept on disk")
        assert reason in line
        assert "data.cache=false" in line


def test_a_place_that_cannot_be_written(root, monkeypatch, capsys):
    monkeypatch.setenv("FFDS_CACHE", str(root / "train" / "a" / "0.bmp"))
    open_dataset(folder(root))
    check_warned(capsys)


def test_a_lock_that_cannot_be_had(root, place, capsys, decoded):
    first = open_dataset(folder(root))
    for file in place.glob("*.lock"):
        file.unlink()
        file.mkdir()
    del decoded[:]
    same(first, open_dataset(folder(root)))
    assert (decoded, capsys.readouterr().err) == ([], ""), "what is there needs no lock"
    for file in place.glob("*.npz"):
        file.unlink()
    same(first, open_dataset(folder(root)))
    check_warned(capsys, "Is a directory")
    assert not list(place.glob("*.npz"))


def test_no_home_and_no_place(root, monkeypatch, capsys):
    monkeypatch.delenv("FFDS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(InputError, match="FFDS_CACHE=DIR"):
        cache_directory()
    open_dataset(folder(root))
    check_warned(capsys)


def test_it_leaves_room_for_others(root, place, monkeypatch, capsys):
    monkeypatch.setattr("ffds.data.cache.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    open_dataset(folder(root))
    check_warned(capsys, "of 1 bytes")
    assert not list(place.glob("*.npz"))


OPEN = """
import resource, sys
from ffds.data.open import open_dataset
from ffds.recipes.schema import Data
data = Data(name="folder", root=sys.argv[1], in_memory=True)
"""
FULL_DISK = """
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))  # writing beyond fails as on a full disk
print(len(open_dataset(data).train))
"""
KILLED = """
import os, signal
import numpy as np
def half(file, **arrays):
    file.write(arrays["images"].tobytes()[:300])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
np.savez = half
open_dataset(data)
"""


def script(code, *arguments):
    command = [sys.executable, "-c", OPEN + code, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def suffixes(place):
    return sorted(file.suffix for file in place.iterdir())


def test_a_full_disk(root, place):
    process = script(FULL_DISK, root)
    out, message = process.communicate()
    assert (process.returncode, out) == (0, "12\n")
    assert message.startswith("warning: decoded images are not kept on disk: ")
    assert message.count("\n") == 2  # the training set's and the test set's
    assert suffixes(place) == [".lock", ".lock"]


def test_a_process_killed_while_it_writes(root, place):
    process = script(KILLED, root)
    assert process.communicate() == ("", "")
    assert process.returncode == -9
    assert suffixes(place) == [".lock", ".part"]
    check_as_without(folder(root))
    assert suffixes(place) == [".lock", ".lock", ".npz", ".npz"]


def test_what_killed_processes_left_is_removed_at_the_next_writing_but_not_what_is_being_written(root, place):
    place.mkdir(parents=True)
    for name in ("killed", "writing"):
        (place / f"{name}.part").write_bytes(b"half")
    with try_lock(place / "writing.lock"):
        open_dataset(folder(root))
        assert [file.name for file in place.glob("*.part")] == ["writing.part"]


SLOWLY = """
import hashlib, os, time
from ffds.data import decode as decoding
decode = decoding.decode
def slowly(content, stored):
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(float(sys.argv[3]))
    return decode(content, stored)
decoding.decode = slowly
print(hashlib.sha256(open_dataset(data).train.images).hexdigest())
"""
WAITING = "another process is decoding the same images: waiting for it"


def test_processes_that_open_the_same_images_at_once_decode_them_once(root, tmp_path):
    started = [script(SLOWLY, root, tmp_path / "log", 0.2) for _ in range(3)]
    ended = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({out for out, _ in ended}) == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 20
    assert {line for _, message in ended for line in message.splitlines()} <= {WAITING}


def test_a_process_that_dies_while_others_wait_for_it(root, tmp_path):
    log = tmp_path / "log"
    with script(SLOWLY, root, log, 60) as slow:
        while slow.poll() is None and not log.exists():
            time.sleep(0.01)
        waiting = script(SLOWLY, root, log, 0)
        message = waiting.stderr.readline()
        slow.kill()
    waiting.communicate()
    assert (message, waiting.returncode) == (f"{WAITING}\n", 0)
    assert log.read_text().splitlines().count(str(waiting.pid)) == 20


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    places = {
        ("/own", "/xdg"): "/own/images",
        ("~/own", "/xdg"): "/home/me/own/images",
        ("", "/xdg"): "/xdg/ffds/images",
        ("", "relative"): "/home/me/.cache/ffds/images",
        ("", ""): "/home/me/.cache/ffds/images",
    }
    for (own, shared), expected in places.items():
        monkeypatch.setenv("FFDS_CACHE", own)
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        assert cache_directory() == Path(expected)


def test_entries_come_last_used_first_and_are_cleared(root, place):
    open_dataset(folder(root))
    assert place.stat().st_mode & 0o777 == 0o700
    for age, file in enumerate(sorted(place.glob("*.npz"))):
        os.utime(file, (0, 1000 + age))
    assert [entry.used for entry in entries()] == [1001, 1000]
    shapes = {tuple(entry.about["shape"]): entry.about["directory"] for entry in entries()}
    assert shapes == {(12, 6, 6, 3): str(root / "train"), (8, 6, 6, 3): str(root / "test")}
    open_dataset(folder(root))
    assert min(entry.used for entry in entries()) > 2000
    (place / "x.part").write_bytes(b"123")
    (place / "theirs.txt").write_text("kept")
    expected = 3 + sum(entry.bytes for entry in entries())
    assert clear() == expected
    assert [file.name for file in place.iterdir()] == ["theirs.txt"]
    assert (entries(), clear()) == ([], 0)
    check_as_without(folder(root))
