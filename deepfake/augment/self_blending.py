"""Crops blended: with patterns, and with themselves, slightly changed; and lower resolutions.

Pure functions of crop, landmarks in pixels of the crop, and a random generator; knows no label,
no recipe and no file.

References:
    Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022.
    Li et al., "Face X-ray for More General Face Forgery Detection", CVPR 2020 (hulls and masks).
    Li et al., "FreqBlender: Enhancing DeepFake Detection by Blending Frequency Knowledge",
    NeurIPS 2024 (that the two sides differ in their frequencies).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.augment.face_parts import Crop, Points, hull_mask, outline, to_68

Floats = NDArray[np.float32]

PATTERN_ALPHA = 0.2
"""Weight of the pattern in ``blend_pattern``; the contest entry's."""


@dataclass(frozen=True, slots=True)
class BlendSettings:
    """How much of everything a self-blended image has: the one place for all of it.

    Lengths are shares of the crop's side, changes of a look shares of 1, unless said otherwise.

    Args:
        masks: Where the two sides meet, each with its probability: the whole ``face``, what is
            ``below_brows``, the ``inner`` face, its ``lower`` part, ``mouth``, ``eyes`` with their
            brows, ``nose``, and any ``patch`` between landmarks.
        shake: Standard deviation of the mask's corners, as a share of its extent.
        warp: Largest shift of the smooth field that deforms the mask.
        soft: Range of the two blurs of the mask's rim.
        ratios: Strengths of the blend, drawn evenly; the paper's.
        tinted: Probability of another tint;
        tint: largest shift of a colour channel, of 255.
        saturation: Largest change of the saturation.
        contrast: Largest change of the contrast.
        brightness: Largest change of the brightness.
        transfer: Probability that the source gets the target's colours under the mask, so that
            only finer differences are left.
        coarser: Probability of a lower resolution of one side;
        coarse_factor: by a factor of this range.
        sharper: Probability of a sharper side;
        sharpness: by a strength of this range.
        band: Probability that one side's detail is multiplied;
        band_sigma: detail is what is finer than a blur of so many pixels;
        band_gain: by a factor of this range.
        jpeg: Probability that one side passes through JPEG alone;
        jpeg_quality: of a quality of this range.
        scale: Largest growth of the source; as much, it may shrink.
        shift: Largest shift of the source across and down.
    """

    masks: tuple[tuple[str, float], ...] = (
        ("face", 0.25),
        ("below_brows", 0.15),
        ("inner", 0.2),
        ("lower", 0.1),
        ("mouth", 0.08),
        ("eyes", 0.08),
        ("nose", 0.04),
        ("patch", 0.1),
    )
    shake: float = 0.03
    warp: float = 0.04
    soft: tuple[float, float] = (0.01, 0.05)
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
    tinted: float = 0.3
    tint: float = 20.0
    saturation: float = 0.1
    contrast: float = 0.1
    brightness: float = 0.1
    transfer: float = 0.3
    coarser: float = 0.4
    coarse_factor: tuple[float, float] = (1.5, 4.0)
    sharper: float = 0.3
    sharpness: tuple[float, float] = (0.2, 0.5)
    band: float = 0.3
    band_sigma: tuple[float, float] = (0.7, 3.0)
    band_gain: tuple[float, float] = (0.5, 1.4)
    jpeg: float = 0.3
    jpeg_quality: tuple[int, int] = (40, 95)
    scale: float = 0.05
    shift: tuple[float, float] = (0.03, 0.015)


BLENDS = BlendSettings()
"""The strengths in use; near the paper's where it names them."""
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


def self_blend(
    image: Crop, points: Points, rng: np.random.Generator, settings: BlendSettings = BLENDS
) -> Crop:
    """Make a fake of a real face: blend it with itself, one of the two slightly changed.

    Source or target gets another look; the source is moved and scaled by a few percent; a mask
    from the landmarks, deformed and blurred, with a random strength, decides where the source
    shows. What is left is what forgeries have in common: a seam, and an inside whose statistics
    differ from the outside's.

    Args:
        image: ``(S, S, 3)`` uint8 RGB, a real face.
        points: Its landmarks: five, 68 or 468.
        rng: Decides everything that is random.
        settings: How much of everything.

    Returns:
        ``(S, S, 3)`` uint8 RGB.
    """
    mask = _deform(_draw_mask(points, len(image), rng, settings), rng, settings)
    source = target = image
    if rng.random() < 0.5:
        source = _change_look(image, rng, settings)
    else:
        target = _change_look(image, rng, settings)
    if rng.random() < settings.transfer:
        source = _transfer_colours(source, target, mask)
    source, mask = _move(source, mask, rng, settings)
    weight = _soften(mask, rng, settings) * float(rng.choice(settings.ratios))
    blended = source * weight[..., None] + target * (1 - weight[..., None])
    return np.asarray(np.clip(np.rint(blended), 0, 255), dtype=np.uint8)


def find_hulls(name: str, points: Points, rng: np.random.Generator) -> list[Points]:
    """The points whose hulls together are a mask.

    Args:
        name: Of the mask, as in ``BlendSettings``.
        points: Landmarks: five, 68 or 468.
        rng: Chooses the patch of ``patch``.
    """
    face = to_68(points)
    if name == "face":
        return [outline(points)]
    if name == "below_brows":
        return [outline(points, with_forehead=False)]
    if name == "inner":
        return [face[17:]]  # brows, nose, eyes, mouth
    if name == "lower":
        return [np.concatenate([face[1:16], face[27:31]])]  # jaw up to the root of the nose
    if name == "mouth":
        lips = face[48:]
        return [lips.mean(axis=0) + 1.4 * (lips - lips.mean(axis=0))]
    if name == "eyes":
        return [
            np.concatenate([face[17:22], face[36:42]]),
            np.concatenate([face[22:27], face[42:48]]),
        ]
    if name == "nose":
        return [face[27:36]]
    every = face if len(points) < len(face) else points
    middle = every[rng.integers(len(every))]
    count = int(rng.uniform(0.1, 0.6) * len(every))
    nearest = np.argsort(np.linalg.norm(every - middle, axis=1), kind="stable")
    return [every[nearest[: max(count, 3)]]]


def _draw_mask(
    points: Points, size: int, rng: np.random.Generator, settings: BlendSettings
) -> Floats:
    """A mask drawn by its probability, its corners shaken, as 0 and 1."""
    names, weights = zip(*settings.masks, strict=True)
    name = names[int(rng.choice(len(names), p=weights))]
    mask = np.zeros((size, size), np.uint8)
    for hull in find_hulls(name, points, rng):
        extent = float(np.ptp(hull, axis=0).max())
        shaken = hull + rng.normal(0, settings.shake * extent, hull.shape)
        mask |= hull_mask(shaken.astype(np.float32), size)
    return np.asarray(mask / 255, np.float32)


def _deform(mask: Floats, rng: np.random.Generator, settings: BlendSettings) -> Floats:
    """Move every pixel by a smooth random field."""
    size = len(mask)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    coarse = rng.uniform(-settings.warp, settings.warp, (2, 8, 8)).astype(np.float32) * size
    shift_x, shift_y = (cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC) for c in coarse)
    return np.asarray(cv2.remap(mask, x + shift_x, y + shift_y, cv2.INTER_LINEAR), np.float32)


def _soften(mask: Floats, rng: np.random.Generator, settings: BlendSettings) -> Floats:
    """Grow or shrink the mask by one blur, and soften its rim by another."""
    first, second = (rng.uniform(*settings.soft, 2) * len(mask)).tolist()
    wide = cv2.GaussianBlur(mask, (0, 0), max(first, 0.5))
    # Of a small mask a blur leaves little: the threshold goes by what is left.
    edge = (0.05 if rng.random() < 0.5 else 0.95) * float(wide.max())
    hard = (wide > edge).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(hard, (0, 0), max(second, 0.5)), np.float32)


def _change_look(image: Crop, rng: np.random.Generator, settings: BlendSettings) -> Crop:
    """Another white balance, saturation, brightness and contrast; other frequencies; JPEG."""
    changed = image.astype(np.float64)
    if rng.random() < settings.tinted:
        changed += rng.uniform(-settings.tint, settings.tint, 3)
    grey = changed.mean(axis=2, keepdims=True)
    changed = grey + (changed - grey) * (1 + rng.uniform(-settings.saturation, settings.saturation))
    mean = changed.mean()
    changed = mean + (changed - mean) * (1 + rng.uniform(-settings.contrast, settings.contrast))
    changed += rng.uniform(-settings.brightness, settings.brightness) * 255
    result = np.asarray(np.clip(np.rint(changed), 0, 255), dtype=np.uint8)
    kind = rng.random()
    if kind < settings.coarser:
        result = _rescale(result, float(rng.uniform(*settings.coarse_factor)), cv2.INTER_LINEAR)
    elif kind < settings.coarser + settings.sharper:
        result = _scale_detail(result, 1.0, 1 + 2 * float(rng.uniform(*settings.sharpness)))
    elif kind < settings.coarser + settings.sharper + settings.band:
        sigma = float(rng.uniform(*settings.band_sigma))
        result = _scale_detail(result, sigma, float(rng.uniform(*settings.band_gain)))
    if rng.random() < settings.jpeg:
        quality = int(rng.integers(settings.jpeg_quality[0], settings.jpeg_quality[1] + 1))
        # OpenCV takes BGR: with red and blue exchanged, JPEG would keep other colours than it does.
        bgr = cv2.cvtColor(result, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
        result = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
    return result


def _scale_detail(image: Crop, sigma: float, gain: float) -> Crop:
    """Multiply what is finer than a blur of ``sigma`` pixels."""
    soft = cv2.GaussianBlur(image, (0, 0), sigma)
    return np.asarray(cv2.addWeighted(image, gain, soft, 1 - gain, 0))


def _transfer_colours(source: Crop, target: Crop, mask: Floats) -> Crop:
    """Give the source the target's mean and spread of each channel under the mask, as swaps do."""
    inside = mask > 0.5
    if not inside.any():
        return source
    ours, theirs = source[inside].astype(np.float32), target[inside].astype(np.float32)
    gain = theirs.std(axis=0) / np.maximum(ours.std(axis=0), 1.0)
    matched = (source - ours.mean(axis=0)) * gain + theirs.mean(axis=0)
    return np.asarray(np.clip(np.rint(matched), 0, 255), dtype=np.uint8)


def _move(
    source: Crop, mask: Floats, rng: np.random.Generator, settings: BlendSettings
) -> tuple[Crop, Floats]:
    """Shift and scale the source and its mask together."""
    size = len(source)
    scale = float(np.exp(rng.uniform(-1, 1) * np.log1p(settings.scale)))
    shift = rng.uniform(-1, 1, 2) * np.array(settings.shift) * size
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
