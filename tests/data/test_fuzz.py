"""Hostile images and archives: whatever their bytes, an InputError that names them or the right data.

``pytest tests/data/test_fuzz.py --hypothesis-profile=long`` tries 5,000 of each.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ffds.data import open_dataset
from ffds.data.decode import FORMATS
from ffds.errors import InputError
from ffds.recipes.schema import Data
from tests.data.pictures import bomb, write_picture
from tests.data.sources.test_published import opened, published

MODES = ("RGB", "L", "P", "1", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB")
WRITTEN = tuple(form for form in FORMATS if form != "SUN")


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """An encoded image of some format, mode and number of pictures, with some damages."""
    if draw(st.integers(0, 9)) == 0:
        return draw(
            st.sampled_from([b"", b"\0" * 100, b"GIF89a", bomb(12_000), bomb(60_000), bomb(2**31 - 1)])
        )
    width, height, mode = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.sampled_from(MODES))
    noise = np.random.default_rng(draw(st.integers(0, 99))).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    rgb, content = Image.fromarray(noise), io.BytesIO()
    image = Image.new(mode, rgb.size) if mode in ("I;16", "LAB") else rgb.convert(mode)
    animated = {"save_all": True, "append_images": [image]} if draw(st.booleans()) else {}
    try:
        image.save(content, draw(st.sampled_from(WRITTEN)), **animated)
    except (OSError, ValueError, KeyError):  # not every format has every mode
        rgb.save(content := io.BytesIO(), "PNG")
    damaged = bytearray(content.getvalue())
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, max(0, len(damaged) - 1)))
        kind = draw(st.sampled_from(["flip", "flip in the header", "cut", "insert", "large number"]))
        if kind == "cut":
            del damaged[place:]
        elif kind == "insert":
            damaged[place:place] = draw(st.binary(min_size=1, max_size=20))
        elif kind == "large number":
            damaged[place % 40 : place % 40 + 4] = b"\x7f\xff\xff\xff"
        elif damaged:
            damaged[place % min(64, len(damaged)) if "header" in kind else place] ^= 1 << draw(
                st.integers(0, 7)
            )
    return bytes(damaged)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    for seed, place in enumerate(("train/a/0", "train/a/1", "train/b/0", "test/a/0", "test/b/0")):
        write_picture(root / f"{place}.png", seed, (8, 8))
    return root


@settings(deadline=None)
@given(images(), st.sampled_from(["jpg", "png", "tif", "gif", "jfif", "AVIF"]))
def test_an_image_is_read_or_named(folder, content, suffix):
    file = folder / "train" / "a" / f"x.{suffix}"
    file.write_bytes(content)
    data = Data(name="folder", root=str(folder), image_size=8, cache=False, workers=0)
    ways = [{"in_memory": True}, {"in_memory": False}]
    try:
        kept = [open_dataset(data.model_copy(update=way | {"on_bad_image": "skip"})) for way in ways]
        whole, streamed = (np.asarray(dataset.train.images[:]) for dataset in kept)
        np.testing.assert_array_equal(whole, streamed)
        read = kept[0].class_counts == [3, 1]
        assert read or kept[0].class_counts == [2, 1]
        assert [line.startswith(f"{file}: ") for line in kept[0].skipped] == [True] * (not read)
        if read:
            np.testing.assert_array_equal(open_dataset(data.model_copy(update=ways[0])).train.images, whole)
        else:
            for way in ways:
                with pytest.raises(InputError, match=str(file)):
                    open_dataset(data.model_copy(update=way)).train.images[:]
    finally:
        file.unlink()


PARTS = [
    "set",
    "a",
    "b",
    "..",
    ".",
    "",
    "/",
    "outside",
    "set/a",
    "C:\\x",
    "..\\outside",
    "a" * 300,
    "caf\udce9",
    "\n",
]
NAMES = st.one_of(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join),
    st.sampled_from(
        ["set", "set/a", "set/link", "set/link/x", "../outside", "/outside", "set/../../outside"]
    ),
)
KINDS = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
}
MEMBERS = st.lists(st.tuples(st.sampled_from(list(KINDS)), NAMES, NAMES, st.booleans()), max_size=6)


def write_tar(path, members):
    with tarfile.open(path, "w:gz", encoding="utf-8", errors="surrogateescape") as content:
        for kind, name, target, huge in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = KINDS[kind], target, 0o7777
            member.size = 4 * (kind == "file")
            content.addfile(member, io.BytesIO(b"evil"))
            if huge:  # a header that claims more than there is
                member.size = 10**12
                content.fileobj.write(member.tobuf())


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for kind, name, target, huge in members:
            entry = zipfile.ZipInfo(name.encode(errors="replace").decode() or "x")
            entry.external_attr = (0o120777 if "link" in kind else 0o104777) << 16
            content.writestr(
                entry, target.encode(errors="replace") if "link" in kind else b"0" * (4 + 10**6 * huge)
            )


def _within(directory, name):
    """An absolute name is one below the test's own directory."""
    return f"{directory}{name}" if name.startswith("/") else name


def everything(directory):
    return {path: path.lstat().st_size for path in directory.rglob("*")}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of names that come twice in a zip
@settings(deadline=None)
@given(MEMBERS, st.sampled_from([write_tar, write_zip]), st.none() | st.integers(0, 10**6), st.booleans())
def test_an_archive_is_unpacked_in_its_place_or_refused(members, write, damaged, cut):
    """Even one of the published sum."""
    with tempfile.TemporaryDirectory() as directory:
        above = Path(directory)
        # So deep that no chain of links and names leaves `above`, were every protection gone.
        root = above.joinpath(*["deep"] * 30)
        root.mkdir(parents=True)
        (above / "outside").write_text("kept")
        archive = root / ("set.tar.gz" if write is write_tar else "set.zip")
        inward = [(kind, *(_within(above, name) for name in names), huge) for kind, *names, huge in members]
        write(archive, [("file", "set/a", "", False), *inward])
        if damaged is not None:
            content = bytearray(archive.read_bytes())
            content[damaged % len(content)] ^= 1 + damaged % 255
            archive.write_bytes(content[: damaged % len(content)] if cut else content)
        before = everything(above)
        with suppress(InputError):
            opened(published(archive), root)
        added = everything(above).keys() - before.keys()
        inside = {path for path in added if path.is_relative_to(root / "set")}
        assert added - inside <= {root / f".{archive.name}.lock"}
        assert (above / "outside").read_text() == "kept"
        assert all(path.is_symlink() or path.is_file() or path.is_dir() for path in inside)
