"""Turn a photo file into one upright RGB frame, or an animated one into a clip of its frames.

What cannot be decoded becomes a ``MediaError`` that says why.

The file is only read, its content decides (never its suffix), and memory stays bounded by
``max_pixels`` whatever the header claims. Embedded colour profiles are not applied: training and
prediction see the stored numbers. The room knows nothing of folders, labels or faces.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from deepfake.errors import MediaError, one_line
from deepfake.media.animation import describe_frames, list_frames, play
from deepfake.media.clips import Clip
from deepfake.media.files import check_size, open_regular_file
from deepfake.media.jpeg import MAX_BYTES as MAX_JPEG_BYTES
from deepfake.media.jpeg import HeardJpeg, decode_jpeg, is_one_scan
from deepfake.media.pillow import (
    DECODER_ERRORS,
    hear_warnings,
    open_with_pillow,
    to_media_error,
)
from deepfake.media.pixels import finish, to_rgb
from deepfake.records import MAX_PIXELS as MAX_PIXELS
from deepfake.records import Frame, Sampling

MAX_BYTES = 512 * 1024 * 1024
"""Largest photo file that is opened at all."""


def read_image(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> Frame:
    """Decode the first image of a file: upright, RGB, 8 bit.

    Grey, palette, CMYK, YCbCr, Lab, HSV and 16-bit images are converted, transparency is laid
    on white, floats are accepted within [0, 1], and the EXIF orientation is applied. A JPEG of up
    to four times ``max_pixels`` is decoded at half its size. Damage to metadata costs a remark in
    ``Frame.note``; damage to pixels costs the image, because a filled-in half is not evidence.

    Args:
        path: The file to open. Links are followed: whoever made the list decided on that.
        name: The file as the user knows it, for errors.
        max_pixels: Largest width x height that is decoded in full. Formats other than JPEG also
            stop at Pillow's own ceiling (``2 * PIL.Image.MAX_IMAGE_PIXELS``).

    Returns:
        Frame 0 at time 0, its image ``(H, W, 3)`` uint8, contiguous and writable.

    Raises:
        MediaError: If there is no image to be had; its ``code`` is one of ``decode_error``,
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
            with hear_warnings() as heard:
                image, notes = _decode(file, n_bytes, name, max_pixels)
        except MediaError:
            raise
        except DECODER_ERRORS as error:
            raise to_media_error(error, file, name) from error
    notes += [f"broken metadata ignored ({one_line(text)})" for text in dict.fromkeys(heard)]
    return Frame(index=0, time_s=0.0, image=image, note="; ".join(notes))


def open_image(path: Path, name: str, sampling: Sampling, max_pixels: int = MAX_PIXELS) -> Clip:
    """Open any image file as a clip: a photo as its one frame, an animation as chosen ones.

    Animated GIF, WebP, PNG and AVIF have the times that the durations of their frames add up to;
    pages of a TIFF are frames at time 0, but for those that are reduced copies or masks of others.
    Each frame is what a viewer would show: laid over those before it, and converted like a photo. A
    stereo or burst JPEG counts as a photo, and so does an animation of more than 32 MiB, whose
    frames nobody may want to count.

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
        numbers = list_frames(file)
        if len(numbers) > 1 or numbers[0] > 0:
            frames = play(file, name, numbers, sampling, max_pixels)
            return Clip(frames, resources.pop_all())
    photo = _show(read_image(path, name, max_pixels))
    return Clip(photo, contextlib.ExitStack(), is_photo=True)


def _show(frame: Frame) -> Generator[Frame, None, str]:
    yield frame
    return ""


def _decode(
    file: BinaryIO, n_bytes: int, name: str, max_pixels: int
) -> tuple[NDArray[np.uint8], list[str]]:
    notes: list[str] = []
    image = open_with_pillow(file, name)
    data = _read_jpeg(file) if image.format in ("JPEG", "MPO") else b""
    width, height = image.size
    if isinstance(image, JpegImagePlugin.JpegImageFile) and width * height > max_pixels:
        _shrink_jpeg(image, data, name, max_pixels)
        notes.append(f"decoded at half size of {width}x{height}")
    check_size(*image.size, name, max_pixels)
    heard = HeardJpeg()
    if data and n_bytes <= MAX_JPEG_BYTES:
        heard = decode_jpeg(data, is_plain=image.mode in ("RGB", "L"), is_huge=bool(notes))
    pixels = heard.pixels
    if pixels is None or pixels.shape[1::-1] != image.size:
        image.load()
        pixels = to_rgb(image, name)
    if heard.damage:
        # A filled-in half is not evidence.
        raise MediaError(name, "decode_error", f"damaged JPEG ({one_line(heard.damage)})")
    if heard.remark:
        notes.append(f"flawed JPEG: {one_line(heard.remark)}")
    pixels, remarks = finish(image, name, pixels)
    return pixels, [*notes, *remarks, *filter(None, [describe_frames(image, n_bytes)])]


def _read_jpeg(file: BinaryIO) -> bytes:
    position = file.tell()
    file.seek(0)
    data = file.read(MAX_JPEG_BYTES)
    file.seek(position)
    return data


def _shrink_jpeg(
    image: JpegImagePlugin.JpegImageFile, data: bytes, name: str, max_pixels: int
) -> None:
    width, height = image.size
    if width * height > 4 * max_pixels:
        limit = f"; JPEGs are decoded up to {4 * max_pixels}"
    elif not is_one_scan(data):
        # The decoder must hold every coefficient of such a file at full size, whatever the scale.
        limit = f" in several scans (progressive); at most {max_pixels} are decoded of these"
    else:
        image.draft(None, (max(1, width // 2), max(1, height // 2)))
        return
    raise MediaError(name, "too_large", f"{width}x{height} pixels{limit}")
