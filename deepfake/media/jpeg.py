"""Decode JPEGs with a decoder that says what was wrong: libjpeg's warnings are heard.

libjpeg fills a hole in a JPEG with grey, warns, and goes on; neither Pillow nor OpenCV passes the
warning on. ``simplejpeg`` does, and gives Pillow's pixels. Pillow stays the judge of what is odd:
four channels, forged headers. Knows nothing of files.

References:
    The warnings: ``jerror.h`` of libjpeg-turbo, ``JWRN_*``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 64 * 1024 * 1024
"""Larger files are not worth holding in memory as a whole."""

_END = b"\xff\xd9"
_NO_END = "Premature end of JPEG file"
# Pixels are made up where one of these is heard.
_DAMAGE = re.compile(
    r"[Pp]remature end|bad Huffman code|bad arithmetic code|instead of RST|bad progression"
)
# All that libjpeg warns of begins so; what it cannot decode at all has other words.
_WARNING = re.compile(
    r"Corrupt JPEG data|Premature end|Inconsistent progression|Invalid SOS|Unknown Adobe|Warning"
)
# Markers whose segments hold no pixels: comments and application data but Adobe's colour transform.
_METADATA = (0xFE, *range(0xE0, 0xEE), 0xEF)

# In the data of a scan, neither a stuffed byte, nor a restart, nor the first of two fill bytes.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_SCAN = 0xDA
_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)  # Huffman


class HeardJpeg(NamedTuple):
    """What came of decoding a JPEG."""

    pixels: NDArray[np.uint8] | None = None
    """``(H, W, 3)`` RGB, not turned by its EXIF orientation; ``None`` where Pillow must decide."""

    remark: str = ""
    """What was wrong with all but the pixels; empty if nothing was."""

    damage: str = ""
    """What was wrong with the pixels; empty if nothing was."""


def decode_jpeg(data: bytes, *, is_plain: bool, is_huge: bool = False) -> HeardJpeg:
    """Decode the first photo of a JPEG file, and listen.

    Args:
        data: The file; whatever follows the photo's end does not count.
        is_plain: It has one or three channels. Others are decoded for the warnings alone.
        is_huge: Decode only for the warnings, with little memory.
    """
    heard = _decode(data, is_plain, is_huge)
    if heard.damage == _NO_END:
        mended = _decode(data + _END, is_plain, is_huge)
        if not mended.damage and _has_all_scans(data):
            return mended._replace(remark="the end marker is missing")
    return heard


def _decode(data: bytes, is_plain: bool, is_huge: bool) -> HeardJpeg:
    warning, pixels = _listen(data, is_plain, is_huge)
    if not _WARNING.match(warning):
        return HeardJpeg(pixels)
    # Only the first warning is heard. Without what holds no pixels, it is one about pixels.
    later, _ = _listen(_strip(data), is_plain, is_huge)
    told = [text for text in (later, warning) if later and _DAMAGE.search(text)]
    damage = told[0] if told else ""
    return HeardJpeg(remark="" if damage else warning, damage=damage)


def _listen(data: bytes, is_plain: bool, is_huge: bool) -> tuple[str, NDArray[np.uint8] | None]:
    """The first warning or error, and without one the pixels, if they are wanted."""
    # Here: commands that only list files read this room's names, and decode nothing.
    import simplejpeg

    try:
        if is_plain and not is_huge:
            return "", np.asarray(simplejpeg.decode_jpeg(data, "RGB"), dtype=np.uint8)
        space = "GRAY" if is_plain else "CMYK"
        simplejpeg.decode_jpeg(data, space, min_factor=8 if is_huge else 1)
    except (ValueError, MemoryError) as error:
        return str(error), None
    return "", None


def _strip(data: bytes) -> bytes:
    """A JPEG without its metadata and what lies between its segments, to decode all the same."""
    parts = [data[:2]]
    for marker, start, end in _iter_segments(data):
        if marker == _SCAN:
            return b"".join([*parts, data[start:]])
        if marker not in _METADATA:
            parts.append(data[start:end])
    return data


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans before the missing end cover every bit of every coefficient."""
    n_channels = 0
    missing_bits: dict[tuple[int, int], int] = {}  # (channel, coefficient) -> lowest bit so far
    for marker, start, _ in _iter_segments(data):
        body = data[start + 4 :]
        if marker in _FRAMES:
            n_channels = body[5] if len(body) > 5 else 0
        elif marker == _SCAN:
            n = body[0] if body else 0
            if len(body) < 4 + 2 * n:
                return False
            first, last, bits = body[1 + 2 * n : 4 + 2 * n]
            for channel in body[1 : 1 + 2 * n : 2]:
                for coefficient in range(first, last + 1):
                    missing_bits[channel, coefficient] = bits & 15
    return 0 < len(missing_bits) == 64 * n_channels and not any(missing_bits.values())


def is_one_scan(data: bytes) -> bool:
    """Whether a JPEG stores its image in one sequential scan, which decodes row by row."""
    n_channels = 0
    for marker, start, _ in _iter_segments(data):
        if marker in _FRAMES:
            n_channels = (
                0 if marker == _PROGRESSIVE else int.from_bytes(data[start + 9 : start + 10])
            )
        elif marker == _SCAN:
            return data[start + 4 : start + 5] == bytes([n_channels]) and n_channels > 0
    return False


def _iter_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment; the data of a scan lies between two."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None and found.end() + 2 <= len(data):
        start = found.start()
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
        yield data[start + 1], start, at
