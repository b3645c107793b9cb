"""The photos that two comparisons share, and the plain way to a face of one of them.

Not a benchmark itself: ``crop_job.py`` and ``predict.py`` read it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from facenet_pytorch import MTCNN as REFERENCE
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deepfake.errors import MediaError
from deepfake.media.discovery import discover
from deepfake.media.images import read_image

Box = tuple[float, float, float, float]


def find_photos() -> Path:
    """The folder of real photos, where nobody names another."""
    data = os.environ.get("DEEPFAKE_DATA", Path(__file__).parents[2] / "shared" / "data")
    return Path(data) / "faces"


def collect(source: Path, target: Path, limit: int) -> int:
    """Copy JPEGs with a face and a longer side of 600 to 2000 px, evenly chosen; how many.

    Only JPEGs: Pillow's plain conversion spoils 16-bit and transparent PNGs, and then the two sides
    would not look at the same picture.
    """
    target.mkdir()
    detector = REFERENCE(min_face_size=40, keep_all=True)
    chosen = []
    for found in discover(source).sources:
        if found.path.suffix.lower() not in (".jpg", ".jpeg"):
            continue
        try:
            image = read_image(found.path, found.name).image
        except MediaError:
            continue
        if 600 <= max(image.shape[:2]) <= 2000 and detector.detect(image)[0] is not None:
            chosen.append(found.path)
    chosen = chosen[:: max(1, len(chosen) // limit)][:limit]
    for number, path in enumerate(chosen):
        (target / f"{number:03d}.jpg").write_bytes(path.read_bytes())
    return len(chosen)


def open_photo(path: Path) -> Image.Image:
    """An upright RGB picture."""
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def cut_faces(detector: REFERENCE, image: Image.Image, size: int) -> list[tuple[Box, Image.Image]]:
    """What people write: boxes, largest first, and a square around each at this size."""
    found, _ = detector.detect(image)
    return [] if found is None else [(to_box(box), cut_square(image, box, size)) for box in found]


def cut_face(detector: REFERENCE, image: Image.Image, size: int) -> tuple[Box, Image.Image] | None:
    """The same of the largest face alone."""
    found, _ = detector.detect(image)
    return None if found is None else (to_box(found[0]), cut_square(image, found[0], size))


def to_box(found: NDArray[np.float32]) -> Box:
    """Plain numbers."""
    x0, y0, x1, y1 = (float(value) for value in found)
    return x0, y0, x1, y1


def cut_square(image: Image.Image, found: NDArray[np.float32], size: int) -> Image.Image:
    """A square around a box, at this size."""
    x0, y0, x1, y1 = to_box(found)
    side = 1.4 * max(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    face = image.crop((round(x - side), round(y - side), round(x + side), round(y + side)))
    return face.resize((size, size), Image.Resampling.BILINEAR)
