"""Turns a face, by its box or its points, into a window of the frame, and a window into a crop.

Pure functions on arrays; knows no detector, no file and no ``CropSpec``.

References:
    Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns",
    TPAMI 1991 (the similarity).
    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019 (the
    template).
    Yan et al., "DeepfakeBench: A Comprehensive Benchmark of Deepfake Detection", NeurIPS 2023
    (that template with a margin, for forgeries).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.records import TurnedWindow, Window

_TEMPLATE_PX = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
TEMPLATE: NDArray[np.float64] = np.array(_TEMPLATE_PX) / 112
"""Eyes, nose and corners of the mouth of an aligned face, ``(5, 2)``, in sides of a square."""
# How well five points can be laid over the template: 1 is exactly; points on a line reach 0.783 at
# most, faces in profile lie between.
_LEAST_FIT = 0.8
# What bicubic interpolation looks at beyond a point, and a pixel for rounding.
_REACH_PX = 3


def measure_box(box_xyxy: Sequence[float] | NDArray[np.float32]) -> float:
    """Size of a face: the shorter side of its box in pixels."""
    x0, y0, x1, y1 = (float(value) for value in box_xyxy)
    return min(x1 - x0, y1 - y0)


def measure_boxes(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same of many, ``(N, 4)`` to ``(N,)``."""
    x0, y0, x1, y1 = boxes_xyxy.reshape(-1, 4).T
    return np.minimum(x1 - x0, y1 - y0)


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


def aligned_window(
    landmarks: NDArray[np.float32], height: int, width: int, margin_ratio: float
) -> TurnedWindow:
    """The window in which a face stands upright, its five points near those of the template.

    The similarity (turn, scale and shift, no mirroring) with the least squared distances from the
    template. Its window may leave the frame, whose border is then repeated: moved inside, it
    would hold the points elsewhere.

    Args:
        landmarks: ``(5, 2)``, pixels of the frame.
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        margin_ratio: Extra width on each side, as a share of the template's side.

    Returns:
        Square window, in hundredths of a pixel; without area if no similarity brings the points
        near the template (they lie on a line or in one spot, or are mirrored), or if their middle
        lies outside the frame.
    """
    # Points of a plane as complex numbers: to turn and scale is to multiply.
    points = (landmarks.astype(np.float64) + 0.5) @ [1, 1j]
    aims = (TEMPLATE + margin_ratio) / (1 + 2 * margin_ratio) @ [1, 1j]
    middle = points.mean()
    offsets, wanted = points - middle, aims - aims.mean()
    spread, product = np.linalg.norm(offsets), np.vdot(offsets, wanted)
    is_near = abs(product) >= _LEAST_FIT * spread * np.linalg.norm(wanted)
    if not spread or not is_near or not (0 <= middle.real < width and 0 <= middle.imag < height):
        return TurnedWindow(0, 0, 0, 0, 0)
    factor = product / spread**2  # from pixels to sides of the crop
    centre = middle + (0.5 + 0.5j - aims.mean()) / factor
    # Rounded before anything is cut, so that what is stored of it is all of it.
    side = round(float(1 / abs(factor)), 2)
    left, top = (round(float(value) - side / 2, 2) for value in (centre.real, centre.imag))
    right, bottom = round(left + side, 2), round(top + side, 2)
    return TurnedWindow(left, top, right, bottom, round(float(-np.angle(factor, deg=True)), 4))


def to_crop(
    points: NDArray[np.float32], window: Window | TurnedWindow, size: int
) -> NDArray[np.float32]:
    """Where points of a frame lie in the crop that is cut of a window.

    Coordinates name pixel centres, as OpenCV's resize takes them: in an upright window the
    frame's ``x`` becomes ``(x - x0 + 0.5) * size / (x1 - x0) - 0.5``.

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
    affine = _affine(window, size)
    return np.asarray(points @ affine[:, :2].T + affine[:, 2], dtype=np.float32)


def to_frame(
    points: NDArray[np.float32], window: Window | TurnedWindow, size: int
) -> NDArray[np.float32]:
    """Where points of a crop, ``(N, 2)``, lie in its frame: the inverse of ``to_crop``."""
    affine = _affine(window, size)
    inverse = np.linalg.inv(affine[:, :2])
    return np.asarray((points - affine[:, 2]) @ inverse.T, dtype=np.float32)


def _affine(window: Window | TurnedWindow, size: int) -> NDArray[np.float64]:
    """The map from pixels of the frame to those of the crop, ``(2, 3)``."""
    x0, y0, x1, y1 = window[:4]
    angle = math.radians(window.angle) if isinstance(window, TurnedWindow) else 0.0
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    linear = turn * np.array([[size / (x1 - x0)], [size / (y1 - y0)]])
    middle = np.array([x0 + x1, y0 + y1]) / 2
    shift = (size - 1) / 2 - linear @ (middle - 0.5)
    return np.asarray(np.c_[linear, shift], dtype=np.float64)


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


def cut_turned(
    image: NDArray[np.uint8],
    window: TurnedWindow,
    size: int,
    interpolation: Literal["linear", "auto"],
) -> NDArray[np.uint8]:
    """Cut a turned window out of a frame, as an upright square.

    Args:
        image: The frame, ``(H, W, 3)`` uint8 RGB.
        window: With area; what lies outside the frame repeats its border.
        size: Side of the result in pixels.
        interpolation: ``linear`` is OpenCV's bilinear without low-pass; ``auto`` averages areas to
            shrink, and turns bicubically.

    Returns:
        Crop, ``(size, size, 3)`` uint8.
    """
    height, width = image.shape[:2]
    factor = max((window.x1 - window.x0) / size, 1.0)
    # The upright part of the frame that holds the window.
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float32) - 0.5
    reached = to_frame(corners, window, size)
    left, top = (max(math.floor(edge - _REACH_PX * factor), 0) for edge in reached.min(axis=0))
    right, bottom = (math.ceil(edge + _REACH_PX * factor) for edge in reached.max(axis=0))
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = max(min(right, width), left + 1), max(min(bottom, height), top + 1)
    part = np.ascontiguousarray(image[top:bottom, left:right])  # the frame may be a turned view
    affine = np.r_[_affine(window, size), [[0, 0, 1]]] @ [[1, 0, left], [0, 1, top], [0, 0, 1]]
    if interpolation == "linear":
        method = cv2.INTER_LINEAR
    else:
        method = cv2.INTER_CUBIC
        shrunk = [max(round(side / factor), 1) for side in (right - left, bottom - top)]
        scale_x, scale_y = (right - left) / shrunk[0], (bottom - top) / shrunk[1]
        part = np.asarray(cv2.resize(part, shrunk, interpolation=cv2.INTER_AREA), np.uint8)
        # Pixel centres, as in ``to_crop``.
        affine = affine @ [
            [scale_x, 0, (scale_x - 1) / 2],
            [0, scale_y, (scale_y - 1) / 2],
            [0, 0, 1],
        ]
    upright = cv2.warpAffine(
        part, affine[:2], (size, size), flags=method, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(upright, dtype=np.uint8)
