"""A checkpoint is whole or absent, and nothing in it is trusted before it verifies."""

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ffds.errors import FfdsError, InputError
from ffds.training.checkpoint import FORMAT, Checkpoint, Checkpoints

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


def number_of(found: Checkpoint | None) -> int:
    assert found is not None
    return found.state["number"]


def resign(path: Path) -> None:
    """Make the manifest match what lies there, as someone with bad intent would."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (path / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_comes_back_as_it_was(tmp_path):
    found = stored(tmp_path, (3, 0)).latest()
    assert found is not None
    before = checkpoint(1)
    for name in ("model", "optimizer", "loss"):
        ours, theirs = getattr(before, name), getattr(found, name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert theirs[key].dtype == tensor.dtype
            assert torch.equal(theirs[key].nan_to_num(7), tensor.nan_to_num(7))
    assert found.state == before.state
    assert found.identity == IDENTITY
    assert names(tmp_path / "epoch-0003") == FILES


def test_keeps_memory_format_out_of_the_file(tmp_path):
    images = torch.arange(24.0).view(1, 2, 3, 4)
    odd = Checkpoint({"weight": images.to(memory_format=torch.channels_last)}, {}, {}, {})
    Checkpoints(tmp_path, IDENTITY).save(odd, 1)
    found = Checkpoints(tmp_path, IDENTITY).latest()
    assert found is not None
    assert torch.equal(found.model["weight"], images)


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


def test_the_newest_two_are_kept(tmp_path):
    stored(tmp_path, *((epoch, 0) for epoch in range(1, 6)))
    assert names(tmp_path) == ["epoch-0004", "epoch-0005"]


def test_an_epoch_done_comes_after_the_steps_before_it(tmp_path):
    stored(tmp_path, (2, 0), (2, 3))
    assert names(tmp_path) == ["epoch-0002", "epoch-0002-step-00003"]
    assert number_of(Checkpoints(tmp_path, IDENTITY).latest()) == 2
    stored(tmp_path / "other", (2, 3), (3, 0))
    assert number_of(Checkpoints(tmp_path / "other", IDENTITY).latest()) == 2
    stored(tmp_path / "more", (9999, 12), (10000, 0), (10000, 100000))
    assert names(tmp_path / "more") == ["epoch-10000", "epoch-10000-step-100000"]
    assert number_of(Checkpoints(tmp_path / "more", IDENTITY).latest()) == 3


def test_the_same_place_is_replaced(tmp_path):
    assert number_of(stored(tmp_path, (2, 3), (2, 3)).latest()) == 2
    assert names(tmp_path) == ["epoch-0002-step-00003"]


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
    assert caught.value.exit_code == 1
    needed = re.search(r"([\d,]+) bytes needed, 12,345 free", str(caught.value))
    assert needed is not None
    size = sum(len(content) for path, content in before.items() if path.parent.name == "epoch-0002")
    assert int(needed[1].replace(",", "")) == pytest.approx(size, abs=50)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert number_of(Checkpoints(tmp_path, IDENTITY).latest()) == 2
    monkeypatch.undo()
    Checkpoints(tmp_path, IDENTITY).save(checkpoint(3), 3)
    assert number_of(Checkpoints(tmp_path, IDENTITY).latest()) == 3


def test_disk_full_at_the_very_first(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(FfdsError, match=r"disk full .* bytes needed, [\d,]+ free"):
        Checkpoints(tmp_path / "run" / "checkpoints", IDENTITY).save(checkpoint(1), 1)
    monkeypatch.undo()
    (tmp_path / "checkpoints").write_text("a file where the directory should be")
    with pytest.raises(FfdsError, match=r"cannot save a checkpoint below .*checkpoints: "):
        Checkpoints(tmp_path / "checkpoints", IDENTITY).save(checkpoint(1), 1)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names a descriptor by /proc")
def test_everything_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    """A power cut may lose whatever was not flushed; nothing may be pruned before."""
    events = []
    fsync, rename, rmtree = os.fsync, Path.rename, shutil.rmtree
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd))
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append("rename"), rename(self, to)))
    stored(tmp_path, (1, 0), (2, 0))
    events.clear()
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **how: (path.exists() and events.append("prune"), rmtree(path, **how))
    )
    Checkpoints(tmp_path, IDENTITY).save(checkpoint(3), 3)
    flushed = [Path(event).name for event in events]
    assert sorted(flushed[:4]) == sorted(name for name in FILES if name != "manifest.json")
    assert flushed[4:] == ["manifest.json", "epoch-0003.tmp", "rename", tmp_path.name, "prune"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": (truncate, "bytes, not"),
    "bit-flipped": (flip, "does not match its checksum"),
    "missing": (Path.unlink, "is missing"),
}
MANIFEST = "manifest.json is missing or damaged"


@pytest.mark.parametrize("file", [name for name in FILES if name != "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_broken_newest_is_named_and_skipped(damage, file, tmp_path, capsys):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    act, reason = DAMAGES[damage]
    act(tmp_path / "epoch-0002" / file)
    assert number_of(checkpoints.latest()) == 1
    assert list(checkpoints.skipped) == [tmp_path / "epoch-0002"]
    (told,) = checkpoints.skipped.values()
    assert file in told
    assert reason in told
    assert f"{tmp_path / 'epoch-0002'} is broken ({told}), skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    "act",
    [
        Path.unlink,
        truncate,
        lambda path: path.write_text(""),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('"manifest"'),
        lambda path: path.write_text(f'{{"format": {FORMAT}}}'),
        lambda path: path.write_text(f'{{"format": {FORMAT}, "files": [], "identity": {{}}}}'),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
    ],
)
def test_broken_manifest_is_named_and_skipped(act, tmp_path, capsys):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    act(tmp_path / "epoch-0002" / "manifest.json")
    assert number_of(checkpoints.latest()) == 1
    assert checkpoints.skipped == {tmp_path / "epoch-0002": MANIFEST}
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
    with pytest.raises(InputError, match="no checkpoint of this run can be read") as caught:
        checkpoints.latest()
    assert str(tmp_path) in str(caught.value)
    assert "epoch-0002: manifest.json is missing" in str(caught.value)
    assert "epoch-0001: model.safetensors has" in str(caught.value)
    assert capsys.readouterr().err.count("warning") == 2
    assert names(tmp_path) == ["epoch-0001", "epoch-0002"], "nothing is thrown away"


def test_of_another_run(tmp_path):
    stored(tmp_path, (1, 0))
    other = {"recipe": {"name": "digits", "optimizer": {"lr": 0.2}, "extra": 1}, "class_counts": [5, 3, 1]}
    with pytest.raises(InputError, match="belongs to another run") as caught:
        Checkpoints(tmp_path, other).latest()
    message = str(caught.value)
    assert "recipe.optimizer.lr: 0.1 there, 0.2 here" in message
    assert "class_counts: [5, 3, 2] there, [5, 3, 1] here" in message
    assert "recipe.extra: None there, 1 here" in message
    assert "recipe.name" not in message
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    assert found.identity == IDENTITY, "whoever only reads accepts any run"


def test_of_another_format(tmp_path):
    checkpoints = stored(tmp_path, (1, 0), (2, 0))
    file = tmp_path / "epoch-0002" / "manifest.json"
    manifest = json.loads(file.read_text()) | {"format": FORMAT + 1, "versions": {"ffds": "9.8.7"}}
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="another format") as caught:
        checkpoints.latest()
    for part in (f"format {FORMAT + 1}", f"format {FORMAT}", "9.8.7", "epoch-0002"):
        assert part in str(caught.value)


class Payload:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.write_text, (self.canary, "unpickled")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_in_disguise_is_never_unpickled(file, form, tmp_path, capsys):
    checkpoints = stored(tmp_path / "run", (1, 0), (2, 0))
    canary, target = tmp_path / "canary", tmp_path / "run" / "epoch-0002" / file
    if form == "pickle":
        target.write_bytes(pickle.dumps(Payload(canary)))
    else:
        torch.save({"weight": Payload(canary)}, target)
    if file != "manifest.json":
        resign(target.parent)
    assert number_of(checkpoints.latest()) == 1
    assert not canary.exists()
    assert "epoch-0002 is broken" in capsys.readouterr().err
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists(), "the payload does bite where it is unpickled"


def test_a_huge_header_is_no_memory_bomb(tmp_path, capsys):
    checkpoints = stored(tmp_path, (1, 0))
    path = tmp_path / "epoch-0001"
    content = save({"weight": torch.zeros(2)})
    (path / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + content[8:])
    resign(path)
    with pytest.raises(InputError, match="no checkpoint of this run can be read"):
        checkpoints.latest()
    assert "not a checkpoint of ffds" in capsys.readouterr().err
