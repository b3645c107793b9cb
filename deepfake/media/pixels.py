"""Convert the pixels of a decoded image of any mode to upright 8-bit RGB."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepfake.errors import MediaError
from deepfake.media.pillow import read_metadata

_STRIP_PX = 4_000_000
_PHOTOMETRIC = 262  # TIFF 6.0: 0 is "white is zero"
_NEARLY_BLACK = 16  # the brightest of 8 bits that 12 bits in 16 can reach


def to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert strip by strip: one RGB copy of the image, and no second one in between."""
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
            if image.mode.startswith("I;16"):
                grey = _finish_16_bits(image, grey)
            if not np.isfinite(grey).all():
                raise MediaError(name, "unsupported", "floating-point photo with NaN or infinity")
            rgb[top:bottom] = np.rint(grey * scale).astype(np.uint8)[:, :, np.newaxis]
    return rgb


def describe_pixels(image: Image.Image, rgb: NDArray[np.uint8]) -> list[str]:
    """Remarks on a decoded image that shows nothing, though it may hold something."""
    if rgb.min() == 255 and image.has_transparency_data:
        if image.convert("RGBA").getchannel("A").getextrema()[1] == 0:
            return ["all of it is transparent"]
    elif rgb.max() <= _NEARLY_BLACK:
        hint = " (12 bits stored as 16?)" if image.mode.startswith("I") else ""
        return [f"nearly black: no value above {rgb.max()} of 255{hint}"]
    return []


def _grey_scale(image: Image.Image, name: str) -> float | None:
    """Factor that brings a grey image of more than 8 bits to 0..255; ``None`` for the rest."""
    if image.mode.startswith("I;16"):
        return 1 / 257
    if image.mode not in ("I", "F"):
        return None
    low, high = cast(tuple[float, float], image.getextrema())  # of one channel
    if image.mode == "F" and 0 <= low <= high <= 1:
        return 255.0
    # 32-bit integers carry 8-bit or 16-bit photos; the file does not say which.
    if image.mode == "I" and 0 <= low <= high <= 65535:
        return 1.0 if high <= 255 else 1 / 257
    raise MediaError(
        name,
        "unsupported",
        f"{'floating-point' if image.mode == 'F' else '32-bit'} photo with values from {low:g} to"
        f" {high:g}; convert it to 8 bit",
    )


def _finish_16_bits(image: Image.Image, grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """What Pillow does for 8 bits only: white as 0, and the value that stands for nothing."""
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(grey == clear, 65535.0, grey)
    is_white_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return 65535.0 - grey if is_white_zero else grey


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


def finish(
    image: Image.Image, name: str, rgb: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.uint8], list[str]]:
    """Upright RGB pixels of a decoded image, and remarks on them and on its metadata.

    Args:
        image: The image, loaded.
        name: The file as the user knows it, for errors.
        rgb: Its pixels, where another decoder gave them.
    """
    rgb = to_rgb(image, name) if rgb is None else rgb
    orientation, notes = read_metadata(image)
    return to_upright(rgb, orientation), notes + describe_pixels(image, rgb)


def to_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror an image as its EXIF orientation (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
