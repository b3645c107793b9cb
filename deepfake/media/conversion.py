"""Turn a decoded video frame into upright 8-bit RGB, as a player would show it."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from deepfake.errors import MediaError, one_line
from deepfake.media.files import check_size

_LEAST_ASPECT, _MOST_ASPECT = 1.02, 4.0


class FrameConverter:
    """Converts the frames of one video, one after the other.

    Args:
        name: The file as the user knows it, for errors.
        max_pixels: Largest width x height of a frame.
        pixel_aspect: Width of a pixel divided by its height, where the file tells.
    """

    def __init__(self, name: str, max_pixels: int, pixel_aspect: Fraction | None = None) -> None:
        self._name = name
        self._max_pixels = max_pixels
        self._pixel_aspect = float(pixel_aspect or 1)
        self._reformatter = VideoReformatter()
        self._matrices: dict[int, list[int]] = {}

    def convert(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Pixels of a frame, ``(H, W, 3)`` RGB, turned and mirrored as the container asks.

        Raises:
            MediaError: ``too_large``, or ``unsupported`` for pixels of a kind that FFmpeg cannot
                convert.
        """
        check_size(frame.width, frame.height, self._name, self._max_pixels, what="a frame of ")
        try:
            width, height = self._find_display_size(frame.width, frame.height)
            rgb = self._reformatter.reformat(
                frame, width, height, format="rgb24", threads=1
            ).to_ndarray()
            if frame.rotation not in self._matrices:
                self._matrices[frame.rotation] = _read_display_matrix(frame)
            return _to_upright(rgb.astype(np.uint8, copy=False), self._matrices[frame.rotation])
        except MemoryError as error:
            raise MediaError(
                self._name, "too_large", "decoding it needs more memory than there is"
            ) from error
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(
                self._name,
                "unsupported",
                f"no way from pixels of kind {frame.format.name} to RGB ({one_line(str(error))})",
            ) from error

    def _find_display_size(self, width: int, height: int) -> tuple[int, int]:
        """The size at which pixels are square, the shorter side stretched.

        Ratios near 1 are rounding errors of muxers, and those far from it errors of another kind.
        """
        aspect = self._pixel_aspect
        if not _LEAST_ASPECT <= max(aspect, 1 / aspect) <= _MOST_ASPECT:
            return width, height
        wide = round(width * max(aspect, 1)), round(height * max(1 / aspect, 1))
        if wide[0] * wide[1] <= self._max_pixels:
            return wide
        return round(width * min(aspect, 1)), round(height * min(1 / aspect, 1))


def _read_display_matrix(frame: VideoFrame) -> list[int]:
    """The first five of nine numbers, or none.

    Once PyAV is asked for it, the frame lives on until the garbage collector runs: do not ask
    every frame.
    """
    # PyAV's stubs call the container a mapping by name; what it holds is what iterating gives.
    for data in cast(Iterable[SideData], frame.side_data):
        if data.type == Type.DISPLAYMATRIX and data.buffer_size >= 20:
            return [int(value) for value in np.frombuffer(bytes(data), dtype="=i4")[:5]]
    return []


def _to_upright(rgb: NDArray[np.uint8], matrix: list[int]) -> NDArray[np.uint8]:
    """Turn and mirror a frame as its display matrix says, to the nearest quarter turn."""
    if matrix:
        # Column x, row y goes to column a*x + c*y, row b*x + d*y.
        a, b, _, c, d = matrix
        if abs(a) + abs(d) < abs(b) + abs(c):
            rgb = rgb.transpose(1, 0, 2)
            a, d = c, b
        if a < 0:
            rgb = rgb[:, ::-1]
        if d < 0:
            rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)
