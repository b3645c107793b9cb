"""Turn a photo file into one upright RGB frame, or an animated one into a clip of its frames.

What cannot be decoded becomes a ``MediaError`` that says why.

The file is only read, its content decides (never its suffix), and memory stays bounded by
``max_pixels`` whatever the header claims. Embedded colour profiles are not applied: training and
prediction see the stored numbers. The room knows nothing of folders, labels or faces.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from deepfake.errors import MediaError, one_line
from deepfake.media.clips import Clip, choose_frames
from deepfake.media.files import is_cut, is_heif, is_one_scan, open_regular_file
from deepfake.media.jpeg import MAX_BYTES as MAX_JPEG_BYTES
from deepfake.media.jpeg import decode_whole_jpeg
from deepfake.records import MAX_PIXELS, Frame, Sampling

MAX_BYTES = 512 * 1024 * 1024
"""Largest photo file that is opened at all."""

# Formats with a small decoder and no program or scripting language behind it. JPEG is opened by
# its own class below; PSD, PDF, EPS and the dozens of legacy formats of Pillow stay closed.
_FORMATS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
_FORMAT_WORDS = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC"

# What decoders raise on hostile bytes, seen or possible: Pillow's plugins are Python that parses
# untrusted headers, so plain programming errors such as `IndexError` belong to it.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    BufferError,
    ImportError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_TRUNCATION = re.compile(
    r"truncat|broken data stream|broken PNG|checksum|\bCRC\b|unexpected end|end of (file|data)"
    r"|not enough (image )?data|decode data|No more data",
    re.IGNORECASE,
)

_STRIP_PX = 4_000_000
_COUNT_FRAMES_BYTES = 32 * 1024 * 1024
_ORIENTATION_TAG = 0x0112


def read_image(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> Frame:
    """Decode the first picture of a file: upright, RGB, 8 bit.

    Grey, palette, CMYK, YCbCr, Lab, HSV and 16-bit pictures are converted, transparency is laid
    on white, floats are accepted within [0, 1], and the EXIF orientation is applied. A JPEG of up
    to four times ``max_pixels`` is decoded at half its size. Damage to metadata costs a remark in
    ``Frame.note``; damage to pixels costs the picture, because a filled-in half is not evidence.

    Args:
        path: The file to open. Links are followed: whoever made the list decided on that.
        name: The file as the user knows it, for errors.
        max_pixels: Largest width x height that is decoded in full. Formats other than JPEG also
            stop at Pillow's own ceiling (``2 * PIL.Image.MAX_IMAGE_PIXELS``).

    Returns:
        Frame 0 at time 0, its image ``(H, W, 3)`` uint8, contiguous and writable.

    Raises:
        MediaError: If there is no picture to be had; its ``code`` is one of ``decode_error``,
            ``truncated``, ``too_large``, ``unsupported``, ``not_regular_file``, ``io_error``.
    """
    with open_regular_file(path, name) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > MAX_BYTES:
            raise MediaError(
                name, "too_large", f"{n_bytes} bytes; photos may have up to {MAX_BYTES}"
            )
        if n_bytes == 0:
            raise MediaError(name, "decode_error", "empty file (0 bytes)")
        try:
            with _pillow_warnings() as heard:
                image, notes = _decode(file, n_bytes, name, max_pixels)
        except MediaError:
            raise
        except _DECODER_ERRORS as error:
            raise _to_media_error(error, file, name) from error
    notes += [f"broken metadata ignored ({one_line(text)})" for text in dict.fromkeys(heard)]
    return Frame(index=0, time_s=0.0, image=image, note="; ".join(notes))


def open_picture(path: Path, name: str, sampling: Sampling, max_pixels: int = MAX_PIXELS) -> Clip:
    """Open any picture file as a clip: a photo as its one frame, an animation as chosen ones.

    Animated GIF, WebP, PNG and AVIF have the times that the durations of their frames add up to;
    pages of a TIFF are frames at time 0. Each frame is what a viewer would show: laid over those
    before it, and converted like a photo. A stereo or burst JPEG counts as a photo, and so does an
    animation of more than 32 MiB, whose frames nobody may want to count.

    Args:
        path: The file to open; its content decides what it is. Links are followed.
        name: The file as the user knows it, for errors.
        sampling: Which frames; a photo is always its one frame. There are no keyframes here, so
            both modes are the same.
        max_pixels: Largest width x height of a frame.

    Returns:
        The frames, decoded while they are asked for.

    Raises:
        MediaError: As ``read_image``. Of an animation it may show only at the first frame.
    """
    with contextlib.ExitStack() as resources:
        file = resources.enter_context(open_regular_file(path, name))
        n_frames = _count_frames(file)
        if n_frames > 1:
            frames = _play(file, name, n_frames, sampling, max_pixels)
            return Clip(frames, resources.pop_all())
    return Clip(_show(read_image(path, name, max_pixels)), contextlib.ExitStack())


def _decode(
    file: BinaryIO, n_bytes: int, name: str, max_pixels: int
) -> tuple[NDArray[np.uint8], list[str]]:
    notes: list[str] = []
    image = _open_image(file, name)
    full_size = image.size
    if isinstance(image, JpegImagePlugin.JpegImageFile) and _n_pixels(image) > max_pixels:
        _shrink_jpeg(image, file, name, max_pixels)
        notes.append(f"decoded at half size of {full_size[0]}x{full_size[1]}")
    _check_size(image, name, max_pixels)
    pixels = None if notes else _decode_jpeg(image, file, n_bytes)
    if pixels is None:
        image.load()
        pixels = _to_rgb(image, name)
    orientation, remarks = _read_metadata(image)
    pixels = _to_upright(pixels, orientation)
    notes += remarks
    note = _describe_frames(image, n_bytes)
    notes += [note] if note else []
    return pixels, notes


def _decode_jpeg(image: Image.Image, file: BinaryIO, n_bytes: int) -> NDArray[np.uint8] | None:
    """Pixels of a JPEG that nothing is wrong with; ``None`` for all other pictures."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return None
    if n_bytes > MAX_JPEG_BYTES:
        return None
    position = file.tell()
    file.seek(0)
    pixels = decode_whole_jpeg(file.read(MAX_JPEG_BYTES))
    file.seek(position)
    return pixels if pixels is not None and pixels.shape[1::-1] == image.size else None


def _read_metadata(image: Image.Image) -> tuple[int, list[str]]:
    """EXIF orientation of a decoded picture, and remarks on its metadata."""
    notes = []
    # After load(): TIFF turns itself while loading, PNG may carry its EXIF behind the pixels.
    orientation, note = _read_orientation(image)
    notes += [note] if note else []
    profile = image.info.get("icc_profile")
    if profile and (not isinstance(profile, bytes) or profile[36:40] != b"acsp"):
        notes.append("broken colour profile ignored")
    return orientation, notes


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if _n_pixels(image) > max_pixels:
        raise MediaError(
            name,
            "too_large",
            f"{image.width}x{image.height} pixels; at most {max_pixels} are decoded",
        )


def _n_pixels(image: Image.Image) -> int:
    return image.width * image.height


def _open_image(file: BinaryIO, name: str) -> Image.Image:
    head = file.read(64)
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        # `Image.open` judges the full size; only the class itself lets draft() shrink it first.
        return JpegImagePlugin.jpeg_factory(file)
    if is_heif(head):
        return _open_heif(file, name)
    return Image.open(file, formats=_FORMATS)


def _open_heif(file: BinaryIO, name: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MediaError(
            name, "unsupported", "HEIC needs an extra package: pip install deepfake[heif]"
        ) from error
    image = HeifImageFile(file)
    if not isinstance(image, Image.Image):
        raise TypeError(f"pillow_heif gave a {type(image).__name__}")
    return image


def _shrink_jpeg(
    image: JpegImagePlugin.JpegImageFile, file: BinaryIO, name: str, max_pixels: int
) -> None:
    width, height = image.size
    if width * height > 4 * max_pixels:
        raise MediaError(
            name,
            "too_large",
            f"{width}x{height} pixels; JPEGs are decoded up to {4 * max_pixels}",
        )
    if not is_one_scan(file):
        # The decoder must hold every coefficient of such a file at full size, whatever the scale.
        raise MediaError(
            name,
            "too_large",
            f"{width}x{height} pixels in several scans (progressive); at most {max_pixels} are"
            " decoded of these",
        )
    image.draft(None, (max(1, width // 2), max(1, height // 2)))


def _read_orientation(image: Image.Image) -> tuple[int, str]:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS as error:
        return 1, f"broken EXIF ignored ({one_line(str(error) or type(error).__name__)})"
    # 0 is not in the standard, but cameras write it for "unknown".
    if value in range(9):
        return int(value) or 1, ""
    return 1, f"broken EXIF orientation ignored ({one_line(repr(value))})"


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert strip by strip: one RGB copy of the picture, and no second one in between."""
    scale = _grey_scale(image, name)
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PX // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        # Cutting costs as much as decoding does, and most photos are one strip.
        strip = image.crop((0, top, image.width, bottom)) if rows < image.height else image
        if scale is None:
            rgb[top:bottom] = np.asarray(_on_white(strip))
        else:
            grey = np.asarray(strip).astype(np.float64)
            if not np.isfinite(grey).all():
                raise MediaError(name, "unsupported", "floating-point picture with NaN or infinity")
            rgb[top:bottom] = np.rint(grey * scale).astype(np.uint8)[:, :, np.newaxis]
    return rgb


def _grey_scale(image: Image.Image, name: str) -> float | None:
    """Factor that brings a grey picture of more than 8 bits to 0..255; ``None`` for the rest."""
    if image.mode.startswith("I;16"):
        return 1 / 257
    if image.mode not in ("I", "F"):
        return None
    low, high = image.getextrema()
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise TypeError(f"extrema ({low}, {high}) of a picture with one channel")
    if image.mode == "F" and 0 <= low <= high <= 1:
        return 255.0
    # 32-bit integers carry 8-bit or 16-bit photos; the file does not say which.
    if image.mode == "I" and 0 <= low <= high <= 65535:
        return 1.0 if high <= 255 else 1 / 257
    raise MediaError(
        name,
        "unsupported",
        f"{'floating-point' if image.mode == 'F' else '32-bit'} picture with values from {low:g} to"
        f" {high:g}; convert it to 8 bit",
    )


def _on_white(strip: Image.Image) -> Image.Image:
    if strip.mode == "La":
        strip = strip.convert("LA")
    if strip.has_transparency_data:
        # Dropping alpha would show whatever colour hides below it.
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        white.alpha_composite(strip.convert("RGBA"))
        strip = white
    # Converting what is RGB would copy it.
    return strip if strip.mode == "RGB" else strip.convert("RGB")


def _to_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _describe_frames(image: Image.Image, n_bytes: int) -> str:
    try:
        # Counting walks the whole file, which in a big hostile one takes minutes.
        if n_bytes > _COUNT_FRAMES_BYTES:
            return "first of several frames" if getattr(image, "is_animated", False) else ""
        n_frames = getattr(image, "n_frames", 1)
    except _DECODER_ERRORS:
        return "first of several frames, of which some are broken"
    return f"first of {n_frames} frames" if n_frames > 1 else ""


def _to_media_error(error: BaseException, file: BinaryIO, name: str) -> MediaError:
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


class _BrokenFrameError(Exception):
    """Frame ``index`` of an animation cannot be decoded, and none after it."""

    def __init__(self, index: int, reason: MediaError) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason


def _count_frames(file: BinaryIO) -> int:
    """Frames of an animation; 1 for photos, for what is no picture and for what is too big."""
    if not 0 < os.fstat(file.fileno()).st_size <= _COUNT_FRAMES_BYTES:
        return 1
    head = file.read(64)
    if head.startswith(b"\xff\xd8\xff") or is_heif(head):
        return 1
    file.seek(0)
    try:
        with _pillow_warnings():
            n_frames = getattr(Image.open(file, formats=_FORMATS), "n_frames", 1)
    except _DECODER_ERRORS:
        return 1
    return n_frames if isinstance(n_frames, int) else 1


def _show(frame: Frame) -> Generator[Frame, None, str]:
    yield frame
    return ""


def _play(
    file: BinaryIO, name: str, n_frames: int, sampling: Sampling, max_pixels: int
) -> Generator[Frame, None, str]:
    # Without a rate, only the number of frames counts, and not their times.
    times_s: Sequence[float] = range(n_frames)
    broken: _BrokenFrameError | None = None
    if sampling.fps is not None:
        times_s = []
        try:
            for time_s in _iter_times(file, name, n_frames, max_pixels):
                times_s.append(time_s)
        except _BrokenFrameError as error:
            broken = error
    n_delivered = 0
    remark = ""
    while n_delivered == 0:
        if broken is not None and broken.index == 0:
            raise broken.reason
        chosen, remark = choose_frames(times_s, sampling)
        try:
            for frame in _iter_frames(file, name, chosen, max_pixels):
                n_delivered += 1
                yield frame
        except _BrokenFrameError as error:
            # Choose again among those before it, unless some are out already.
            broken = error
            times_s = times_s[: error.index]
    if broken is None:
        return remark
    damage = f"damaged: {broken.index} of {n_frames} frames decoded"
    return "; ".join(filter(None, [damage, remark]))


def _iter_times(file: BinaryIO, name: str, n_frames: int, max_pixels: int) -> Iterator[float]:
    for _, time_s, _ in _iter_loaded(file, name, range(n_frames), max_pixels):
        yield time_s


def _iter_frames(
    file: BinaryIO, name: str, chosen: Sequence[int], max_pixels: int
) -> Iterator[Frame]:
    wanted = frozenset(chosen)
    for index, time_s, image in _iter_loaded(file, name, chosen, max_pixels):
        if index in wanted:
            with _decoder_errors(file, name, index) as heard:
                pixels = _to_rgb(image, name)
                orientation, notes = _read_metadata(image)
                pixels = _to_upright(pixels, orientation)
            notes += [f"broken metadata ignored ({one_line(text)})" for text in heard]
            yield Frame(index=index, time_s=time_s, image=pixels, note="; ".join(notes))


def _iter_loaded(
    file: BinaryIO, name: str, chosen: Sequence[int], max_pixels: int
) -> Iterator[tuple[int, float, Image.Image]]:
    """Load the chosen frames and, where frames build on each other, all those before them."""
    with _decoder_errors(file, name, 0):
        file.seek(0)
        image = Image.open(file, formats=_FORMATS)
    are_pages = image.format == "TIFF"
    time_s = 0.0
    for index in chosen if are_pages else range(chosen[-1] + 1):
        with _decoder_errors(file, name, index):
            image.seek(index)
            _check_size(image, name, max_pixels)
            image.load()
        yield index, time_s, image
        duration_ms = 0 if are_pages else image.info.get("duration", 0)
        # Whatever a broken file has in place of a number.
        if isinstance(duration_ms, (int, float)) and 0 < duration_ms < math.inf:
            time_s += duration_ms / 1000


@contextlib.contextmanager
def _decoder_errors(file: BinaryIO, name: str, index: int) -> Iterator[list[str]]:
    try:
        with _pillow_warnings() as heard:
            yield heard
    except MediaError as error:
        raise _BrokenFrameError(index, error) from error
    except _DECODER_ERRORS as error:
        raise _BrokenFrameError(index, _to_media_error(error, file, name)) from error


_trap_lock = threading.Lock()
_trap = contextlib.ExitStack()
_trap_users = 0
_ears = threading.local()
_no_log = logging.NullHandler()


@contextlib.contextmanager
def _pillow_warnings() -> Iterator[list[str]]:
    """Collect the warnings of this thread's decoding; they reach neither terminal nor filters.

    ``warnings.catch_warnings`` swaps state of the whole process: overlapping uses in two threads
    can leave it swapped for good. So the first decoder in sets the trap, the last one out lifts
    it, and each thread hears its own warnings. Meanwhile Pillow must also not fill truncated
    pictures with grey, even where someone switched that on.
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

    def hear(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        heard: list[str] | None = getattr(_ears, "heard", None)
        if heard is None:
            pass_on(message, category, filename, lineno, file, line)
        elif not issubclass(category, Image.DecompressionBombWarning):
            heard.append(str(message))

    warnings.showwarning = hear
    _trap.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
    ImageFile.LOAD_TRUNCATED_IMAGES = False
