"""Turns a face box into a window of the frame, and a window into a crop.

Pure functions on arrays; knows no detector, no file and no ``CropSpec``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Window = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` in whole pixels, ``x1`` and ``y1`` exclusive; may leave the frame."""


def measure_box(box_xyxy: Sequence[float] | NDArray[np.float32]) -> float:
    """Size of a face: the shorter side of its box in pixels."""
    x0, y0, x1, y1 = (float(value) for value in box_xyxy)
    return min(x1 - x0, y1 - y0)


def clip_box(box_xyxy: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Cut a box at the borders of a ``height`` x ``width`` frame.

    Returns:
        Box, shape ``(4,)``, in pixels. It has no area if it lay outside the frame.
    """
    return np.clip(box_xyxy, 0, np.array([width, height] * 2, dtype=np.float32))


def entry_window(
    box_xyxy: NDArray[np.float32], height: int, width: int, margins: tuple[float, float]
) -> Window:
    """The contest entry's window: margins with the axes crossed, cut at the border.

    The entry pads ``int(0.135 * box height)`` left and right and ``int(0.10 * box width)`` above
    and below, after truncating the corners to integers: a 100 x 140 face grows by 18 pixels to
    each side and by 10 above and below.

    Args:
        box_xyxy: Detected face, shape ``(4,)``, in pixels.
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        margins: Left-and-right margin as a ratio of the box *height*, and above-and-below margin
            as a ratio of the box *width*.

    Returns:
        Window inside the frame; without area if the box lies outside of it.
    """
    x0, y0, x1, y1 = (int(value) for value in box_xyxy)
    pad_x = int(margins[0] * (y1 - y0))
    pad_y = int(margins[1] * (x1 - x0))
    grown = (x0 - pad_x, y0 - pad_y, x1 + pad_x, y1 + pad_y)
    left, top, right, bottom = np.clip(grown, 0, [width, height] * 2).tolist()
    return (left, top, right, bottom)


def square_window(
    box_xyxy: NDArray[np.float32], height: int, width: int, margin_ratio: float
) -> Window:
    """A square window around a face that keeps its aspect and a margin around it.

    Blending seams sit just outside the face oval, so the margin is part of the signal. A window
    that leaves the frame is moved inside; one that does not fit shrinks to the frame's
    shorter side, but never cuts the box itself. Made-up border pixels are the last resort,
    because a network learns them sooner than it learns faces.

    Args:
        box_xyxy: Detected face, shape ``(4,)``, in pixels; may leave the frame.
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        margin_ratio: Extra width on each side, as a share of the longer box side.

    Returns:
        Square window; without area if the box lies outside the frame.

    Example:
        >>> square_window(np.array([40, 40, 60, 80], dtype=np.float32), 100, 200, 0.25)
        (20, 30, 80, 90)
        >>> square_window(np.array([0, 40, 20, 80], dtype=np.float32), 100, 200, 0.25)
        (0, 30, 60, 90)
    """
    x0, y0, x1, y1 = (float(value) for value in clip_box(box_xyxy, height, width))
    if x1 <= x0 or y1 <= y0:
        return (0, 0, 0, 0)
    longer = max(x1 - x0, y1 - y0)
    most = max(min(height, width), math.ceil(longer))
    side = max(round(min(longer * (1 + 2 * margin_ratio), most)), 1)

    def place(centre: float, extent: int) -> int:
        start = round(centre - side / 2)
        return min(max(start, 0), extent - side) if side <= extent else (extent - side) // 2

    left, top = place((x0 + x1) / 2, width), place((y0 + y1) / 2, height)
    return (left, top, left + side, top + side)


def to_crop(points: NDArray[np.float32], window: Window, size: int) -> NDArray[np.float32]:
    """Where points of a frame lie in the crop that ``cut_window`` makes of it.

    Coordinates name pixel centres, as OpenCV's resize takes them: the frame's ``x`` becomes
    ``(x - x0 + 0.5) * size / (x1 - x0) - 0.5``.

    Args:
        points: ``(N, 2)``, ``(x, y)`` in pixels of the frame, turned as it was when it was cut.
        window: With area.
        size: Side of the crop in pixels.

    Returns:
        ``(N, 2)`` in pixels of the crop; outside of it where a point lay outside the window.

    Example:
        >>> corners = np.array([[20, 30], [79, 89]], dtype=np.float32)
        >>> to_crop(corners, (20, 30, 80, 90), 120).tolist()
        [[0.5, 0.5], [118.5, 118.5]]
    """
    x0, y0, x1, y1 = window
    scale = np.array([size / (x1 - x0), size / (y1 - y0)], dtype=np.float32)
    origin = np.array([x0, y0], dtype=np.float32)
    return np.asarray((points - origin + 0.5) * scale - 0.5, dtype=np.float32)


def cut_window(
    image: NDArray[np.uint8], window: Window, size: int, interpolation: Literal["linear", "auto"]
) -> NDArray[np.uint8]:
    """Cut a window out of a frame and resize it to a square.

    Args:
        image: The frame, ``(H, W, 3)`` uint8.
        window: With area; what lies outside the frame repeats its border.
        size: Side of the result in pixels.
        interpolation: ``linear`` is OpenCV's bilinear without low-pass, as the entry used;
            ``auto`` averages areas to shrink and interpolates bicubically to enlarge.

    Returns:
        Crop, ``(size, size, 3)`` uint8.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = window
    inside = image[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    inside = np.ascontiguousarray(inside)  # the frame may be a turned view
    if inside.shape[:2] != (y1 - y0, x1 - x0):
        borders = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
        bordered = cv2.copyMakeBorder(inside, *borders, borderType=cv2.BORDER_REPLICATE)
        inside = np.asarray(bordered, dtype=np.uint8)
    if interpolation == "linear":
        method = cv2.INTER_LINEAR
    else:
        method = cv2.INTER_AREA if max(inside.shape[:2]) >= size else cv2.INTER_CUBIC
    if inside.shape[:2] == (size, size):
        return inside
    return np.asarray(cv2.resize(inside, (size, size), interpolation=method), dtype=np.uint8)
