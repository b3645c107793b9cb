"""Photos and videos that are no files yet: written down, they go the way of all files.

A decoder takes a file, and a worker process sees no memory of ours: so pixels become a lossless PNG
and bytes become what they are, in a folder of the caller. Scores are those of the same file.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepfake.errors import MediaError, UsageError
from deepfake.media.pillow import DECODER_ERRORS
from deepfake.media.pixels import finish, to_rgb
from deepfake.records import Source

Picture = bytes | bytearray | memoryview | NDArray[np.uint8] | Image.Image
"""The bytes of a photo or video file, RGB pixels ``(H, W, 3)`` uint8, or a picture of Pillow."""
KINDS = bytes | bytearray | memoryview | np.ndarray | Image.Image
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_ORIENTATION = 0x0112  # in EXIF


def keep_as_file(picture: Picture, folder: Path, number: int) -> Source:
    """Write a photo or video down.

    Args:
        picture: What to write.
        folder: Where.
        number: Which one of its folder, from 1; stands in its name.

    Raises:
        UsageError: If it is an array of another kind.
    """
    problem = None
    if isinstance(picture, np.ndarray):
        word, content = "array", _encode_array(picture)
    elif isinstance(picture, Image.Image):
        word = "picture"
        try:
            content = _encode_picture(picture)
        except MediaError as error:
            content, problem = b"", error.reason
        except DECODER_ERRORS as error:  # an opened file is decoded only now
            content, problem = b"", f"decode_error: {error}"
    else:
        word, content = "bytes", bytes(picture)
    path = folder / f"{word}-{number}"
    path.write_bytes(content)
    return Source("", path, f"<{word} {number}>", problem=problem)


def _encode_array(pixels: NDArray[np.uint8]) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UsageError(
            f"an array of shape {pixels.shape} and type {pixels.dtype} is no photo; expected RGB "
            "pixels (H, W, 3) as uint8 from 0 to 255 (of OpenCV's BGR: array[..., ::-1]); several "
            "photos are a list of arrays"
        )
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    is_written, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not is_written:
        raise UsageError(f"an array of shape {pixels.shape} is too long for a photo")
    return bytes(data)


def _encode_picture(picture: Image.Image) -> bytes:
    """As PNG: as it is where PNG can hold that, with its orientation, else as upright RGB."""
    picture.load()  # a TIFF is turned by it; what its orientation says is true after that only
    if picture.mode not in _PNG_MODES:
        pixels, _ = finish(picture, "picture", to_rgb(picture, "picture"))
        return _encode_array(pixels)
    exif = Image.Exif()
    orientation = picture.getexif().get(_ORIENTATION)
    if orientation is not None:
        exif[_ORIENTATION] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1, exif=exif)
    return buffer.getvalue()
