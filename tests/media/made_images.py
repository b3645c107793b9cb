"""Photos of every kind, made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepfake.media.images import read_image
from deepfake.records import Frame

ORIENTATION = 0x0112


def draw(height: int = 60, width: int = 40) -> Image.Image:
    """Smooth, and different in every corner: red to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 40)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noisy(kind: str, **options: Any) -> bytes:
    """A picture that compresses badly, so that a cut always hits pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), kind, **options)


def read(tmp_path: Path, data: bytes, name: str = "photo.jpg", **options: Any) -> Frame:
    path = tmp_path / name
    path.write_bytes(data)
    return read_image(path, name, **options)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    )


def exif_bytes(orientation: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def is_upright_rgb(image: NDArray[np.uint8]) -> bool:
    return (
        image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and min(image.shape) > 0
        and image.flags.c_contiguous
        and image.flags.writeable
    )
