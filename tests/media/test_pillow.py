"""What Pillow raises, warns of and logs stays inside; broken metadata costs a remark only."""

from __future__ import annotations

import logging
import struct
import sys
import threading
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from deepfake.errors import MediaError
from deepfake.media import pillow
from deepfake.media.images import read_image
from tests.media.made_images import (
    draw,
    encode,
    exif_bytes,
    png_chunk,
    read,
)


@pytest.mark.parametrize("value", [9, 200])
def test_ignores_an_impossible_orientation_with_a_note(tmp_path: Path, value: int) -> None:
    frame = read(tmp_path, encode(draw(), "JPEG", exif=exif_bytes(value)))
    assert frame.image.shape == (60, 40, 3)
    assert frame.note == f"broken EXIF orientation ignored ({value})"


def test_orientation_0_is_unknown_not_broken(tmp_path: Path) -> None:
    frame = read(tmp_path, encode(draw(), "JPEG", exif=exif_bytes(0)))
    assert (frame.image.shape, frame.note) == ((60, 40, 3), "")


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"Exif\0\0" + b"garbage" * 5, id="garbage"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0\x05\0", id="cut"),
        pytest.param(b"Exif\0\0" + b"II*\0\xff\xff\xff\x7f", id="offset-outside"),
    ],
)
def test_broken_exif_is_not_fatal(
    tmp_path: Path, exif: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    frame = read(tmp_path, encode(draw(), "JPEG", exif=exif))
    assert frame.image.shape == (60, 40, 3)
    # Pillow passes over EXIF that is no EXIF at all without a word.
    assert frame.note.startswith("broken ") or b"garbage" in exif
    assert capfd.readouterr() == ("", "")


def test_broken_colour_profile_is_not_fatal(tmp_path: Path) -> None:
    frame = read(tmp_path, encode(draw(), "JPEG", icc_profile=b"no profile" * 20))
    assert frame.image.shape == (60, 40, 3)
    assert frame.note == "broken colour profile ignored"


def test_exif_that_breaks_the_parser_is_not_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Image.Image) -> Image.Exif:
        raise ZeroDivisionError("division by zero")

    data = encode(draw(), "JPEG")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert read(tmp_path, data).note == "broken EXIF ignored (division by zero)"


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_without_the_extra(
    tmp_path: Path, brand: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match=r"unsupported: HEIC .*pip install deepfake\[heif\]"):
        read(tmp_path, b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(40), "a.heic")


def test_heic_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pillow_heif")
    module.HeifImageFile = lambda file: draw()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    frame = read(tmp_path, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "a.jpg")
    np.testing.assert_array_equal(frame.image, np.asarray(draw()))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(OSError(5, "Input/output error"), "io_error", id="disk"),
        pytest.param(OSError("image file is truncated"), "truncated", id="truncated"),
        pytest.param(MemoryError(), "too_large", id="memory"),
        pytest.param(Image.DecompressionBombError("bomb"), "too_large", id="bomb"),
        pytest.param(EOFError(), "truncated", id="eof"),
        pytest.param(zlib.error("Error -3"), "truncated", id="zlib"),
        *(
            pytest.param(kind("odd\x1b[2J\nvalue"), "decode_error", id=kind.__name__)
            for kind in (
                SyntaxError,
                ValueError,
                TypeError,
                KeyError,
                IndexError,
                AttributeError,
                ZeroDivisionError,
                OverflowError,
                AssertionError,
                BufferError,
                ImportError,
                RuntimeError,
                NotImplementedError,
                RecursionError,
                struct.error,
            )
        ),
    ],
)
def test_any_decoder_failure_is_a_media_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def fail(image: Image.Image) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MediaError, match=code) as info:
        read(tmp_path, encode(draw(), "PNG"))
    assert info.value.code == code
    assert info.value.detail.isprintable()


def test_warnings_stay_inside(tmp_path: Path) -> None:
    data = encode(draw(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    filters = list(warnings.filters)
    show = warnings.showwarning
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("error")
        assert "Corrupt EXIF data" in read(tmp_path, data).note
    assert leaked == []
    assert warnings.filters == filters
    assert warnings.showwarning is show


def test_warnings_of_others_pass_through(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pillow.hear_warnings() as heard:
            other = threading.Thread(target=warnings.warn, args=("from elsewhere",))
            other.start()
            other.join()
    assert [str(w.message) for w in caught] == ["from elsewhere"]
    assert heard == []


def test_threads_hear_their_own_warnings_and_restore_the_filters(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(
        encode(draw(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    )
    (tmp_path / "good.jpg").write_bytes(encode(draw(), "JPEG"))
    filters = list(warnings.filters)
    notes: dict[str, set[str]] = {"good.jpg": set(), "bad.jpg": set()}

    def work(name: str) -> None:
        for _ in range(30):
            notes[name].add(read_image(tmp_path / name, name).note)

    threads = [threading.Thread(target=work, args=(name,)) for name in notes for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes["good.jpg"] == {""}
    assert len(notes["bad.jpg"]) == 1
    assert "Corrupt EXIF" in notes["bad.jpg"].pop()
    assert warnings.filters == filters


def test_plugins_log_nothing_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    read(tmp_path, encode(draw(), "PNG"))
    logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
    assert capfd.readouterr().err == ""


def test_apples_png_is_named_and_not_called_truncated(tmp_path: Path) -> None:
    data = encode(draw(), "PNG")
    apples = data[:8] + png_chunk(b"CgBI", bytes(4)) + data[8:]
    with pytest.raises(MediaError, match="unsupported: Apple's own variant of PNG"):
        read(tmp_path, apples)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a", "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\x01", "Photoshop's format"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, head: bytes, kind: str) -> None:
    with pytest.raises(MediaError, match=f"unsupported: {kind} is not read; save it as PNG"):
        read(tmp_path, head + bytes(100))
