"""Open image files with Pillow, whose plugins meet hostile bytes: few formats, every error caught.

Warnings of the decoders are collected, metadata is read with care, and what a plugin raises becomes
a ``MediaError`` that says why.
"""

from __future__ import annotations

import contextlib
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from PIL import Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from deepfake.errors import MediaError, one_line
from deepfake.media.files import is_cut, is_heif

# Formats with a small decoder and no program or scripting language behind it. JPEG is opened by
# its own class below; PSD, PDF, EPS and the dozens of legacy formats of Pillow stay closed.
FORMATS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_FORMAT_WORDS = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC"

_FOREIGN = {
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop's format",
    b"%PDF": "PDF",
    b"FUJIFILMCCD-RAW": "the raw format of a camera",
}
"""What people take for photos and no decoder here is for, by the first bytes."""

# What decoders raise on hostile bytes, seen or possible: Pillow's plugins are Python that parses
# untrusted headers, so plain programming errors such as `IndexError` belong to it.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, EOFError, MemoryError, BufferError, ImportError, RuntimeError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_TRUNCATION = re.compile(
    r"truncat|broken data stream|broken PNG|checksum|\bCRC\b|unexpected end|end of (file|data)"
    r"|not enough (image )?data|decode data|No more data",
    re.IGNORECASE,
)

_ORIENTATION_TAG = 0x0112


def open_with_pillow(file: BinaryIO, name: str) -> Image.Image:
    """Read the header of an image file, not its pixels."""
    head = file.read(64)
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        # `Image.open` judges the full size; only the class itself lets draft() shrink it first.
        return JpegImagePlugin.jpeg_factory(file)
    if is_heif(head):
        return _open_heif(file, name)
    if head[12:16] == b"CgBI":
        raise MediaError(
            name,
            "unsupported",
            "Apple's own variant of PNG (CgBI), as in apps of a phone; save it as a plain PNG",
        )
    for start, kind in _FOREIGN.items():
        if head.startswith(start):
            raise MediaError(
                name, "unsupported", f"{kind} is not read; save it as PNG, without a loss"
            )
    return Image.open(file, formats=FORMATS)


def _open_heif(file: BinaryIO, name: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MediaError(
            name, "unsupported", "HEIC needs an extra package: pip install deepfake[heif]"
        ) from error
    return cast(Image.Image, HeifImageFile(file))


def read_metadata(image: Image.Image) -> tuple[int, list[str]]:
    """EXIF orientation of a decoded image, and remarks on its metadata."""
    notes = []
    value = 1
    try:
        # After load(): TIFF turns itself while loading, PNG may carry its EXIF behind the pixels.
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except DECODER_ERRORS as error:
        notes.append(f"broken EXIF ignored ({one_line(str(error) or type(error).__name__)})")
    if value not in range(9):
        notes.append(f"broken EXIF orientation ignored ({one_line(repr(value))})")
        value = 1
    profile = image.info.get("icc_profile")
    if profile and (not isinstance(profile, bytes) or profile[36:40] != b"acsp"):
        notes.append("broken colour profile ignored")
    # 0 is not in the standard, but cameras write it for "unknown".
    return int(value) or 1, notes


def to_media_error(error: BaseException, file: BinaryIO, name: str) -> MediaError:
    """Say in the words of the product why a file could not be decoded."""
    text = one_line(str(error)) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return MediaError(name, "too_large", text)
    if isinstance(error, MemoryError):
        return MediaError(name, "too_large", "decoding it needs more memory than there is")
    if isinstance(error, OSError) and error.errno is not None:
        return MediaError(name, "io_error", text)
    if is_cut(file):
        return MediaError(name, "truncated", "the file ends before its own header says")
    if isinstance(error, UnidentifiedImageError):
        file.seek(0)
        return MediaError(
            name,
            "decode_error",
            f"no readable {_FORMAT_WORDS} (starts with bytes {file.read(12).hex(' ')})",
        )
    if isinstance(error, (EOFError, zlib.error)) or _TRUNCATION.search(text):
        return MediaError(name, "truncated", text)
    return MediaError(name, "decode_error", f"damaged or unknown content ({text})")


_trap_lock = threading.Lock()
_trap = contextlib.ExitStack()
_trap_users = 0
_ears = threading.local()
_no_log = logging.NullHandler()


@contextlib.contextmanager
def hear_warnings() -> Iterator[list[str]]:
    """Collect the warnings of this thread's decoding; they reach neither terminal nor filters.

    ``warnings.catch_warnings`` swaps state of the whole process: overlapping uses in two threads
    can leave it swapped for good. So the first decoder in sets the trap, the last one out lifts
    it, and each thread hears its own warnings. Meanwhile Pillow must also not fill truncated
    images with grey, even where someone switched that on.
    """
    global _trap_users
    heard: list[str] = []
    with _trap_lock:
        if _trap_users == 0:
            _set_trap()
        _trap_users += 1
    _ears.heard = heard
    try:
        yield heard
    finally:
        _ears.heard = None
        with _trap_lock:
            _trap_users -= 1
            if _trap_users == 0:
                _trap.close()


def _set_trap() -> None:
    # Without any handler, logged errors of a plugin would go to stderr.
    logging.getLogger("PIL").addHandler(_no_log)
    _trap.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("always", module=r"PIL\.")
    pass_on = warnings.showwarning

    def hear(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        heard: list[str] | None = getattr(_ears, "heard", None)
        if heard is None:
            pass_on(message, category, *place, **more)
        elif not issubclass(category, Image.DecompressionBombWarning):
            heard.append(str(message))

    warnings.showwarning = hear
    _trap.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
    ImageFile.LOAD_TRUNCATED_IMAGES = False
