"""The fast way for JPEGs, against Pillow: the same pixels, and nothing that Pillow refuses."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepfake.media.jpeg import HeardJpeg, decode_jpeg, is_one_scan


def encode(mode: str = "RGB", noise: bool = False, **options: Any) -> bytes:
    y, x = np.mgrid[0:90, 0:121]
    pixels = np.stack([x * 2, y * 2, x + y], axis=2).astype(np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def hear(data: bytes) -> HeardJpeg:
    return decode_jpeg(data, is_plain=True)


def decode_whole_jpeg(data: bytes) -> np.ndarray | None:
    return hear(data).pixels


def decode_with_pillow(data: bytes) -> np.ndarray | None:
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, SyntaxError):
        return None


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "L"},
        {"progressive": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"keep_rgb": True},
        {"quality": 30, "optimize": True},
        {"restart_marker_blocks": 3},
        {"progressive": True, "restart_marker_rows": 1},
        {"comment": b"\xff\xd9"},
    ],
    ids=str,
)
def test_gives_the_pixels_of_pillow(options: dict[str, Any], noise: bool) -> None:
    data = encode(noise=noise, **options)
    pixels = decode_whole_jpeg(data)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, decode_with_pillow(data))
    # What follows the end, such as the second picture of a stereo photo, is another matter.
    np.testing.assert_array_equal(decode_whole_jpeg(data + data), pixels)


def test_leaves_the_turning_to_others() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode_whole_jpeg(encode(exif=exif.tobytes()))
    assert pixels is not None
    assert pixels.shape == (90, 121, 3)


@pytest.mark.parametrize("progressive", [False, True])
def test_takes_no_file_that_is_cut(progressive: bool) -> None:
    data = encode(noise=True, progressive=progressive, restart_marker_rows=2)
    cuts = [*range(0, len(data) - 64, 3), *range(len(data) - 64, len(data))]
    taken = [at for at in cuts if decode_whole_jpeg(data[:at]) is not None]
    # Only the end marker, or half of it, is missing there.
    assert taken == [len(data) - 2, len(data) - 1]
    for at in taken:
        heard = hear(data[:at])
        assert heard.remark == "the end marker is missing"
        np.testing.assert_array_equal(heard.pixels, decode_with_pillow(data))


def test_takes_nothing_that_pillow_refuses() -> None:
    rng = np.random.default_rng(0)
    seeds = [
        encode(),
        encode(noise=True, restart_marker_blocks=3),
        encode(progressive=True, optimize=True),
        encode("L"),
    ]
    taken = 0
    for number in range(800):
        data = np.frombuffer(seeds[number % len(seeds)], np.uint8).copy()
        at = rng.integers(0, len(data), rng.integers(1, 8))
        # Half of the damage hits headers, which are a small part of the file.
        data[at % 700 if number % 2 else at] = rng.choice([0xFF, 0xD9, 0xD0, 0, *range(8)], len(at))
        broken = data.tobytes()
        heard = hear(broken)
        if heard.pixels is not None:
            whole = broken + b"\xff\xd9" if heard.remark else broken
            expected = decode_with_pillow(whole)
            if expected is None:
                continue  # a header that Pillow refuses: the product asks nothing more
            taken += 1
            np.testing.assert_array_equal(heard.pixels, expected)
    assert taken > 100


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xd8", id="begin"),
        pytest.param(b"\xff\xd8\xff\xd9" + bytes(9), id="no-picture"),
        pytest.param(b"\xff\xd8\xff\xe0\0\0" + bytes(9), id="length-0"),
        pytest.param(encode().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), id="12-bit"),
        pytest.param(encode().replace(b"\xff\xc0", b"\xff\xc9"), id="arithmetic"),
        pytest.param(encode().replace(b"\xff\xc4", b"\0\xff\xc4", 1), id="bytes-between"),
        pytest.param(encode().replace(b"\xff\xda", b"\xff\xc0\0\x02\xff\xda"), id="two-frames"),
        pytest.param(encode()[:-2] + b"\xff\xda\0\x02\xff\xd9", id="second-scan"),
        pytest.param(encode().replace(b"\0\x5a\0\x79", b"\xff\xff\xff\xff"), id="forged-size"),
    ],
)
def test_leaves_to_pillow(data: bytes) -> None:
    assert decode_whole_jpeg(data) is None


def test_four_channels_are_heard_and_left_to_pillow() -> None:
    data = encode("CMYK", noise=True)
    assert decode_jpeg(data, is_plain=False) == HeardJpeg()
    broken = decode_jpeg(damage(data), is_plain=False)
    assert broken.pixels is None
    assert broken.damage.startswith("Corrupt JPEG data: ")


def damage(data: bytes, n: int = 200) -> bytes:
    """Leave a hole in the middle of the pixels."""
    middle = (data.rindex(b"\xff\xda") + len(data)) // 2
    return data[:middle] + bytes(n) + data[middle + n :]


@pytest.mark.parametrize("is_huge", [False, True], ids=["", "huge"])
@pytest.mark.parametrize(
    "options",
    [{}, {"restart_marker_rows": 1}, {"mode": "L"}, {"subsampling": "4:2:2"}, {"quality": 95}],
    ids=str,
)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(damage, id="hole"),
        pytest.param(lambda data: damage(data, 1000), id="large-hole"),
        pytest.param(lambda data: data[: len(data) // 2] + data[-2:], id="end-without-middle"),
        pytest.param(lambda data: data[: len(data) * 2 // 3], id="cut"),
    ],
)
def test_damage_to_pixels_is_heard(
    fault: Callable[[bytes], bytes], options: dict[str, Any], is_huge: bool
) -> None:
    data = encode(noise=True, **options)
    heard = decode_jpeg(fault(data), is_plain=True, is_huge=is_huge)
    assert heard.pixels is None
    # Of a hole that happens to decode, libjpeg says that something was left over.
    assert heard.damage or "extraneous bytes before marker 0xd" in heard.remark
    whole = decode_jpeg(data, is_plain=True, is_huge=is_huge)
    assert (whole.remark, whole.damage, whole.pixels is None) == ("", "", is_huge)


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        pytest.param(
            lambda data: data.replace(b"\xff\xc4", b"abc\xff\xc4", 1),
            "Corrupt JPEG data: 3 extraneous bytes before marker 0xc4",
            id="between-segments",
        ),
        pytest.param(
            lambda data: data.replace(b"\xff\xdb", b"abc\xff\xd0\xff\xdb", 1),
            "Corrupt JPEG data: 3 extraneous bytes before marker 0xd0",
            id="restart-between-segments",
        ),
        pytest.param(
            lambda data: data.replace(b"JFIF\0\x01", b"JFIF\0\x07", 1),
            "Warning: unknown JFIF revision number 7.01",
            id="version",
        ),
    ],
)
def test_flaws_beside_the_pixels_are_a_remark_and_hide_no_damage(
    change: Callable[[bytes], bytes], remark: str
) -> None:
    data = change(encode(noise=True))
    assert hear(data) == HeardJpeg(remark=remark)
    broken = hear(data[: len(data) // 2] + data[-2:])
    assert broken.damage == "Corrupt JPEG data: premature end of data segment"


SOF = b"\xff\xc0\0\x11\x08\0\x09\0\x09\x03" + bytes(9)
SOS_ALL, SOS_ONE = b"\xff\xda\0\x0c\x03" + bytes(9), b"\xff\xda\0\x08\x01" + bytes(5)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(SOF + SOS_ALL, True, id="interleaved"),
        pytest.param(b"\xff\xff" + SOF + b"\xff" + SOS_ALL, True, id="fill-bytes"),
        pytest.param(SOF + SOS_ONE, False, id="one-component-a-scan"),
        pytest.param(SOF.replace(b"\xc0", b"\xc2", 1) + SOS_ALL, False, id="progressive"),
        pytest.param(b"\xff\xe0\0\x01" + SOF + SOS_ALL, True, id="forged-length"),
        pytest.param(SOF, False, id="no-scan"),
        pytest.param(b"junk", False, id="junk"),
    ],
)
def test_knows_jpegs_of_one_scan(data: bytes, expected: bool) -> None:
    assert is_one_scan(b"\xff\xd8" + data) is expected
