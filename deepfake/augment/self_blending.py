"""Crops blended: with patterns, and with themselves, slightly changed; and lower resolutions.

Pure functions of crop, landmarks in pixels of the crop, and a random generator; knows no label,
no recipe and no file.

References:
    Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022.
    Li et al., "Face X-ray for More General Face Forgery Detection", CVPR 2020 (hulls and masks).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.augment.face_parts import Crop, Points, hull_mask, outline, to_68

Floats = NDArray[np.float32]

PATTERN_ALPHA = 0.2
"""Weight of the pattern in ``blend_pattern``; the contest entry's."""
_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)  # the paper's
_UPSCALING = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


def draw_pattern(size: int, rng: np.random.Generator) -> Crop:
    """A pattern in two random colours: stripes, checks, rings, dots, waves or cloudy noise.

    Returns:
        ``(size, size, 3)`` uint8 RGB.
    """
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    pitch = 2 * np.pi * rng.uniform(4, 24)
    kind = int(rng.integers(6))
    if kind == 0:
        level = np.sin(pitch * u) > 0
    elif kind == 1:
        level = np.sin(pitch * u) * np.sin(pitch * v) > 0
    elif kind == 2:
        centre = rng.uniform(0, 1, 2)
        level = np.sin(pitch * np.hypot(x - centre[0], y - centre[1])) > 0
    elif kind == 3:
        level = np.cos(pitch * u) + np.cos(pitch * v) > 1
    elif kind == 4:
        level = (1 + np.sin(pitch * u + 3 * np.sin(pitch / 3 * v))) / 2
    else:
        coarse = rng.random((int(rng.integers(4, 33)),) * 2).astype(np.float32)
        level = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
    colours = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    mixed = colours[0] + np.asarray(level, np.float32)[..., None] * (colours[1] - colours[0])
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def blend_pattern(image: Crop, points: Points, rng: np.random.Generator) -> Crop:
    """Lay a pattern over the crop with a weight of 0.2: the contest entry's attempt.

    The entry blended in photos of patterns that were never published; these are drawn by code.
    """
    pattern = draw_pattern(len(image), rng)
    return np.asarray(cv2.addWeighted(image, 1 - PATTERN_ALPHA, pattern, PATTERN_ALPHA, 0))


def lower_resolution(image: Crop, points: Points, rng: np.random.Generator) -> Crop:
    """Shrink by 2 to 4 and enlarge again, by an interpolation drawn each time.

    As photos from messengers and small faces in videos are; the paper on self-blended images
    uses the factors 2 and 4.
    """
    method = _UPSCALING[int(rng.integers(len(_UPSCALING)))]
    return _rescale(image, float(rng.uniform(2, 4)), method)


def self_blend(image: Crop, points: Points, rng: np.random.Generator) -> Crop:
    """Make a fake of a real face: blend it with itself, one of the two slightly changed.

    Source or target gets another colour and sharpness, the source is moved and scaled by a few
    percent, and a mask from a random hull of the landmarks, deformed and blurred, with a random
    strength, decides where the source shows. What is left is what forgeries have in common:
    a seam, and an inside whose statistics differ from the outside's.

    The 81 points of the paper are replaced by those that ``face_parts`` infers; strengths are the
    paper's in kind and about its size.
    """
    size = len(image)
    mask = _deform(_random_hull(points, size, rng), rng)
    source = target = image
    if rng.random() < 0.5:
        source = _change_look(image, rng)
    else:
        target = _change_look(image, rng)
    source, mask = _move(source, mask, rng)
    mask = _soften(mask, rng) * _RATIOS[int(rng.integers(len(_RATIOS)))]
    weight = mask[..., None]
    blended = source * weight + target * (1 - weight)
    return np.asarray(np.clip(np.rint(blended), 0, 255), dtype=np.uint8)


def _random_hull(points: Points, size: int, rng: np.random.Generator) -> Floats:
    """One of four hulls with shaken corners, as a mask of 0 and 1."""
    face = to_68(points)
    choices = (
        outline(face),
        outline(face, with_forehead=False),
        face[17:],  # brows, nose, eyes, mouth
        np.concatenate([face[1:16], face[27:31]]),  # jaw up to the root of the nose
    )
    hull = choices[int(rng.integers(len(choices)))]
    extent = float(np.ptp(hull, axis=0).max())
    shaken = hull + rng.normal(0, 0.03 * extent, hull.shape)
    return np.asarray(hull_mask(shaken.astype(np.float32), size) / 255, np.float32)


def _deform(mask: Floats, rng: np.random.Generator) -> Floats:
    """Move every pixel by a smooth random field, a few percent of the crop at most."""
    size = len(mask)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    coarse = rng.uniform(-0.04, 0.04, (2, 8, 8)).astype(np.float32) * size
    shift_x, shift_y = (cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC) for c in coarse)
    return np.asarray(cv2.remap(mask, x + shift_x, y + shift_y, cv2.INTER_LINEAR), np.float32)


def _soften(mask: Floats, rng: np.random.Generator) -> Floats:
    """Grow or shrink the mask by one blur, and soften its rim by another."""
    first, second = (rng.uniform(0.01, 0.05, 2) * len(mask)).tolist()
    wide = cv2.GaussianBlur(mask, (0, 0), max(first, 0.5))
    edge = 0.05 if rng.random() < 0.5 else 0.95
    hard = (wide > edge).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(hard, (0, 0), max(second, 0.5)), np.float32)


def _change_look(image: Crop, rng: np.random.Generator) -> Crop:
    """Another white balance, saturation, brightness and contrast; coarser or sharper."""
    changed = image + rng.uniform(-20, 20, 3)
    grey = changed.mean(axis=2, keepdims=True)
    changed = grey + (changed - grey) * rng.uniform(0.8, 1.2)
    mean = changed.mean()
    changed = mean + (changed - mean) * rng.uniform(0.9, 1.1) + rng.uniform(-0.1, 0.1) * 255
    result = np.asarray(np.clip(np.rint(changed), 0, 255), dtype=np.uint8)
    if rng.random() < 0.5:
        return _rescale(result, float(rng.choice([2, 4])), cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(result, (0, 0), 1.0)
    strength = 1 + 2 * float(rng.uniform(0.2, 0.5))
    return np.asarray(cv2.addWeighted(result, strength, soft, 1 - strength, 0))


def _move(source: Crop, mask: Floats, rng: np.random.Generator) -> tuple[Crop, Floats]:
    """Shift and scale the source and its mask together, by a few percent."""
    size = len(source)
    scale = float(rng.uniform(0.95, 1 / 0.95))
    shift = rng.uniform(-1, 1, 2) * (0.03, 0.015) * size
    centre = size / 2
    affine = np.array(
        [[scale, 0, (1 - scale) * centre + shift[0]], [0, scale, (1 - scale) * centre + shift[1]]]
    )
    mirrored = cv2.BORDER_REFLECT_101
    moved = cv2.warpAffine(source, affine, (size, size), borderMode=mirrored)
    return np.asarray(moved), np.asarray(cv2.warpAffine(mask, affine, (size, size)), np.float32)


def _rescale(image: Crop, factor: float, method: int) -> Crop:
    size = len(image)
    small = max(round(size / factor), 1)
    shrunk = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (size, size), interpolation=method))
