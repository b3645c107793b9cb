"""The fast way for JPEGs, against Pillow: the same pixels, and nothing that Pillow refuses."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepfake.media.jpeg import decode_whole_jpeg


def encode(mode: str = "RGB", noise: bool = False, **options: Any) -> bytes:
    y, x = np.mgrid[0:90, 0:121]
    pixels = np.stack([x * 2, y * 2, x + y], axis=2).astype(np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


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
    assert [at for at in range(len(data)) if decode_whole_jpeg(data[:at]) is not None] == []


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
        pixels = decode_whole_jpeg(broken)
        if pixels is not None:
            taken += 1
            np.testing.assert_array_equal(pixels, decode_with_pillow(broken))
    assert taken > 100


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xd8", id="begin"),
        pytest.param(b"\xff\xd8\xff\xd9" + bytes(9), id="no-picture"),
        pytest.param(b"\xff\xd8\xff\xe0\0\0" + bytes(9), id="length-0"),
        pytest.param(encode("CMYK"), id="four-channels"),
        pytest.param(encode().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), id="12-bit"),
        pytest.param(encode().replace(b"\xff\xc0", b"\xff\xc9"), id="arithmetic"),
        pytest.param(encode().replace(b"\xff\xc4", b"\0\xff\xc4", 1), id="bytes-between"),
        pytest.param(encode().replace(b"\xff\xda", b"\xff\xc0\0\x02\xff\xda"), id="two-frames"),
        pytest.param(encode()[:-2] + b"\xff\xdc\0\x04\0\0\xff\xd9", id="late-height"),
        pytest.param(encode()[:-2] + b"\xff\xda\0\x02\xff\xd9", id="second-scan"),
        pytest.param(encode().replace(b"\0\x5a\0\x79", b"\xff\xff\xff\xff"), id="forged-size"),
    ],
)
def test_leaves_to_pillow(data: bytes) -> None:
    assert decode_whole_jpeg(data) is None
