import struct
import threading
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from ffds.data import decode as decoding
from ffds.data.decode import PART, PARTS_AHEAD, Encoded, FileImages, Stored, decode, decode_all
from ffds.errors import InputError

RNG = np.random.default_rng(0)


def picture(height=6, width=9, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(array, form="PNG", **options):
    content = BytesIO()
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(content, form, **options)
    return content.getvalue()


def bomb(side=20_000):
    """A PNG of a few bytes that says it has 400 million pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_forms_come_back_exactly(form):
    array = picture()
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(array, form, **options), Stored()), array)


def test_grey_becomes_three_channels_or_stays_one():
    grey = picture(channels=1)
    assert decode(encoded(grey), Stored()).shape == (6, 9, 3)
    np.testing.assert_array_equal(decode(encoded(grey), Stored(mode="L")), grey)
    as_colour = encoded(np.repeat(grey, 3, axis=-1), "WEBP", lossless=True)
    np.testing.assert_array_equal(decode(as_colour, Stored(mode="L")), grey)


def test_orientation_is_respected():
    array = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(
        decode(encoded(array, exif=exif.tobytes()), Stored()), np.rot90(array, k=-1, axes=(0, 1))
    )


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_pixels_under_a_broken_orientation_stay_as_they_are(form):
    array = picture(40, 40)
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(array, form, exif=b"Exif\0\0neither order of bytes", **options)
    np.testing.assert_array_equal(decode(content, Stored()), array)
    with pytest.raises(OSError, match=r"truncated|could not create decoder"):
        decode(content[:2000], Stored())


@pytest.mark.parametrize("side", [5, 20, 33])
def test_a_square_is_resized_as_torchvision_does(side):
    array = picture(20, 20)
    expected = v2.Resize(side, antialias=True)(Image.fromarray(array))
    np.testing.assert_array_equal(decode(encoded(array), Stored(side)), np.asarray(expected))


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (41, 64)])
def test_the_centre_is_kept_as_torchvision_does(shape):
    ramp = np.add.outer(np.arange(shape[0]), 2 * np.arange(shape[1])).astype(np.uint8)
    array = np.stack([ramp, ramp // 2, 255 - ramp], axis=-1)
    expected = v2.CenterCrop(20)(v2.Resize(20, antialias=True)(Image.fromarray(array)))
    found = decode(encoded(array), Stored(20))
    assert found.shape == (20, 20, 3)
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 2


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_panorama_takes_no_room(fit):
    for size in ((1, 15_000), (15_000, 1)):
        assert decode(encoded(picture(*size)), Stored(256, fit=fit)).shape == (256, 256, 3)


@pytest.mark.parametrize("side", [6, 32, 50])
@pytest.mark.parametrize("shape", [(20, 41), (41, 20), (41, 40), (40, 41), (7, 90), (33, 33)])
def test_padding_adds_black_and_loses_nothing(shape, side):
    array, long = picture(*shape), max(shape)
    square = np.zeros((long, long, 3), dtype=np.uint8)
    top, left = (long - shape[0]) // 2, (long - shape[1]) // 2
    square[top : top + shape[0], left : left + shape[1]] = array
    expected = Image.fromarray(square).resize((side, side), Image.Resampling.BILINEAR)
    found = decode(encoded(array), Stored(side, fit="pad"))
    # Both directions are resampled and rounded in turn: in another order the last bit may differ.
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= (1 if shape[0] > shape[1] else 0)


def test_padding_of_one_channel():
    found = decode(encoded(picture(4, 8, channels=1)), Stored(8, "L", "pad"))
    assert found.shape == (8, 8, 1)
    assert (found[[0, 1, 6, 7]] == 0).all()


FAULTS = {
    "truncated": encoded(picture(40, 40), "JPEG")[:300],
    "no bytes": b"",
    "not an image": b"class,label\ncat,0\n",
    "bomb": bomb(),
    "large bomb": bomb(12_000),
    "16 bits": encoded(np.full((4, 4, 1), 40_000, dtype=np.uint16)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_is_named_or_skipped_but_never_replaced(fault, tmp_path):
    arrays = [picture(4, 4) for _ in range(3)]
    contents = [encoded(arrays[0]), FAULTS[fault], encoded(arrays[1]), encoded(arrays[2])]
    paths = tuple(tmp_path / f"{k}.png" for k in range(4))
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    images = FileImages(paths, Stored())
    with pytest.raises(InputError, match=r"an image cannot be read\n.*1\.png"):
        images.read(np.arange(4), "stop")
    found, bad = images.read(np.array([3, 1, 0]), "skip")
    assert list(bad) == [1]
    assert "1.png: " in bad[1]
    np.testing.assert_array_equal(found[[0, 2]], [arrays[2], arrays[0]])


def test_order_is_kept_over_many_batches():
    arrays = [np.full((2, 2, 3), k % 256, dtype=np.uint8) for k in range(300)]
    items = [Encoded(k, str(k), encoded(array)) for k, array in enumerate(arrays)]
    found, bad = decode_all([items[200:], items[:200]], 300, Stored(), "stop")
    assert not bad
    np.testing.assert_array_equal(found, arrays)


def test_images_are_asked_for_no_faster_than_they_are_decoded(monkeypatch):
    content, done, ahead = encoded(picture(2, 2)), [], []
    monkeypatch.setattr(
        decoding, "decode", lambda content, stored: done.append(content) or decode(content, stored)
    )

    def batches():
        for start in range(0, 50 * PART, PART):
            ahead.append(start - len(done))
            yield [Encoded(start + k, "a.png", content) for k in range(PART)]

    decode_all(batches(), 50 * PART, Stored(), "stop")
    assert len(done) == 50 * PART
    assert max(ahead) <= PARTS_AHEAD * PART


def test_a_bad_image_stops_the_decoding_of_those_behind_it(monkeypatch):
    content, done = encoded(picture(2, 2)), []
    monkeypatch.setattr(
        decoding, "decode", lambda content, stored: done.append(content) or decode(content, stored)
    )
    items = [Encoded(k, f"{k}.png", b"bad" if k == 3 else content) for k in range(100 * PART)]
    before = threading.active_count()
    with pytest.raises(InputError, match=r"3\.png"):
        decode_all([items], len(items), Stored(), "stop")
    assert len(done) <= (PARTS_AHEAD + 1) * PART
    assert threading.active_count() == before


def test_pixels_of_bad_images_are_zero():
    items = [Encoded(0, "a.png", encoded(picture(2, 2))), Encoded(1, "b.png", b"bad")]
    found, bad = decode_all([items], 2, Stored(), "skip")
    assert list(bad) == [1]
    assert not found[1].any()


def test_different_sizes_need_a_size():
    items = [Encoded(0, "a.png", encoded(picture(4, 4))), Encoded(1, "b.png", encoded(picture(4, 5)))]
    with pytest.raises(InputError, match=r"differ in size\n.*b\.png\n.*5x4\n.*4x4") as caught:
        decode_all([items], 2, Stored(), "skip")
    assert "data.image_size" in str(caught.value)
    assert decode_all([items], 2, Stored(3), "stop").images.shape == (2, 3, 3, 3)


def test_nothing_readable_is_an_error():
    with pytest.raises(InputError, match="no image can be read"):
        decode_all([[Encoded(0, "a.png", None)]], 1, Stored(), "skip")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png"):
        FileImages((tmp_path / "gone.png",), Stored()).read(np.arange(1), "stop")


@pytest.mark.parametrize("shape", [(600, 904), (1304, 520), (256, 256)])
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_without_a_visible_difference(shape):
    smooth = Image.fromarray(picture(8, 10)).resize(shape[::-1], Image.Resampling.BICUBIC)
    content = encoded(np.asarray(smooth), "JPEG", quality=95)
    whole = encoded(decode(content, Stored()))
    found, expected = (decode(one, Stored(64)).astype(int) for one in (content, whole))
    assert (found != expected).any(), "it was decoded whole"
    assert np.abs(found - expected).mean() < 1
    assert np.abs(found - expected).max() < 10
    padded = (decode(one, Stored(64, fit="pad")) for one in (content, whole))
    np.testing.assert_array_equal(*padded)


@pytest.mark.parametrize("side", [128, 200])
def test_a_jpeg_less_than_four_times_as_large_is_decoded_whole(side):
    content = encoded(picture(255, 255), "JPEG")
    whole = encoded(decode(content, Stored()))
    np.testing.assert_array_equal(decode(content, Stored(side)), decode(whole, Stored(side)))
