"""Where the parts of a face lie in its crop, and crops with some of them hidden.

Everything follows from landmarks in pixels of the crop, ``(x, y)``: the detector's five (eyes,
nose, corners of the mouth; the left of the crop first), the 68 of the iBUG scheme where a
manifest brings them, or the 468 of the face mesh, 68 of which stand for those. Of five points the
others are inferred: a drawn frontal face with all 68 is laid over them. Pure functions of crop,
points and a random generator; knows no recipe and no file.

References:
    Sagonas et al., "300 Faces in-the-Wild Challenge", ICCV workshops 2013 (the 68 points).
    Seferbekov, winner of the Deepfake Detection Challenge, 2020 (face-part cut-out, half face).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

Crop = NDArray[np.uint8]
"""A crop, ``(S, S, 3)`` RGB, or a mask of its size, ``(S, S)``."""
Points = NDArray[np.float32]
"""Landmarks, ``(5, 2)``, ``(68, 2)`` or ``(468, 2)``, or other points in pixels of a crop."""

POINT_COUNTS = (5, 68, 468)
"""How many landmarks a face may have."""
_JAW, _BROWS, _NOSE = range(17), range(17, 27), range(27, 36)
_EYES, _LEFT_EYE, _RIGHT_EYE = range(36, 48), range(36, 42), range(42, 48)
_LEFT_BROW, _RIGHT_BROW = range(17, 22), range(22, 27)
_RIDGE = range(27, 31)
# The points of the mesh that lie where the 68 are, in their order.
_MESH_68 = (
    *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),  # jaw
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # brows
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),  # nose
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips
)
# The rim of the mesh, from the middle of the forehead on.
_MESH_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
# How far the forehead rises above the brows, as a share of the way from chin to brows.
_FOREHEAD = 0.3


def draw_frontal_face() -> Points:
    """68 points of a plain frontal face, ``(68, 2)``; its eyes lie at (-1, 0) and (1, 0)."""
    angle = np.linspace(np.pi, 2 * np.pi, 17)
    jaw = np.stack([1.95 * np.cos(angle), 0.1 - 3.3 * np.sin(angle)], axis=1)
    arch = np.linspace(0, np.pi, 5)
    brow = np.stack([np.linspace(-1.6, -0.4, 5), -0.5 - 0.2 * np.sin(arch)], axis=1)
    ridge = [(0, y) for y in np.linspace(0, 1.14, 4)]
    nostrils = [(x, 1.5 - 0.25 * abs(x)) for x in np.linspace(-0.45, 0.45, 5)]
    eye = np.array(
        [(-0.4, 0), (-0.15, -0.15), (0.15, -0.15), (0.4, 0), (0.15, 0.15), (-0.15, 0.15)]
    )
    eyes = [eye + np.array([x, 0]) for x in (-1, 1)]
    lips = [_draw_lips(12, 0.83, 0.35), _draw_lips(8, 0.65, 0.12)]
    parts = [jaw, brow, brow[::-1] * (-1, 1), ridge, nostrils, *eyes, *lips]
    return np.concatenate(parts).astype(np.float32)


def _draw_lips(count: int, width: float, height: float) -> NDArray[np.float64]:
    """Points on an ellipse around the mouth, from its left corner over the upper lip."""
    angle = np.arange(count) * 2 * np.pi / count
    return np.stack([-width * np.cos(angle), 2.31 - height * np.sin(angle)], axis=1)


def to_five(points: Points) -> Points:
    """Eyes, nose and corners of the mouth, ``(5, 2)``, of all landmarks of a face."""
    if len(points) == POINT_COUNTS[0]:
        return points
    points = to_68(points)
    eyes = [points[list(eye)].mean(axis=0) for eye in (_LEFT_EYE, _RIGHT_EYE)]
    return np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float32)


def to_68(points: Points) -> Points:
    """All 68 points, ``(68, 2)``; of five, the others are inferred by the best affine map."""
    if len(points) == POINT_COUNTS[1]:
        return points
    if len(points) == POINT_COUNTS[2]:
        return points[list(_MESH_68)]
    face = draw_frontal_face()
    known = np.c_[to_five(face), np.ones(5)]
    affine = np.linalg.lstsq(known, points.astype(np.float64), rcond=None)[0]
    return np.asarray(np.c_[face, np.ones(len(face))] @ affine, dtype=np.float32)


def outline(points: Points, with_forehead: bool = True) -> Points:
    """Jaw and brows, or jaw and forehead: the points whose hull is the face."""
    if with_forehead and len(points) == POINT_COUNTS[2]:
        return points[list(_MESH_OVAL)]
    face = to_68(points)
    brows = face[list(_BROWS)]
    top = _raise_brows(face) if with_forehead else brows
    return np.concatenate([face[list(_JAW)], top])


def face_area(points: Points) -> float:
    """Area of the face in square pixels of the crop."""
    return float(cv2.contourArea(cv2.convexHull(outline(points).astype(np.float32))))


def _raise_brows(face: Points) -> Points:
    brows = face[list(_BROWS)]
    return np.asarray(brows + _FOREHEAD * (brows.mean(axis=0) - face[8]), dtype=np.float32)


_PARTS = MappingProxyType(
    {
        "upper": (0, 1, 2, 14, 15, 16),
        "eyes": (*_EYES, *_BROWS),
        "left": (*range(9), *_LEFT_BROW, *_RIDGE),
        "right": (*range(8, 17), *_RIGHT_BROW, *_RIDGE),
        "nose": tuple(_NOSE),
        "forehead": tuple(_BROWS),
    }
)
"""Of the 68 points, those whose hull is a part that ``blind_face`` hides."""
# The contest entry drew one of seven cases, and two of them were the same polygon.
BLIND_CASES = ("upper", "eyes", "left", "right", "nose", "upper", "forehead")


def hull_mask(points: Points, size: int) -> Crop:
    """The hull of some points as a ``(size, size)`` mask of 0 and 255."""
    mask = np.zeros((size, size), np.uint8)
    # OpenCV draws in fixed-point numbers: a point far outside must not wrap around.
    near = np.clip(np.rint(points), -4 * size, 5 * size).astype(np.int32)
    cv2.fillConvexPoly(mask, cv2.convexHull(near), 255)
    return mask


def part_of_face(name: str, points: Points) -> Points:
    """The points whose hull is a part of the face, one of ``BLIND_CASES``."""
    face = to_68(points)
    part = face[list(_PARTS[name])]
    if name in ("upper", "forehead"):
        return np.concatenate([part, _raise_brows(face)])
    return part


def blind_face(image: Crop, points: Points, rng: np.random.Generator) -> Crop:
    """Blacken a part of the face: the contest entry's seven cases.

    The upper face with probability 2/7; eyes, left half, right half, nose and forehead with 1/7
    each. The entry filled polygons that were not convex with a function for convex ones; here it
    is the hull of the same points.
    """
    part = part_of_face(BLIND_CASES[rng.integers(len(BLIND_CASES))], points)
    return _blacken(image, hull_mask(part, len(image)))


def cut_out_part(image: Crop, points: Points, rng: np.random.Generator) -> Crop:
    """Blacken eyes, mouth or nose by a thick line between landmarks: the DFDC winner's.

    Eyes with probability 1/2, mouth 1/4, nose 1/8, nothing 1/8. The line is as wide as half the
    distance of its ends for eyes and nose (the nose's from the eyes'), two thirds for the mouth.
    """
    left, right, nose, mouth_left, mouth_right = to_five(points)
    between = (left + right) / 2
    eyes_apart = float(np.linalg.norm(right - left))
    choice = rng.random()
    if choice < 1 / 2:
        return _blacken_line(image, left, right, eyes_apart / 4)
    if choice < 3 / 4:
        mouth = float(np.linalg.norm(mouth_right - mouth_left))
        return _blacken_line(image, mouth_left, mouth_right, mouth / 3)
    if choice < 7 / 8:
        return _blacken_line(image, nose, between, eyes_apart / 4)
    return image


def hide_half(image: Crop, points: Points, rng: np.random.Generator) -> Crop:
    """Blacken the upper, lower, left or right half of the face: the DFDC winner's.

    The face is the hull of jaw and brows; it is halved at its centre of gravity.
    """
    mask = hull_mask(outline(points, with_forehead=False), len(image))
    moments = cv2.moments(mask, binaryImage=True)
    choice = int(rng.integers(4))
    if not moments["m00"]:
        return image
    x, y = int(moments["m10"] / moments["m00"]), int(moments["m01"] / moments["m00"])
    kept: Sequence[tuple[slice, slice]] = [
        (slice(0, y), slice(None)),
        (slice(y, None), slice(None)),
        (slice(None), slice(0, x)),
        (slice(None), slice(x, None)),
    ]
    mask[kept[choice]] = 0
    return _blacken(image, mask)


def _blacken(image: Crop, mask: Crop) -> Crop:
    hidden = image.copy()
    hidden[mask > 0] = 0
    return hidden


def _blacken_line(image: Crop, start: Points, end: Points, half_width: float) -> Crop:
    hidden = image.copy()
    size = len(image)
    ends = [
        tuple(int(value) for value in np.clip(np.rint(point), -size, 2 * size))
        for point in (start, end)
    ]
    thickness = 2 * min(max(round(half_width), 1), size) + 1
    cv2.line(hidden, ends[0], ends[1], (0, 0, 0), thickness)
    return hidden
