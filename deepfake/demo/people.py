"""Draws by lot who is portrayed and how: an identity fixes the head, a shot fixes the exposure.

Face units: the head reaches from v = -1 (crown) to v = 1 (chin), u grows to the right of the image.
Colours are float32 in 0..1. Nothing here looks like a particular person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Field = NDArray[np.floating[Any]]

IDENTITY, SHOT, PIXELS, BLEND, DONOR = range(5)
"""Streams of random numbers; two streams of a seed never share a draw."""

_SKINS = ((246, 214, 194), (236, 194, 166), (220, 172, 138), (190, 138, 104), (152, 104, 76))
_HAIRS = ((28, 22, 20), (52, 36, 28), (88, 58, 38), (130, 88, 52), (188, 150, 98), (120, 116, 114))
_IRISES = ((74, 48, 30), (96, 70, 40), (92, 104, 70), (88, 118, 138), (104, 120, 128))
HALF_SPAN = 0.325
"""Face units to pixels: half a head is this part of the portrait's side."""


@dataclass(frozen=True, slots=True)
class PortraitGeometry:
    """Where the face of one portrait lies.

    Args:
        points: Pixels, shape (5, 2), x then y: eyes (left and right in the image), nose tip, mouth
            corners (left and right in the image).
        box: Inner face from mid-forehead to chin, ``(x0, y0, x1, y1)`` in pixels.
    """

    points: NDArray[np.float64]
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Head:
    """What an identity fixes; lengths in face units, colours in 0..1."""

    skin: Field
    hair: Field
    iris: Field
    lip: Field
    width: float
    jaw: float
    square: float
    eye_x: float
    eye_y: float
    eye_size: float
    eye_tilt: float
    brow_y: float
    brow_thick: float
    brow_bend: float
    nose_y: float
    nose_width: float
    nose_high: float
    mouth_y: float
    mouth_width: float
    lip_full: float
    beard: float
    freckles: float
    hairline: float
    parting: float
    volume: float
    hair_end: float


@dataclass(frozen=True, slots=True)
class Shot:
    """What one exposure fixes: lengths in face units, centre as part of the side, angle in rad."""

    centre: tuple[float, float]
    scale: float
    roll: float
    yaw: float
    smile: float
    lids: float
    gaze: float
    lamp: Field
    ambient: float
    warmth: float
    exposure: float
    wall: Field
    cloth: Field
    collar: float
    blur: float
    noise: float


def make_rng(seed: int, stream: int, *key: int) -> np.random.Generator:
    """Random numbers of one stream; equal arguments give equal numbers."""
    return np.random.default_rng((seed, stream, *key))


def _rgb(colour: tuple[int, int, int], rng: np.random.Generator, spread: float) -> Field:
    shift = rng.normal(0.0, spread, 3) * 0.4 + rng.normal(0.0, spread)
    return np.clip(np.asarray(colour) / 255.0 + shift, 0.02, 0.98).astype(np.float32)


def make_head(identity: int, seed: int) -> Head:
    """Draw by lot what one person looks like."""
    rng = make_rng(seed, IDENTITY, identity)
    tone = int(rng.integers(len(_SKINS)))
    skin = _rgb(_SKINS[tone], rng, 0.015)
    # Dark skin seldom comes with fair hair, so its choice stops earlier in the list.
    hair = _rgb(_HAIRS[int(rng.integers(len(_HAIRS) - (3 if tone > 2 else 0)))], rng, 0.012)
    iris = _rgb(_IRISES[int(rng.integers(2 if tone > 2 else len(_IRISES)))], rng, 0.02)
    red = rng.uniform(0.0, 1.0)
    lip = skin * np.array([0.86 - 0.04 * red, 0.60 - 0.12 * red, 0.60 - 0.08 * red], np.float32)
    long_hair = rng.random() < 0.5
    u = rng.uniform
    return Head(
        skin=skin, hair=hair, iris=iris, lip=lip,
        width=u(0.69, 0.79), jaw=u(0.16, 0.30), square=u(2.1, 2.6),
        eye_x=u(0.29, 0.345), eye_y=u(-0.03, 0.04), eye_size=u(0.150, 0.182),
        eye_tilt=u(-0.06, 0.14), brow_y=u(0.17, 0.22), brow_thick=u(0.028, 0.052),
        brow_bend=u(0.005, 0.045), nose_y=u(0.36, 0.43), nose_width=u(0.105, 0.15),
        nose_high=u(0.14, 0.22), mouth_y=u(0.60, 0.66), mouth_width=u(0.23, 0.30),
        lip_full=u(0.045, 0.085), beard=0.0 if long_hair else max(0.0, u(-0.5, 0.75)),
        freckles=max(0.0, u(-1.0, 1.0)),
        hairline=u(-0.72, -0.52) - (0.0 if long_hair else 0.07), parting=u(-0.22, 0.22),
        volume=u(0.08, 0.17) * (1.0 if long_hair else 0.6),
        hair_end=u(0.75, 1.5) if long_hair else u(-0.10, 0.10),
    )  # fmt: skip


def make_shot(identity: int, shot: int, seed: int) -> Shot:
    """Draw by lot how one photo of a person is taken."""
    rng = make_rng(seed, SHOT, identity, shot)
    u = rng.uniform
    side = u(-0.75, 0.75)
    lamp = np.array([side, u(-0.75, -0.25), u(0.75, 1.1)], np.float32)
    return Shot(
        centre=(u(0.46, 0.54), u(0.475, 0.515)), scale=u(0.92, 1.08), roll=u(-0.13, 0.13),
        yaw=u(-0.09, 0.09), smile=u(-0.15, 1.0), lids=u(0.75, 1.05), gaze=u(-0.03, 0.03),
        lamp=lamp / np.linalg.norm(lamp), ambient=u(0.36, 0.56), warmth=u(-0.05, 0.05),
        exposure=u(0.86, 1.10),
        wall=_rgb((150, 150, 152), rng, 0.13) * 0.5 + np.float32(u(0.15, 0.40)),
        cloth=_rgb((100, 100, 110), rng, 0.16), collar=u(0.0, 1.0), blur=u(0.0, 0.45),
        noise=u(0.009, 0.022),
    )  # fmt: skip


def skin_depth(u: Field, width: float) -> Field:
    """How far the skin stands out at ``u``, 0..1: what a turn of the head moves sideways."""
    depth: Field = np.sqrt(np.clip(1.0 - (u / width) ** 2, 0.0, 1.0))
    return depth


def to_pixels(shot: Shot, size: int) -> NDArray[np.float64]:
    """Give the 2x3 matrix from face units to pixels."""
    scale = HALF_SPAN * shot.scale * size
    cos, sin = scale * np.cos(shot.roll), scale * np.sin(shot.roll)
    x, y = shot.centre[0] * size, shot.centre[1] * size
    return np.array([[cos, -sin, x], [sin, cos, y]])


def portrait_geometry(identity: int, shot: int, seed: int = 0, size: int = 256) -> PortraitGeometry:
    """Say where the face lies in the portrait of the same arguments.

    Args:
        identity: Number of the person, 0 or more.
        shot: Number of the exposure of this person, 0 or more.
        seed: Seed of the whole data set, 0 or more.
        size: Side of the portrait in pixels.

    Returns:
        Landmarks and inner face box, in pixels.
    """
    head, pose = make_head(identity, seed), make_shot(identity, shot, seed)
    matrix = to_pixels(pose, size)
    corner = head.mouth_y - 0.03 * pose.smile
    wide = head.mouth_width * (1.0 + 0.12 * pose.smile)
    flat = np.array(
        [
            (-head.eye_x, head.eye_y), (head.eye_x, head.eye_y), (0.0, head.nose_y - 0.05),
            (-wide, corner), (wide, corner),
        ]
    )  # fmt: skip
    flat[:, 0] += pose.yaw * skin_depth(flat[:, 0].astype(np.float32), head.width)
    flat[2, 0] += 0.45 * pose.yaw
    points = flat @ matrix[:, :2].T + matrix[:, 2]
    x, y = matrix[:, :2] @ (0.6 * pose.yaw, 0.28) + matrix[:, 2]
    half_x, half_y = (np.array((0.80 * head.width, 0.74)) * HALF_SPAN * pose.scale * size).tolist()
    box = (float(x - half_x), float(y - half_y), float(x + half_x), float(y + half_y))
    return PortraitGeometry(points=points, box=box)
