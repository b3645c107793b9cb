"""Photos of every kind, whole and broken, made on the spot; the last tests use real ones."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from deepfake.errors import MediaError
from deepfake.media import images
from deepfake.media.images import read_image
from tests.media.made_images import (
    draw,
    encode,
    exif_bytes,
    is_upright_rgb,
    noisy,
    png_chunk,
    png_header,
    read,
)

REPO = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DEEPFAKE_DATA", REPO.parent / "shared" / "data"))


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        pytest.param("JPEG", {"quality": 95}, 6, id="jpeg"),
        pytest.param("JPEG", {"quality": 95, "progressive": True}, 6, id="progressive"),
        pytest.param("MPO", {"quality": 95}, 6, id="mpo"),
        pytest.param("PNG", {}, 0, id="png"),
        pytest.param("WEBP", {"lossless": True}, 0, id="webp"),
        pytest.param("BMP", {}, 0, id="bmp"),
        pytest.param("TIFF", {}, 0, id="tiff"),
        pytest.param("TIFF", {"compression": "tiff_lzw"}, 0, id="tiff-lzw"),
        pytest.param("GIF", {}, 20, id="gif"),
        pytest.param("AVIF", {"quality": 95}, 8, id="avif"),
    ],
)
def test_reads_every_format_whatever_its_suffix(
    tmp_path: Path, kind: str, options: dict[str, Any], tolerance: int
) -> None:
    frame = read(tmp_path, encode(draw(), kind, **options), "wrong.txt")
    assert is_upright_rgb(frame.image)
    assert (frame.index, frame.time_s, frame.note) == (0, 0.0, "")
    difference = np.abs(frame.image.astype(int) - np.asarray(draw()))
    assert difference.mean() <= tolerance


def test_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(draw(), "JPEG", exif=exif_bytes(6)))
    path.chmod(0o444)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    read_image(path, "a.jpg")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_the_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = draw()
    # Transposing back what the tag asks for; 6 and 8 are each other's inverse.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    options = {"lossless": True} if kind == "WEBP" else {}
    frame = read(tmp_path, encode(stored, kind, exif=exif_bytes(orientation), **options))
    assert frame.image.shape == (60, 40, 3)
    assert is_upright_rgb(frame.image)
    assert np.abs(frame.image.astype(int) - np.asarray(upright)).mean() < 6
    assert frame.note == ""


def test_finds_an_orientation_behind_the_pixels(tmp_path: Path) -> None:
    data = encode(draw(), "PNG")
    exif = png_chunk(b"eXIf", exif_bytes(6).removeprefix(b"Exif\0\0"))
    assert read(tmp_path, data[:-12] + exif + data[-12:]).image.shape == (40, 60, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_takes_the_first_of_several_frames(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (32, 16), (shade, shade, shade)) for shade in (200, 100, 0)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    frame = read(tmp_path, data)
    assert frame.image.shape == (16, 32, 3)
    assert np.abs(frame.image.astype(int) - 200).max() <= 3
    assert frame.note == "first of 3 frames"


def test_broken_later_frames_do_not_cost_the_first(tmp_path: Path) -> None:
    frames = [Image.effect_noise((64, 64), 90) for _ in range(3)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(tmp_path, data[: len(data) // 2]).image.shape == (64, 64, 3)


def test_counts_no_frames_in_huge_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.media.animation.COUNT_FRAMES_BYTES", 10)
    frames = [Image.new("L", (8, 8), shade) for shade in (100, 200)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(tmp_path, data).note == "first of several frames"
    assert read(tmp_path, encode(draw(), "JPEG")).note == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", r"empty file \(0 bytes\)", id="0-byte"),
        pytest.param(
            b"this is not a photo", "no readable JPEG, .*starts with bytes 74 68", id="text"
        ),
        pytest.param(bytes(range(256)), "no readable JPEG", id="bytes"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no readable", id="eps"),
        pytest.param(b"\0\0\0\x20ftypisom" + bytes(40), "no readable JPEG", id="mp4"),
        pytest.param(b"P6 2 2 255\n" + bytes(12), "no readable JPEG", id="ppm"),
        pytest.param(b"\xff\xd8\xff", "", id="jpeg-3-bytes"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF", "", id="jpeg-header-only"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "", id="png-8-bytes"),
    ],
)
def test_says_that_it_is_no_photo(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(
        MediaError, match=r"photo\.jpg: (decode_error|truncated): " + message
    ) as info:
        read(tmp_path, data)
    assert info.value.path == "photo.jpg"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("JPEG", {}, id="jpeg"),
        pytest.param("JPEG", {"progressive": True}, id="progressive"),
        pytest.param("PNG", {}, id="png"),
        pytest.param("WEBP", {}, id="webp"),
        pytest.param("WEBP", {"lossless": True}, id="webp-lossless"),
        pytest.param("BMP", {}, id="bmp"),
        pytest.param("GIF", {}, id="gif"),
        pytest.param("AVIF", {}, id="avif"),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.98])
def test_gives_no_half_picture(
    tmp_path: Path, kind: str, options: dict[str, Any], share: float
) -> None:
    data = noisy(kind, **options)
    with pytest.raises(MediaError, match="truncated: "):
        read(tmp_path, data[: int(len(data) * share)])


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "jpeg"])
def test_gives_no_half_tiff(tmp_path: Path, compression: str | None) -> None:
    # A TIFF keeps its table of contents at either end: a cut may cost that instead of pixels.
    data = noisy("TIFF", compression=compression)
    with pytest.raises(MediaError, match=r"(truncated|decode_error): "):
        read(tmp_path, data[: len(data) // 2])


def test_notices_a_wrong_checksum(tmp_path: Path) -> None:
    data = bytearray(noisy("PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(MediaError, match="truncated: "):
        read(tmp_path, bytes(data))


def test_fills_nothing_even_if_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = noisy("JPEG")
    with pytest.raises(MediaError, match="truncated: "):
        read(tmp_path, data[: len(data) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_refuses_a_forged_size_before_decoding(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"too_large: .*400000000 pixels"):
        read(tmp_path, png_header(20000, 20000) + png_chunk(b"IDAT", zlib.compress(bytes(900))))


def test_refuses_more_than_max_pixels(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="too_large: 40x60 pixels; at most 2399 are decoded"):
        read(tmp_path, encode(draw(), "PNG"), max_pixels=2399)
    assert read(tmp_path, encode(draw(), "PNG"), max_pixels=2400).image.shape == (60, 40, 3)


def test_decodes_a_large_jpeg_at_half_size(tmp_path: Path) -> None:
    frame = read(tmp_path, encode(draw(600, 400), "JPEG", quality=95), max_pixels=60_000)
    assert frame.image.shape == (300, 200, 3)
    assert frame.note == "decoded at half size of 400x600"
    small = np.asarray(draw(600, 400).resize((200, 300), Image.Resampling.BOX)).astype(int)
    assert np.abs(frame.image - small).mean() < 4


def test_turns_a_large_jpeg_after_shrinking(tmp_path: Path) -> None:
    data = encode(draw(600, 400), "JPEG", exif=exif_bytes(6))
    assert read(tmp_path, data, max_pixels=60_000).image.shape == (200, 300, 3)


def test_refuses_a_jpeg_of_over_four_times_max_pixels(tmp_path: Path) -> None:
    with pytest.raises(
        MediaError, match="too_large: 400x600 pixels; JPEGs are decoded up to 23999"
    ):
        read(tmp_path, encode(draw(600, 400), "JPEG"), max_pixels=59_999)


def test_refuses_a_large_progressive_jpeg(tmp_path: Path) -> None:
    data = encode(draw(600, 400), "JPEG", progressive=True)
    with pytest.raises(MediaError, match="too_large: 400x600 pixels in several scans"):
        read(tmp_path, data, max_pixels=60_000)
    assert read(tmp_path, data).image.shape == (600, 400, 3)


def test_refuses_a_forged_jpeg_size(tmp_path: Path) -> None:
    data = bytearray(encode(draw(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    with pytest.raises(MediaError, match="too_large: 60000x60000 pixels"):
        read(tmp_path, bytes(data))


def test_refuses_a_huge_file_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    path.touch()
    os.truncate(path, images.MAX_BYTES + 1)
    with pytest.raises(MediaError, match=f"too_large: {images.MAX_BYTES + 1} bytes"):
        read_image(path, "huge.jpg")


@pytest.mark.timeout(20)
def test_does_not_touch_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(MediaError, match=r"x.jpg: not_regular_file: a fifo"):
        read_image(tmp_path / "x.jpg", "x.jpg")


needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real media in {DATA}; set DEEPFAKE_DATA to their folder"
)


@pytest.mark.data
@needs_data
def test_hostile_files_give_a_photo_or_a_media_error() -> None:
    import resource

    paths = sorted(path for path in (DATA / "hostile").rglob("*") if path.is_file())
    assert len(paths) > 100
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"ok": 0}
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).digest()
        try:
            frame = read_image(path, path.name)
        except MediaError as error:
            outcomes[error.code] = outcomes.get(error.code, 0) + 1
        else:
            outcomes["ok"] += 1
            assert is_upright_rgb(frame.image), path
        assert hashlib.sha256(path.read_bytes()).digest() == digest, path
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 3_000_000
    assert sum(outcomes.values()) == len(paths)
    assert set(outcomes) <= {"ok", "decode_error", "truncated", "too_large", "unsupported"}


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    ("folder", "reference", "pattern", "tolerance"),
    [
        pytest.param(
            "derived_public_domain",
            "exif_orientation_1.jpg",
            "exif_orientation_*",
            3.0,
            id="portrait-exif",
        ),
        pytest.param(
            "derived_public_domain", "exif_orientation_1.jpg", "rgb.[twa]*", 3.0, id="formats"
        ),
        pytest.param(
            "derived_public_domain", "exif_orientation_1.jpg", "gray*", 4.0, id="grey-16-bit"
        ),
        pytest.param("derived_public_domain", "exif_orientation_1.jpg", "cmyk.jpg", 3.0, id="cmyk"),
        pytest.param(
            "derived_public_domain", "exif_orientation_1.jpg", "palette_P.png", 12.0, id="palette"
        ),
        pytest.param(
            "exif-orientation-examples", "Portrait_1.jpg", "Portrait_*.jpg", 3.0, id="landscapes"
        ),
        pytest.param("pillow_hopper", "hopper.jpg", "hopper_orientation_*", 6.0, id="hopper-exif"),
        pytest.param("pillow_hopper", "hopper.png", "hopper.Lab.tif", 4.0, id="lab"),
    ],
)
def test_forms_of_one_photo_decode_alike(
    folder: str, reference: str, pattern: str, tolerance: float
) -> None:
    root = DATA / "faces" / folder
    expected = read_image(root / reference, reference).image.mean(axis=2)
    paths = sorted(root.glob(pattern))
    assert paths
    for path in paths:
        image = read_image(path, path.name).image
        assert image.shape[:2] == expected.shape, path
        # Brightness, because some forms are grey; it turns with the picture all the same.
        assert np.abs(image.mean(axis=2) - expected).mean() < tolerance, path


@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_jpeg_is_unreadable_and_one_without_its_end_is_not(
    tmp_path: Path, progressive: bool
) -> None:
    data = noisy("JPEG", progressive=progressive)
    whole = read(tmp_path, data)
    frame = read(tmp_path, data[:-2])
    assert frame.note == "flawed JPEG: the end marker is missing"
    np.testing.assert_array_equal(frame.image, whole.image)
    middle = (data.rindex(b"\xff\xda") + len(data)) // 2
    with pytest.raises(MediaError, match=r"decode_error: damaged JPEG \(Corrupt JPEG data: "):
        read(tmp_path, data[:middle] + data[-2:])


@pytest.mark.data
@needs_data
def test_the_jpeg_cases() -> None:
    cases = DATA / "cases"
    assert read_image(cases / "damaged_jpeg" / "plain.jpg", "plain").note == ""
    for name in ("lost_packet.jpg", "face_zero_hole.jpg"):
        with pytest.raises(MediaError, match="decode_error: damaged JPEG"):
            read_image(cases / "damaged_jpeg" / name, name)
    frame = read_image(cases / "missing_eoi" / "no_eoi.jpg", "no_eoi.jpg")
    assert frame.note == "flawed JPEG: the end marker is missing"
