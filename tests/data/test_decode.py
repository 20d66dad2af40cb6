"""Image files to pixels: as torchvision and Pillow do it, no bad image let through; and their digest."""

import contextlib
import os
import socket
import struct
import tempfile
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from ffds.data import decode as decoding
from ffds.data.decode import BATCH, FileImages, Stored, decode, decode_all, pixels_digest
from ffds.data.source import Encoded
from ffds.errors import InputError
from tests.data.pictures import bomb

RNG = np.random.default_rng(0)


def picture(height=6, width=9, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(array, form="PNG", **options):
    content = BytesIO()
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(content, form, **options)
    return content.getvalue()


LOSSLESS = ["PNG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "JPEG2000", "PCX", "QOI", "SGI"]


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_forms_come_back_exactly(form):
    array = picture(16, 16)
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(array, form, **options), Stored()), array)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_picture_of_several_counts(form):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    content = BytesIO()
    first.save(content, form, save_all=True, append_images=[second])
    assert np.abs(decode(content.getvalue(), Stored()).astype(int) - np.array([255, 0, 0])).max() < 3


@pytest.mark.parametrize("mode", ["1", "P", "PA", "LA", "RGBA", "CMYK", "YCbCr"])
def test_other_colour_spaces_become_red_green_blue_and_transparency_is_left_out(mode):
    image = Image.fromarray(picture()).convert("L" if mode == "PA" else "RGB").convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(picture(channels=1)[..., 0]))
    content = BytesIO()
    image.save(content, "TIFF")
    np.testing.assert_array_equal(decode(content.getvalue(), Stored()), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_gives_its_colours_without_a_warning():
    image, content = Image.fromarray(picture()).quantize(8), BytesIO()
    image.save(content, "PNG", transparency=bytes(range(8)))
    item = Encoded(0, "a.png", content.getvalue())
    np.testing.assert_array_equal(decode_all([[item]], 1, Stored(), "stop").images[0], image.convert("RGB"))


def test_grey_becomes_three_channels_or_stays_one():
    grey = picture(channels=1)
    assert decode(encoded(grey), Stored()).shape == (6, 9, 3)
    for content in (encoded(grey), encoded(np.repeat(grey, 3, axis=-1), "WEBP", lossless=True)):
        np.testing.assert_array_equal(decode(content, Stored(mode="L")), grey)


def test_orientation_is_respected_and_a_broken_one_ignored_but_not_a_truncated_file():
    array, exif = picture(), Image.Exif()
    exif[0x0112] = 6
    upright = decode(encoded(array, exif=exif.tobytes()), Stored())
    np.testing.assert_array_equal(upright, np.rot90(array, k=-1, axes=(0, 1)))
    array = picture(40, 40)
    content = encoded(array, exif=b"Exif\0\0neither order of bytes")
    np.testing.assert_array_equal(decode(content, Stored()), array)
    with pytest.raises(OSError, match="truncated"):
        decode(content[:2000], Stored())


both_filters = pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])


def test_the_name_in_the_key_of_the_cache_is_as_it_was_before_there_was_another_filter():
    assert str(Stored(8, "L", "pad")) == "Stored(size=8, mode='L', fit='pad')"
    assert str(Stored(8, interpolation="bicubic")) not in str(Stored(8))


@both_filters
@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (41, 64), (20, 20), (9, 9)])
def test_the_centre_is_kept_and_resized_as_torchvision_does(shape, interpolation):
    ramp = np.add.outer(np.arange(shape[0]), 2 * np.arange(shape[1])).astype(np.uint8)
    array = np.stack([ramp, ramp // 2, 255 - ramp], axis=-1)
    resize = v2.Resize(20, v2.InterpolationMode(interpolation), antialias=True)
    expected = v2.CenterCrop(20)(resize(Image.fromarray(array)))
    pixels = decode(encoded(array), Stored(20, interpolation=interpolation))
    assert pixels.shape == (20, 20, 3)
    assert np.abs(pixels.astype(int) - np.asarray(expected)).mean() < (2 if shape[0] != shape[1] else 1e-9)


@both_filters
@pytest.mark.parametrize("side", [6, 32, 50])
@pytest.mark.parametrize("shape", [(20, 41), (41, 20), (41, 40), (7, 90), (33, 33)])
def test_padding_adds_black_and_loses_nothing(shape, side, interpolation):
    array, long = picture(*shape), max(shape)
    square = np.zeros((long, long, 3), dtype=np.uint8)
    top, left = (long - shape[0]) // 2, (long - shape[1]) // 2
    square[top : top + shape[0], left : left + shape[1]] = array
    expected = Image.fromarray(square).resize((side, side), Image.Resampling[interpolation.upper()])
    pixels = decode(encoded(array), Stored(side, fit="pad", interpolation=interpolation))
    # Both directions are resampled, rounded and kept in range in turn: pixels may differ in another order.
    difference = {"bilinear": 1, "bicubic": 20}[interpolation] if shape[0] > shape[1] else 0
    assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= difference


@pytest.mark.parametrize("shape", [(600, 904), (1304, 520), (256, 256)])
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_without_a_visible_difference(shape):
    smooth = Image.fromarray(picture(8, 10)).resize(shape[::-1], Image.Resampling.BICUBIC)
    content = encoded(np.asarray(smooth), "JPEG", quality=95)
    whole = encoded(decode(content, Stored()))
    pixels, expected = (decode(one, Stored(64)).astype(int) for one in (content, whole))
    assert (pixels != expected).any(), "it was decoded whole"
    assert np.abs(pixels - expected).mean() < 1
    assert np.abs(pixels - expected).max() < 10
    # Decoded whole: one that is padded, and one less than four times as large.
    for stored in (Stored(64, fit="pad"), Stored(min(shape) // 4 + 1)):
        np.testing.assert_array_equal(*(decode(one, stored) for one in (content, whole)))


FAULTS = {
    "truncated": encoded(picture(40, 40), "JPEG")[:300],
    "no bytes": b"",
    "not an image": b"class,label\ncat,0\n",
    "bomb": bomb(12_000),  # of which Pillow alone would only warn
    "16 bits": encoded(np.full((4, 4, 1), 40_000, dtype=np.uint16)),
}


def files_of(contents, directory):
    paths = tuple(Path(directory, f"{k}.png") for k in range(len(contents)))
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_is_named_or_skipped_but_never_replaced(fault, tmp_path):
    arrays = [picture(4, 4) for _ in range(3)]
    contents = [encoded(arrays[0]), FAULTS[fault], encoded(arrays[1]), encoded(arrays[2])]
    images = FileImages(files_of(contents, tmp_path), Stored())
    with pytest.raises(InputError, match=r"an image cannot be read\n.*1\.png"):
        images.read(np.arange(4), "stop")
    pixels, bad = images.read(np.array([3, 1, 0]), "skip")
    assert list(bad) == [1]
    assert "1.png: " in bad[1]
    np.testing.assert_array_equal(pixels[[0, 2]], [arrays[2], arrays[0]])
    assert not pixels[1].any()


def icon_of(content, side):
    """A file of icons that says that it holds a square of this side."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, side, side, 0, 0, 1, 32, len(content), 22) + content


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [*LOSSLESS, "JPEG", "GIF", "AVIF", "icon of a larger PNG"])
def test_too_many_pixels_are_refused_where_pillow_alone_would_warn(form, monkeypatch):
    """Sizes as small as these, so that without the guard the images are decoded and the test fails."""
    content = icon_of(encoded(picture(16, 16)), 10) if "icon" in form else encoded(picture(16, 16), form)
    items = [[Encoded(0, "large.png", content)]]
    assert decode_all(items, 1, Stored(), "stop").images.shape == (1, 16, 16, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(InputError, match=r"large\.png\n.*DecompressionBombWarning"):
        decode_all(items, 1, Stored(8), "stop")


def special_files(directory, *, outside=True):
    """Names of what looks like images and cannot be read as one, each with the reason."""
    os.mkfifo(directory / "pipe.png")
    (directory / "dangling.png").symlink_to("nowhere.png")
    (directory / "loop.png").symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(directory):
        listening.bind("socket.png")
    names = dict.fromkeys(("pipe.png", "socket.png"), "not a regular file")
    if outside:
        (directory / "device.png").symlink_to("/dev/zero")
        names["device.png"] = "not a regular file"
    return names | {"dangling.png": "No such file", "loop.png": "Too many levels"}


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "directory.png").mkdir()
    for name, reason in (special_files(tmp_path) | {"directory.png": "not a regular file"}).items():
        images = FileImages((tmp_path / name,), Stored())
        for on_bad, what in (("stop", name), ("skip", "no image can be read")):
            with pytest.raises(InputError, match=rf"{what}\n.*{reason}"):
                images.read(np.arange(1), on_bad)
        assert images.origin(np.arange(1)) is None, "no digest, and no wait for a writer"


@pytest.fixture
def done(monkeypatch):
    """Every image decoded from now on."""
    done = []
    monkeypatch.setattr(decoding, "decode", lambda *given: done.append(given) or decode(*given))
    return done


def test_images_come_in_order_and_are_asked_for_no_faster_than_they_are_decoded(done):
    arrays, ahead = [np.full((2, 2, 3), k % 256, dtype=np.uint8) for k in range(50 * BATCH)], []

    def batches():
        for start in (*range(BATCH, len(arrays), BATCH), 0):
            ahead.append(BATCH * len(ahead) - len(done))
            yield [Encoded(k, str(k), encoded(arrays[k])) for k in range(start, start + BATCH)]

    pixels, bad = decode_all(batches(), len(arrays), Stored(), "stop")
    np.testing.assert_array_equal(pixels, arrays)
    assert (len(done), bad) == (len(arrays), {})
    assert max(ahead) <= decoding.BATCHES_AHEAD * BATCH


def test_a_bad_image_stops_the_decoding_of_those_behind_it(tmp_path, done):
    before = threading.active_count()
    good, bad = files_of([encoded(picture(2, 2)), b"bad"], tmp_path)
    images = FileImages((good, good, bad, *[good] * 100 * BATCH), Stored())
    with pytest.raises(InputError, match=r"1\.png"):
        images.read(np.arange(len(images.paths)), "stop")
    assert len(done) <= (decoding.BATCHES_AHEAD + 1) * BATCH
    assert threading.active_count() == before


def test_different_sizes_need_a_size():
    items = [Encoded(0, "a.png", encoded(picture(4, 4))), Encoded(1, "b.png", encoded(picture(4, 5)))]
    with pytest.raises(InputError, match=r"differ in size\n.*b\.png\n.*5x4\n.*4x4(.*\n)+.*data\.image_size"):
        decode_all([items], 2, Stored(), "skip")
    assert decode_all([items], 2, Stored(3), "stop").images.shape == (2, 3, 3, 3)


CONTENTS = st.lists(st.binary(max_size=3), max_size=4)


def digest_of(contents, choices=()):
    with tempfile.TemporaryDirectory() as directory:
        return pixels_digest(files_of(contents, directory), *choices)


@settings(deadline=None, max_examples=50)
@given(CONTENTS.filter(bool), CONTENTS, CONTENTS.filter(bool), CONTENTS)
def test_digests_are_equal_where_all_parts_are_equal(contents, choices, others, other_choices):
    equal = (contents, choices) == (others, other_choices)
    assert (digest_of(contents, choices) == digest_of(others, other_choices)) == equal
    assert digest_of(contents, choices) == digest_of(contents, choices)


def test_no_digest_where_there_is_nothing_to_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for files in ([], [tmp_path / "gone"], [tmp_path], [tmp_path / "pipe"]):
        assert pixels_digest(files) is None


def test_another_library_or_format_gives_another_digest(monkeypatch):
    digests, version = {digest_of([b"a"])}, decoding.features.version
    for changed in decoding.LIBRARIES:
        with monkeypatch.context() as patch:
            patch.setattr(decoding.features, "version", lambda one, c=changed: (one == c, version(one)))
            digests.add(digest_of([b"a"]))
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "CACHE_FORMAT", decoding.CACHE_FORMAT + 1)
        digests.add(digest_of([b"a"]))
    assert len(digests) == len(decoding.LIBRARIES) + 2
