"""A checkpoint is whole or absent, and nothing in it is trusted before it verifies."""

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.soak import die_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffds.errors import FfdsError, InputError
from ffds.training.checkpoint import Checkpoint, Checkpoints
from ffds.training.manifest import FORMAT, manifest_text
from tests.training import processes

IDENTITY = {"recipe": {"name": "digits", "optimizer": {"lr": 0.1}}, "class_counts": [5, 3, 2]}
FILES = ["loss.safetensors", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(
        model={"weight": torch.full((3, 4), float(number)), "seen": torch.tensor(number)},
        optimizer={"weight.momentum_buffer": torch.full((3, 4), -float(number))},
        loss={"rank0.0.means": torch.tensor([0.5, float("nan")])},
        state={"number": number},
    )


def stored(directory: Path, *places: tuple[int, int]) -> Checkpoints:
    """A checkpoint for each (epoch, step), numbered in that order from 1."""
    checkpoints = Checkpoints(directory, IDENTITY)
    for number, place in enumerate(places, 1):
        checkpoints.save(checkpoint(number), *place)
    return Checkpoints(directory, IDENTITY)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def number_of(found: Checkpoint) -> int:
    return found.state["number"]


def resign(path: Path) -> None:
    """Make the manifest match what lies there, as someone with bad intent would."""
    contents = {name: (path / name).read_bytes() for name in FILES if name != "manifest.json"}
    (path / "manifest.json").write_text(manifest_text(IDENTITY, contents))


def change(path: Path, checksum: bool = False, **changes: object) -> None:
    """Change the manifest of a checkpoint; without a checksum of its own it is one of former versions."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    del manifest["sha256"]
    if checksum:
        manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1))


def test_comes_back_as_it_was(tmp_path):
    before = checkpoint(1)
    before.model["images"] = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    Checkpoints(tmp_path, IDENTITY).save(before, 3)
    found = Checkpoints(tmp_path, IDENTITY).latest()
    for name in ("model", "optimizer", "loss"):
        ours, theirs = getattr(before, name), getattr(found, name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert theirs[key].dtype == tensor.dtype
            assert torch.equal(theirs[key].nan_to_num(7), tensor.nan_to_num(7))
    assert found.state == before.state
    assert found.identity == IDENTITY
    assert names(tmp_path / "epoch-0003") == FILES


def test_read_without_torch(tmp_path):
    stored(tmp_path, (1, 0), (2, 0))
    code = (
        "import sys; from pathlib import Path; from ffds.training.checkpoint import Checkpoints; "
        "one = Checkpoints(Path(sys.argv[1])); print(one.newest_identity()['class_counts'], "
        "one.parameter(1, 'weight').tolist()[0], one.parameter(3, 'weight'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "[5, 3, 2] [1.0, 1.0, 1.0, 1.0] None False\n"


def test_no_checkpoint_is_no_error(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        none = Checkpoints(directory, IDENTITY)
        assert (none.latest(), none.newest_epoch(), none.newest_identity()) == (None, 0, {})


@pytest.mark.parametrize(
    ("places", "kept"),
    [
        ([(1, 0), (2, 0), (3, 0)], ["epoch-0002", "epoch-0003"]),
        ([(2, 0), (2, 3)], ["epoch-0002", "epoch-0002-step-00003"]),
        ([(2, 3), (3, 0)], ["epoch-0002-step-00003", "epoch-0003"]),
        ([(9999, 12), (10000, 0), (10000, 100000)], ["epoch-10000", "epoch-10000-step-100000"]),
        ([(2, 3), (2, 3)], ["epoch-0002-step-00003"]),
    ],
)
def test_the_newest_two_places_are_kept(places, kept, tmp_path):
    assert number_of(stored(tmp_path, *places).latest()) == len(places)
    assert names(tmp_path) == kept


def test_unfinished_and_foreign_names_are_no_checkpoints(tmp_path):
    stored(tmp_path, (1, 0))
    for name in ("epoch-0009.tmp", "epoch-0008-step-00001.tmp", "epoch-12", "best", "epoch-0007-old"):
        shutil.copytree(tmp_path / "epoch-0001", tmp_path / name)
    assert number_of(Checkpoints(tmp_path, IDENTITY).latest()) == 1
    stored(tmp_path, (2, 0))
    assert names(tmp_path) == ["best", "epoch-0001", "epoch-0002", "epoch-0007-old", "epoch-12"]


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_disk_full(fails_at, tmp_path, monkeypatch):
    stored(tmp_path, (1, 0), (2, 0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    calls = 0

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    free = shutil.disk_usage(tmp_path)._replace(free=12345)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(FfdsError, match="disk full") as caught:
        Checkpoints(tmp_path, IDENTITY).save(checkpoint(3), 3)
    assert caught.value.exit_code == 2
    needed = re.search(r"([\d,]+) bytes needed, 12,345 free", str(caught.value))
    size = sum(len(content) for path, content in before.items() if path.parent.name == "epoch-0002")
    assert int(needed[1].replace(",", "")) == pytest.approx(size, abs=50)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert number_of(Checkpoints(tmp_path, IDENTITY).latest()) == 2
    monkeypatch.undo()
    Checkpoints(tmp_path, IDENTITY).save(checkpoint(3), 3)
    assert number_of(Checkpoints(tmp_path, IDENTITY).latest()) == 3


def test_disk_full_or_a_file_in_the_way_before_there_is_a_directory(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(FfdsError, match=r"disk full .* bytes needed, [\d,]+ free"):
        Checkpoints(tmp_path / "run" / "checkpoints", IDENTITY).save(checkpoint(1), 1)
    monkeypatch.undo()
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(FfdsError, match=r"cannot save a checkpoint below .*checkpoints: "):
        Checkpoints(tmp_path / "checkpoints", IDENTITY).save(checkpoint(1), 1)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names a descriptor by /proc")
def test_everything_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    """A power cut may lose whatever was not flushed; nothing may be pruned before."""
    events = []
    fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd))
    )
    monkeypatch.setattr(os, "rename", lambda old, new: (events.append(new.name), rename(old, new)))
    stored(tmp_path, (1, 0), (2, 0))
    events.clear()
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **how: (path.exists() and events.append("prune"), rmtree(path, **how))
    )
    Checkpoints(tmp_path, IDENTITY).save(checkpoint(3), 3)
    flushed = [Path(event).name for event in events]
    assert sorted(flushed[:4]) == sorted(name for name in FILES if name != "manifest.json")
    committed = ["manifest.json", "epoch-0003.tmp", "epoch-0003", tmp_path.name]
    assert flushed[4:] == [*committed, "epoch-0001.tmp", "prune"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"bytes, not": truncate, "does not match its checksum": flip, "is missing": Path.unlink}


@pytest.mark.parametrize("file", [name for name in FILES if name != "manifest.json"])
@pytest.mark.parametrize("reason", DAMAGES)
def test_broken_newest_is_named_and_skipped(reason, file, tmp_path, capsys):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    DAMAGES[reason](tmp_path / "epoch-0002" / file)
    assert number_of(checkpoints.latest()) == 1
    ((path, told),) = checkpoints.skipped.items()
    assert path == tmp_path / "epoch-0002"
    assert told.startswith(file)
    assert reason in told
    assert f"{tmp_path / 'epoch-0002'} is broken ({told}), skipped" in capsys.readouterr().err


FORM = f'{{"format": {FORMAT}, '
REST = '"identity": {}, "versions": {}'
MANIFESTS = [None, "[]", f'{FORM}"a": 1}}', f'{FORM}"files": [], {REST}}}', "\xff\xfe\x00", FORM]
MANIFESTS += ["[" * 100_000, '{"sha256":' * 500 + "{}" + "}" * 500, "9" * 5000, "null", '"text"', "1e999"]
MANIFESTS += [f'{{"format": {number}, "files": {{}}, {REST}}}' for number in ("1e999", "-1", "true", "[2]")]
MANIFESTS += [f'{FORM}"files": {{"model.safetensors": {size}}}, {REST}}}' for size in ("7", '{"bytes": []}')]
NESTED = '{"a":' * 400 + "1" + "}" * 400
MANIFESTS += [f'{FORM}"files": {{}}, "identity": {NESTED}, "versions": {{}}}}']


@pytest.mark.parametrize("content", MANIFESTS)
def test_broken_manifest_is_named_and_skipped(content, tmp_path, capsys):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    (tmp_path / "epoch-0002" / "manifest.json").unlink()
    if content is not None:
        (tmp_path / "epoch-0002" / "manifest.json").write_bytes(content.encode("latin-1"))
    assert number_of(checkpoints.latest()) == 1
    assert checkpoints.skipped.keys() == {tmp_path / "epoch-0002"}
    assert isinstance(Checkpoints(tmp_path).newest_identity(), dict), "a reader fails as little"
    assert "epoch-0002 is broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "left"),
    [((2, 5), ["epoch-0002", "epoch-0002-step-00005"]), ((3, 0), ["epoch-0002", "epoch-0003"])],
)
def test_the_next_save_deletes_a_broken_one(place, left, tmp_path):
    """It does not count among those kept, and is replaced when its epoch is trained again."""
    checkpoints = stored(tmp_path, (2, 0), (3, 0))
    truncate(tmp_path / "epoch-0003" / "state.json")
    assert number_of(checkpoints.latest()) == 1
    checkpoints.save(checkpoint(7), *place)
    assert names(tmp_path) == left
    assert number_of(Checkpoints(tmp_path, IDENTITY).latest()) == 7


def test_none_verifies(tmp_path, capsys):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    truncate(tmp_path / "epoch-0001" / "model.safetensors")
    (tmp_path / "epoch-0002" / "manifest.json").unlink()
    told = rf"{tmp_path}\n.*epoch-0002: manifest.json is missing.*; epoch-0001: model.safetensors has"
    with pytest.raises(InputError, match=rf"no checkpoint of this run can be read\n.*{told}"):
        checkpoints.latest()
    assert capsys.readouterr().err.count("warning") == 2
    assert names(tmp_path) == ["epoch-0001", "epoch-0002"], "nothing is thrown away"


def test_of_another_run(tmp_path):
    stored(tmp_path, (1, 0))
    other = {"recipe": {"name": "digits", "optimizer": {"lr": 0.2}, "extra": 1}, "class_counts": [5, 3, 1]}
    with pytest.raises(InputError, match="belongs to another run") as caught:
        Checkpoints(tmp_path, other).latest()
    got = "class_counts: [5, 3, 2] there, [5, 3, 1] here; recipe.extra: None there, 1 here; "
    assert got + "recipe.optimizer.lr: 0.1 there, 0.2 here\n" in str(caught.value)
    assert Checkpoints(tmp_path).latest().identity == IDENTITY, "whoever only reads accepts any run"


@pytest.mark.parametrize(("version", "checksum"), [(FORMAT + 1, True), (1, False)])
def test_of_another_format(version, checksum, tmp_path):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    change(tmp_path / "epoch-0002", checksum, format=version, versions={"ffds": "9.8.7"})
    told = rf"epoch-0002\n.*format {version}\n.*format {FORMAT}\n.*9.8.7"
    with pytest.raises(InputError, match=rf"another format\n.*{told}"):
        checkpoints.latest()


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_a_flipped_bit_in_any_byte_of_a_manifest_is_found(tmp_path):
    """The checkpoint is skipped, by whoever only reads too; another run's it never seems to be."""
    checkpoints, readers = stored(tmp_path, (1, 0), (2, 0)), Checkpoints(tmp_path)
    file = tmp_path / "epoch-0002" / "manifest.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(flipped(whole, place, place % 8))
        assert readers.newest_identity() == IDENTITY
        assert readers.skipped.popitem()[0] == file.parent, place
        assert number_of(checkpoints.latest()) == 1


def test_a_flipped_bit_of_a_manifest_without_a_checksum_stops_no_training(tmp_path):
    """Those of former versions have none: an older checkpoint of this run tells damage from another run."""
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    for name in ("epoch-0001", "epoch-0002"):
        change(tmp_path / name)
    assert number_of(checkpoints.latest()) == 2
    assert not checkpoints.skipped
    file = tmp_path / "epoch-0002" / "manifest.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(flipped(whole, place, place % 7))
        found = checkpoints.latest()
        assert found.identity == IDENTITY
        assert number_of(found) == (1 if file.parent in checkpoints.skipped else 2)
        checkpoints.skipped.clear()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True), bit=st.integers(-1, 7))
def test_whatever_is_flipped_or_cut_off_is_named_and_skipped(name, at, bit, tmp_path, capsys):
    """And where nothing older is left, one message says so. Bit -1: all from there on is cut off."""
    shutil.rmtree(tmp_path)
    stored(tmp_path, (1, 0), (2, 0))
    file = tmp_path / "epoch-0002" / name
    whole = file.read_bytes()
    place = int(at * len(whole))
    capsys.readouterr()
    file.write_bytes(whole[:place] if bit < 0 else flipped(whole, place, bit))
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    assert number_of(checkpoints.latest()) == 1
    assert capsys.readouterr().err.count(f"{file.parent} is broken ({name}") == 1
    shutil.rmtree(tmp_path / "epoch-0001")
    with pytest.raises(InputError, match="no checkpoint of this run can be read"):
        checkpoints.latest()


STATES = ["[" * 100_000, "[1]", "null", "9" * 5000, "\xff", ""]


@pytest.mark.parametrize("content", STATES)
def test_a_state_of_wrong_types_is_named_and_skipped(content, tmp_path):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    (tmp_path / "epoch-0002" / "state.json").write_bytes(content.encode("latin-1"))
    resign(tmp_path / "epoch-0002")
    assert number_of(checkpoints.latest()) == 1
    assert "not a checkpoint of ffds" in checkpoints.skipped[tmp_path / "epoch-0002"]


def test_a_fifo_is_not_waited_for(tmp_path):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    for name in ("manifest.json", "state.json"):
        file = tmp_path / "epoch-0002" / name
        content = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        assert number_of(checkpoints.latest()) == 1
        file.unlink()
        file.write_bytes(content)


def save_again_killed_at_each_call(directory: Path) -> int:
    """In a process of its own each time, in the directory that has the number of the call; 0 if all died."""
    call, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        call += 1
        stored(directory / str(call), (1, 5))
        if not (child := os.fork()):
            die_at(call)
            Checkpoints(directory / str(call), IDENTITY).save(checkpoint(2), 1, 5)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code


def test_killed_anywhere_inside_a_save_of_the_same_name(tmp_path):
    """Before each of its calls in turn; the only checkpoint there is, or the new one, is always found."""
    process = processes.forked(save_again_killed_at_each_call, tmp_path / "calls", log=tmp_path / "log")
    assert processes.exit_code(process) == 0
    outcomes = []
    for directory in sorted((tmp_path / "calls").iterdir(), key=lambda path: int(path.name)):
        outcomes.append(number_of(Checkpoints(directory).latest()))
        training = Checkpoints(directory, IDENTITY)
        training.recover()
        assert number_of(training.latest()) == outcomes[-1]
        assert names(directory) == ["epoch-0001-step-00005"], "nothing else lies there"
    assert outcomes == sorted(outcomes)
    assert len(outcomes) > 15
    assert set(outcomes) == {1, 2}


class Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.write_text, (self.canary, "unpickled")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "save_to", [lambda payload, file: file.write_bytes(pickle.dumps(payload)), torch.save]
)
def test_a_pickle_in_disguise_is_never_unpickled(file, save_to, tmp_path, capsys):
    checkpoints = stored(tmp_path / "run", (1, 0), (2, 0))
    canary, target = tmp_path / "canary", tmp_path / "run" / "epoch-0002" / file
    save_to({"weight": Payload(canary)}, target)
    if file != "manifest.json":
        resign(target.parent)
    assert number_of(checkpoints.latest()) == 1
    assert not canary.exists()
    reason = "manifest.json is" if file == "manifest.json" else "not a checkpoint of ffds"
    assert f"epoch-0002 is broken ({reason}" in capsys.readouterr().err
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists(), "the payload does bite where it is unpickled"
