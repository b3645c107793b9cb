"""Play an animated image file: GIF, WebP, PNG and AVIF with their times, TIFF page by page.

Each frame is what a viewer would show: laid over those before it, and converted like a photo.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Generator, Iterator, Sequence
from typing import BinaryIO

from PIL import Image

from deepfake.errors import MediaError, one_line
from deepfake.media.clips import choose_frames
from deepfake.media.files import check_size, is_heif
from deepfake.media.pillow import DECODER_ERRORS, FORMATS, hear_warnings, to_media_error
from deepfake.media.pixels import finish
from deepfake.records import Frame, Sampling

COUNT_FRAMES_BYTES = 32 * 1024 * 1024
"""Frames of larger files are not counted: that walks the whole file."""


# TIFF 6.0: bit 0 of the first tag is a reduced copy of another page, bit 2 a mask; the second tag
# is the old one, where 2 is a reduced copy.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255
_COPY_OR_MASK = 0b101


class _BrokenFrameError(Exception):
    """Frame ``index`` of an animation cannot be decoded, and none after it."""

    def __init__(self, index: int, reason: MediaError) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason


def list_frames(file: BinaryIO) -> Sequence[int]:
    """Where the frames of an animation are in its file, or the pages of a TIFF.

    A photo has frame 0 alone, and so has what is no image and what is too big.
    """
    if not 0 < os.fstat(file.fileno()).st_size <= COUNT_FRAMES_BYTES:
        return [0]
    head = file.read(64)
    if head.startswith(b"\xff\xd8\xff") or is_heif(head):
        return [0]
    file.seek(0)
    try:
        with hear_warnings():
            return _list_frames(Image.open(file, formats=FORMATS))
    except DECODER_ERRORS:
        return [0]


def _list_frames(image: Image.Image) -> Sequence[int]:
    n_frames = int(getattr(image, "n_frames", 1))
    if image.format != "TIFF":
        # What a PNG shows to who plays nothing may be no part of what it plays.
        return range(int(getattr(image, "default_image", False)), n_frames)
    pages = []
    for page in range(n_frames):
        image.seek(page)
        tags = getattr(image, "tag_v2", {})
        kind = tags.get(_NEW_SUBFILE_TYPE, 0)
        if not (isinstance(kind, int) and kind & _COPY_OR_MASK) and tags.get(_SUBFILE_TYPE) != 2:
            pages.append(page)
    image.seek(0)
    return pages or [0]


def describe_frames(image: Image.Image, n_bytes: int) -> str:
    """Say of which of how many frames a photo is the first; empty for the only one."""
    try:
        # Counting walks the whole file, which in a big hostile one takes minutes.
        if n_bytes > COUNT_FRAMES_BYTES:
            return "first of several frames" if getattr(image, "is_animated", False) else ""
        n_frames = len(_list_frames(image))
    except DECODER_ERRORS:
        return "first of several frames, of which some are broken"
    return f"first of {n_frames} frames" if n_frames > 1 else ""


def play(
    file: BinaryIO, name: str, numbers: Sequence[int], sampling: Sampling, max_pixels: int
) -> Generator[Frame, None, str]:
    """Decode the chosen frames of an animation; the generator's result is the remark.

    Raises:
        MediaError: If not one frame can be decoded.
    """
    animation = _Animation(file, name, numbers, max_pixels)
    n_frames = len(numbers)
    # Without a rate, only the number of frames counts, and not their times.
    times_s: Sequence[float] = range(n_frames)
    broken: _BrokenFrameError | None = None
    if sampling.fps is not None:
        times_s = []
        try:
            for _, time_s, _ in animation.load(range(n_frames)):
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
            for frame in animation.decode(chosen):
                n_delivered += 1
                yield frame
        except _BrokenFrameError as error:
            # Choose again among those before it, unless some are out already.
            broken = error
            times_s = times_s[: error.index]
    if broken is None:
        return remark
    damage = f"damaged: {n_frames - broken.index} of {n_frames} frames"
    return "; ".join(filter(None, [damage, remark]))


class _Animation:
    """The frames of one open animation, or the pages of one TIFF."""

    def __init__(self, file: BinaryIO, name: str, numbers: Sequence[int], max_pixels: int) -> None:
        self._file, self._name = file, name
        self._numbers, self._max_pixels = numbers, max_pixels

    def decode(self, chosen: Sequence[int]) -> Iterator[Frame]:
        wanted = frozenset(chosen)
        for index, time_s, image in self.load(chosen):
            if index in wanted:
                with self._errors(index) as heard:
                    pixels, notes = finish(image, self._name)
                notes += [f"broken metadata ignored ({one_line(text)})" for text in heard]
                yield Frame(index=index, time_s=time_s, image=pixels, note="; ".join(notes))

    def load(self, chosen: Sequence[int]) -> Iterator[tuple[int, float, Image.Image]]:
        """Load the chosen frames and, where frames build on each other, all those before them."""
        with self._errors(0):
            self._file.seek(0)
            image = Image.open(self._file, formats=FORMATS)
        are_pages = image.format == "TIFF"
        time_s = 0.0
        for index in chosen if are_pages else range(chosen[-1] + 1):
            with self._errors(index):
                image.seek(self._numbers[index])
                check_size(*image.size, self._name, self._max_pixels)
                image.load()
            yield index, time_s, image
            duration_ms = 0 if are_pages else image.info.get("duration", 0)
            # Whatever a broken file has in place of a number.
            if isinstance(duration_ms, (int, float)) and 0 < duration_ms < math.inf:
                time_s += duration_ms / 1000

    @contextlib.contextmanager
    def _errors(self, index: int) -> Iterator[list[str]]:
        try:
            with hear_warnings() as heard:
                yield heard
        except MediaError as error:
            raise _BrokenFrameError(index, error) from error
        except DECODER_ERRORS as error:
            reason = to_media_error(error, self._file, self._name)
            raise _BrokenFrameError(index, reason) from error
