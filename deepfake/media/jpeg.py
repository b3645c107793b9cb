"""The fast way for JPEGs that are whole: OpenCV's decoder, which gives Pillow's pixels.

Pillow stores four bytes a pixel and copies them twice on the way to an array. Both libraries decode
with libjpeg-turbo, but only a file whose markers lead from its beginning to its end is taken here:
Pillow stays the judge of everything cut, odd or not three plain channels. Knows nothing of errors
that users see.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 64 * 1024 * 1024
"""Larger files are not worth holding in memory as a whole."""

# In the entropy-coded data, neither a stuffed byte, nor a restart, nor the first of two fill bytes.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_FRAMES = (0xC0, 0xC1, 0xC2)  # Huffman, sequential or progressive
_TABLES = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))  # also comments and application data
_END, _SCAN = 0xD9, 0xDA


def decode_whole_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG, not turned by its EXIF orientation.

    Args:
        data: The file; whatever follows the image's end does not count.

    Returns:
        ``(H, W, 3)`` uint8 RGB, or ``None`` where Pillow must decide: what is no 8-bit Huffman
        JPEG of one or three channels, has anything unexpected between its segments, or ends before
        its end marker.
    """
    if not _is_whole(data):
        return None
    # Here: commands that only list files read this room's names, and have no use for OpenCV.
    import cv2

    try:
        pixels = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:
        return None
    return None if pixels is None else np.asarray(pixels, dtype=np.uint8)


def _is_whole(data: bytes) -> bool:
    at = 2
    is_progressive: bool | None = None
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        start, at = at + 4, at + 2 + length
        if length < 2:
            return False
        if marker in _FRAMES:
            if is_progressive is not None:
                return False
            is_progressive = marker == 0xC2
            # Precision in bits, height, width, number of channels.
            if data[start : start + 1] != b"\x08" or data[start + 5 : start + 6] not in (
                b"\x01",
                b"\x03",
            ):
                return False
        elif marker == _SCAN:
            end = _END_OF_SCAN.search(data, at)
            if is_progressive is None or end is None:
                return False
            at = end.start()
            if data[at + 1] == _END:
                return True
            # Of a sequential image, OpenCV ignores an error in what follows its last row.
            if not is_progressive:
                return False
        elif marker not in _TABLES:
            return False
    return False
