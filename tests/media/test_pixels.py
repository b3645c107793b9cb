"""Every mode that a decoder gives becomes upright RGB of 8 bits."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepfake.errors import MediaError
from deepfake.media import pixels
from tests.media.made_images import (
    draw,
    encode,
    png_chunk,
    read,
)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.new("1", (2, 2), 1), (255, 255, 255), id="1"),
        pytest.param(Image.new("L", (2, 2), 77), (77, 77, 77), id="L"),
        pytest.param(Image.new("RGB", (2, 2), (255, 0, 0)).convert("P"), (255, 0, 0), id="P"),
        pytest.param(Image.new("LA", (2, 2), (0, 0)), (255, 255, 255), id="LA"),
        pytest.param(Image.new("LA", (2, 2), (0, 255)), (0, 0, 0), id="LA-opaque"),
        pytest.param(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255), id="RGBA-hidden"),
        pytest.param(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), (127, 127, 127), id="RGBA-half"),
        pytest.param(Image.new("I;16", (2, 2), 20000), (78, 78, 78), id="I;16"),
        pytest.param(Image.new("I;16", (2, 2), 65535), (255, 255, 255), id="I;16-white"),
    ],
)
def test_converts_png_modes(
    tmp_path: Path, image: Image.Image, expected: tuple[int, int, int]
) -> None:
    frame = read(tmp_path, encode(image, "PNG"))
    assert frame.image.shape == (2, 2, 3)
    assert (frame.image == np.array(expected)).all()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0), id="CMYK"),
        pytest.param(Image.new("YCbCr", (2, 2), (76, 85, 255)), (254, 0, 0), id="YCbCr"),
        pytest.param(Image.new("LAB", (2, 2), (255, 128, 128)), (255, 255, 255), id="LAB"),
        pytest.param(Image.new("I;16B", (2, 2), 25700), (100, 100, 100), id="I;16B"),
        pytest.param(Image.new("I", (2, 2), 25700), (100, 100, 100), id="I-16-bit"),
        pytest.param(Image.new("I", (2, 2), 100), (100, 100, 100), id="I-8-bit"),
        pytest.param(Image.new("F", (2, 2), 0.5), (128, 128, 128), id="F"),
        pytest.param(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), (255, 255, 255), id="RGBA"),
    ],
)
def test_converts_tiff_modes(
    tmp_path: Path, image: Image.Image, expected: tuple[int, int, int]
) -> None:
    frame = read(tmp_path, encode(image, "TIFF"))
    assert np.abs(frame.image.astype(int) - np.array(expected)).max() <= 1


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "HSV", "RGBX"])
def test_converts_modes_that_decoders_may_give(mode: str) -> None:
    grey = Image.new("L", (3, 2), 90)
    image = {
        "PA": lambda: grey.convert("P").convert("PA"),
        "La": lambda: grey.convert("LA").convert("La"),
        "RGBa": lambda: grey.convert("RGBA").convert("RGBa"),
        "HSV": lambda: grey.convert("RGB").convert("HSV"),
        "RGBX": lambda: grey.convert("RGB").convert("RGBX"),
    }[mode]()
    assert image.mode == mode
    assert (pixels.to_rgb(image, "x") == 90).all()


def test_lays_a_transparent_palette_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert (read(tmp_path, encode(image, "PNG", transparency=1)).image == 255).all()


def test_strips_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(draw(61, 40).convert("RGBA"), "PNG")
    whole = read(tmp_path, data).image
    monkeypatch.setattr(pixels, "_STRIP_PX", 100)
    np.testing.assert_array_equal(read(tmp_path, data).image, whole)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param([[0.0, 2.5]], r"floating-point photo with values from 0 to 2\.5", id="big"),
        pytest.param([[-0.1, 0.5]], "values from -0.1 to 0.5", id="negative"),
        pytest.param([[0.5, np.nan]], "NaN or infinity", id="nan"),
        pytest.param([[0.5, np.inf]], "values from 0.5 to inf", id="inf"),
    ],
)
def test_refuses_floats_without_a_known_range(
    tmp_path: Path, values: list[list[float]], message: str
) -> None:
    data = encode(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF")
    with pytest.raises(MediaError, match=f"unsupported: .*{message}"):
        read(tmp_path, data)


def test_refuses_integers_without_a_known_range(tmp_path: Path) -> None:
    data = encode(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "TIFF")
    with pytest.raises(MediaError, match="unsupported: 32-bit photo with values from 0 to 70000"):
        read(tmp_path, data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("alpha", "note"), [(0, "all of it is transparent"), (1, "")])
def test_what_is_transparent_all_over_is_said(
    tmp_path: Path, kind: str, alpha: int, note: str
) -> None:
    image = draw().convert("RGBA")
    image.putalpha(alpha)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert read(tmp_path, encode(image, kind, **options)).note == note


def test_a_palette_that_is_transparent_all_over_is_said(tmp_path: Path) -> None:
    data = encode(draw().convert("P"), "PNG", transparency=bytes(256))
    assert read(tmp_path, data).note == "all of it is transparent"
    assert read(tmp_path, encode(Image.new("RGB", (9, 9), "white"), "PNG")).note == ""


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen_are_said(tmp_path: Path, kind: str) -> None:
    y, x = np.mgrid[0:60, 0:40]
    for most, note in ((4095, "nearly black: no value above 16 of 255"), (65535, "")):
        grey = ((x + y) * most // (x + y).max()).astype(np.uint16)
        frame = read(tmp_path, encode(Image.fromarray(grey), kind))
        assert frame.note.startswith(note)
        assert bool(frame.note) == bool(note)


def test_sixteen_bits_keep_what_their_file_says_of_white_and_of_nothing(tmp_path: Path) -> None:
    dark = encode(Image.new("I;16", (2, 2), 5140), "TIFF")
    assert (read(tmp_path, dark).image == 20).all()
    tag = struct.pack("<HHI", 262, 3, 1)  # what 0 means: black
    assert dark.count(tag + struct.pack("<H", 1)) == 1
    negative = dark.replace(tag + struct.pack("<H", 1), tag + struct.pack("<H", 0))
    assert (read(tmp_path, negative).image == 235).all()
    grey = Image.new("I;16", (2, 1), 5140)
    grey.putpixel((0, 0), 1000)
    clear = encode(grey, "PNG")
    place = clear.index(b"IDAT") - 4
    clear = clear[:place] + png_chunk(b"tRNS", struct.pack(">H", 1000)) + clear[place:]
    assert read(tmp_path, clear).image[0, :, 0].tolist() == [255, 20]
