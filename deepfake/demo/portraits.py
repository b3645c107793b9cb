"""Turns (identity, shot, seed) into a drawn portrait, and two portraits into a face-swapped fake.

A head is a height field that is lit by one lamp; hair, eyes, nose and mouth are soft masks painted
over it. An identity fixes the shape and the colours, a shot fixes pose, light, background,
expression and sensor. The fakes follow the classical swap: align, match colours, resample, feather.

The module does not know how a detector works, and nothing here looks like a particular person. A
score on these pictures says that a pipeline runs, never that it finds fakes in the wild.

Face units: the head reaches from v = -1 (crown) to v = 1 (chin), u grows to the right of the image.
Colours inside the module are float32 in 0..1.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Field = NDArray[np.floating[Any]]

_IDENTITY, _SHOT, _PIXELS, _BLEND, _DONOR = range(5)
"""Streams of random numbers; two streams of a seed never share a draw."""

_SKINS = ((246, 214, 194), (236, 194, 166), (220, 172, 138), (190, 138, 104), (152, 104, 76))
_HAIRS = ((28, 22, 20), (52, 36, 28), (88, 58, 38), (130, 88, 52), (188, 150, 98), (120, 116, 114))
_IRISES = ((74, 48, 30), (96, 70, 40), (92, 104, 70), (88, 118, 138), (104, 120, 128))
_HALF_SPAN = 0.325
"""Face units to pixels: half a head is this part of the picture's side."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the face of one portrait lies.

    Args:
        points: Pixels, shape (5, 2), x then y: eyes (left and right in the image), nose tip, mouth
            corners (left and right in the image).
        box: Inner face from mid-forehead to chin, ``(x0, y0, x1, y1)`` in pixels.
    """

    points: NDArray[np.float64]
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Head:
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
class _Shot:
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


def _rng(seed: int, stream: int, *key: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream, *key))


def _rgb(colour: tuple[int, int, int], rng: np.random.Generator, spread: float) -> Field:
    shift = rng.normal(0.0, spread, 3) * 0.4 + rng.normal(0.0, spread)
    return np.clip(np.asarray(colour) / 255.0 + shift, 0.02, 0.98).astype(np.float32)


def _head(identity: int, seed: int) -> _Head:
    rng = _rng(seed, _IDENTITY, identity)
    tone = int(rng.integers(len(_SKINS)))
    skin = _rgb(_SKINS[tone], rng, 0.015)
    # Dark skin seldom comes with fair hair, so its choice stops earlier in the list.
    hair = _rgb(_HAIRS[int(rng.integers(len(_HAIRS) - (3 if tone > 2 else 0)))], rng, 0.012)
    iris = _rgb(_IRISES[int(rng.integers(2 if tone > 2 else len(_IRISES)))], rng, 0.02)
    red = rng.uniform(0.0, 1.0)
    lip = skin * np.array([0.86 - 0.04 * red, 0.60 - 0.12 * red, 0.60 - 0.08 * red], np.float32)
    long_hair = rng.random() < 0.5
    u = rng.uniform
    return _Head(
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


def _shot(identity: int, shot: int, seed: int) -> _Shot:
    rng = _rng(seed, _SHOT, identity, shot)
    u = rng.uniform
    side = u(-0.75, 0.75)
    lamp = np.array([side, u(-0.75, -0.25), u(0.75, 1.1)], np.float32)
    return _Shot(
        centre=(u(0.46, 0.54), u(0.475, 0.515)), scale=u(0.92, 1.08), roll=u(-0.13, 0.13),
        yaw=u(-0.09, 0.09), smile=u(-0.15, 1.0), lids=u(0.75, 1.05), gaze=u(-0.03, 0.03),
        lamp=lamp / np.linalg.norm(lamp), ambient=u(0.36, 0.56), warmth=u(-0.05, 0.05),
        exposure=u(0.86, 1.10),
        wall=_rgb((150, 150, 152), rng, 0.13) * 0.5 + np.float32(u(0.15, 0.40)),
        cloth=_rgb((100, 100, 110), rng, 0.16), collar=u(0.0, 1.0), blur=u(0.0, 0.45),
        noise=u(0.009, 0.022),
    )  # fmt: skip


def _depth(u: Field, width: float) -> Field:
    """How far the skin stands out at ``u``, 0..1: what a turn of the head moves sideways."""
    depth: Field = np.sqrt(np.clip(1.0 - (u / width) ** 2, 0.0, 1.0))
    return depth


def _to_pixels(shot: _Shot, size: int) -> NDArray[np.float64]:
    """Give the 2x3 matrix from face units to pixels."""
    scale = _HALF_SPAN * shot.scale * size
    cos, sin = scale * np.cos(shot.roll), scale * np.sin(shot.roll)
    x, y = shot.centre[0] * size, shot.centre[1] * size
    return np.array([[cos, -sin, x], [sin, cos, y]])


def portrait_geometry(identity: int, shot: int, seed: int = 0, size: int = 256) -> Geometry:
    """Say where the face lies in the portrait of the same arguments.

    Args:
        identity: Number of the person, 0 or more.
        shot: Number of the exposure of this person, 0 or more.
        seed: Seed of the whole data set, 0 or more.
        size: Side of the picture in pixels.

    Returns:
        Landmarks and inner face box, in pixels.
    """
    head, pose = _head(identity, seed), _shot(identity, shot, seed)
    matrix = _to_pixels(pose, size)
    corner = head.mouth_y - 0.03 * pose.smile
    wide = head.mouth_width * (1.0 + 0.12 * pose.smile)
    flat = np.array(
        [
            (-head.eye_x, head.eye_y), (head.eye_x, head.eye_y), (0.0, head.nose_y - 0.05),
            (-wide, corner), (wide, corner),
        ]
    )  # fmt: skip
    flat[:, 0] += pose.yaw * _depth(flat[:, 0].astype(np.float32), head.width)
    flat[2, 0] += 0.45 * pose.yaw
    points = flat @ matrix[:, :2].T + matrix[:, 2]
    x, y = matrix[:, :2] @ (0.6 * pose.yaw, 0.28) + matrix[:, 2]
    half_x, half_y = (np.array((0.80 * head.width, 0.74)) * _HALF_SPAN * pose.scale * size).tolist()
    box = (float(x - half_x), float(y - half_y), float(x + half_x), float(y + half_y))
    return Geometry(points=points, box=box)


def _inside(distance: Field, soft: float) -> Field:
    """1 where ``distance`` is below 0, 0 above, with an edge ``soft`` face units wide."""
    t: Field = np.clip(0.5 - distance / soft, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _bump(u: Field, v: Field, at: tuple[float, float], wide: float, high: float) -> Field:
    return np.exp(-(((u - at[0]) / wide) ** 2) - ((v - at[1]) / high) ** 2)


def _over(canvas: Field, colour: Field, mask: Field) -> None:
    """Paint ``colour`` (3,) or (size, size, 3) on the canvas where ``mask`` (size, size) says."""
    canvas += (colour - canvas) * mask[..., None]


def _cloud(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Smooth noise of shape (size, size), about -1..1, with ``cells`` blobs along a side."""
    seeds = rng.normal(0.0, 0.6, (cells + 3, cells + 3)).astype(np.float32)
    return np.asarray(cv2.resize(seeds, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _outline(head: _Head, u: Field, v: Field, grow: float = 0.0) -> Field:
    """Rough signed distance to the head's edge in face units, negative inside."""
    narrow = 1.0 - head.jaw * np.clip(v, 0.0, 1.2) ** 1.7
    x = np.abs(u) / ((head.width + grow) * narrow)
    y = np.abs(v) / (1.0 + grow)
    radius: Field = (x**head.square + y**head.square) ** (1.0 / head.square)
    return (radius - 1.0) * head.width


def _height(head: _Head, pose: _Shot, u: Field, v: Field, edge: Field) -> Field:
    """Relief of the face in face units, without the lips' colour or any paint."""
    nose_u = u - 0.45 * pose.yaw * np.exp(-(((v - head.nose_y) / 0.3) ** 2))
    round_off = np.clip(-edge / head.width, 0.0, 1.0)
    relief: Field = 0.78 * np.sqrt(round_off * (2.0 - round_off) + 0.02)
    along = _inside(v - head.nose_y - 0.01, 0.12) * np.clip((v + 0.22) / 0.62, 0.0, 1.0)
    relief += head.nose_high * along * np.exp(-((nose_u / (0.72 * head.nose_width)) ** 2))
    relief += 0.06 * _bump(nose_u, v, (0.0, head.nose_y - 0.05), 0.09, 0.08)
    relief += 0.055 * _bump(u, v, (0.0, head.mouth_y), 0.30, 0.14)
    relief += 0.05 * _bump(u, v, (0.0, 0.90), 0.20, 0.10)
    relief -= 0.028 * _bump(u, v, (0.0, head.mouth_y + 0.145), 0.16, 0.045)
    for side in (-1.0, 1.0):
        eye = (side * head.eye_x, head.eye_y)
        relief -= 0.055 * _bump(u, v, (side * head.eye_x * 0.95, eye[1] - 0.03), 0.17, 0.11)
        relief += 0.035 * _bump(u, v, eye, 0.12, 0.08)
        relief += 0.035 * _bump(u, v, (eye[0], eye[1] - head.brow_y - 0.03), 0.24, 0.09)
        cheek = (side * (0.43 - 0.02 * pose.smile), 0.30 - 0.03 * pose.smile)
        relief += (0.045 + 0.025 * pose.smile) * _bump(u, v, cheek, 0.17, 0.15)
        relief += 0.05 * _bump(nose_u, v, (side * head.nose_width, head.nose_y), 0.055, 0.05)
    return relief


def _lit(relief: Field, pose: _Shot, scale: float) -> tuple[Field, Field]:
    """Diffuse light (about 0.3..1.2) and gloss (0..1) of a relief, each (size, size)."""
    down, right = np.gradient(relief * scale)
    length = np.sqrt(right**2 + down**2 + 1.0)
    facing = (pose.lamp[2] - right * pose.lamp[0] - down * pose.lamp[1]) / length
    diffuse = pose.ambient + 0.62 * np.clip((facing + 0.25) / 1.25, 0.0, None)
    half = pose.lamp + np.array([0.0, 0.0, 1.0], np.float32)
    half /= np.linalg.norm(half)
    gloss = np.clip((half[2] - right * half[0] - down * half[1]) / length, 0.0, 1.0) ** 22
    return diffuse.astype(np.float32), gloss.astype(np.float32)


def _paint_eye(canvas: Field, head: _Head, pose: _Shot, u: Field, v: Field, side: float) -> None:
    wide = head.eye_size
    x = (u - side * head.eye_x) / wide
    # The outer corner is the one away from the nose, so the tilt is mirrored.
    y = v - head.eye_y + head.eye_tilt * wide * x * side
    arch = np.clip(1.0 - x**2, -0.6, 1.0)
    upper = -0.46 * wide * pose.lids * arch
    lower = (0.34 - 0.08 * max(pose.smile, 0.0)) * wide * arch
    opening = _inside(np.maximum(upper - y, y - lower), 0.02)
    near = _inside(np.abs(x) - 1.12, 0.35)
    dark = head.skin * np.array([0.36, 0.27, 0.25], np.float32)
    _over(canvas, dark, 0.45 * near * np.exp(-(((y - upper + 0.055) / 0.016) ** 2)))
    _over(canvas, dark, 0.30 * _bump(x, y, (0.0, 0.13), 0.9, 0.045))
    shade = np.clip(0.55 + 4.5 * (y - upper) / wide * 0.25, 0.45, 1.0) * (1.0 - 0.15 * x**2)
    light = 0.62 + 0.45 * pose.ambient
    white = np.array([0.88, 0.85, 0.82], np.float32) * light * shade[..., None]
    _over(canvas, white, opening)
    iris_x = (x * wide - pose.gaze) / 0.080
    r = np.sqrt(iris_x**2 + ((y + 0.010) / 0.080) ** 2)
    ring = head.iris * (np.clip(1.25 - 0.75 * r**3, 0.35, 1.3) * shade)[..., None]
    _over(canvas, ring, opening * _inside(r - 1.0, 0.25))
    _over(canvas, np.full(3, 0.03, np.float32), opening * _inside(r - 0.42, 0.22))
    spark = (pose.gaze / wide + 0.16 * float(pose.lamp[0]), -0.032)
    _over(canvas, np.ones(3, np.float32), 0.8 * opening * _bump(x, y, spark, 0.11, 0.015))
    lash = near * np.exp(-(((y - upper) / 0.017) ** 2))
    _over(canvas, 0.25 * dark, np.clip(0.95 * lash, 0.0, 1.0))
    _over(canvas, dark, 0.5 * near * np.exp(-(((y - lower) / 0.012) ** 2)))


def _paint_brow(canvas: Field, head: _Head, u: Field, v: Field, side: float, hairs: Field) -> None:
    x = (u * side - head.eye_x * 0.98) / (head.eye_size * 1.45)
    middle = head.eye_y - head.brow_y + head.brow_bend * (x - 0.35) ** 2 * 0.8
    thick = head.brow_thick * np.clip(1.05 - 0.45 * x, 0.2, 1.4)
    mask = _inside(np.abs(v - middle) - thick, 0.05) * _inside(np.abs(x) - 1.0, 0.4)
    _over(canvas, 0.75 * head.hair, mask * np.clip(0.72 + 0.25 * hairs, 0.0, 0.95))


def _paint_nose(canvas: Field, head: _Head, pose: _Shot, u: Field, v: Field) -> None:
    x = u - 0.45 * pose.yaw
    dark = head.skin * np.array([0.30, 0.19, 0.16], np.float32)
    under = _bump(x, v, (0.0, head.nose_y + 0.055), 0.9 * head.nose_width, 0.035)
    _over(canvas, dark, 0.38 * under)
    for side in (-1.0, 1.0):
        hole = (side * 0.52 * head.nose_width, head.nose_y + 0.035)
        _over(canvas, dark, 0.85 * _bump(x, v, hole, 0.036, 0.020))
        wing = (side * 1.32 * head.nose_width, head.nose_y + 0.005)
        _over(canvas, dark, 0.28 * _bump(x, v, wing, 0.024, 0.055))
        # The fold from the wing to the mouth's corner, deeper with a smile.
        fold = side * u - head.nose_width * 1.45 - 0.55 * (v - head.nose_y)
        reach = _bump(v, v, (head.nose_y + 0.10, head.nose_y + 0.10), 0.16, 0.16)
        depth = 0.14 + 0.16 * max(pose.smile, 0.0)
        _over(canvas, dark, depth * reach * np.exp(-((fold / 0.028) ** 2)))


def _paint_mouth(canvas: Field, head: _Head, pose: _Shot, u: Field, v: Field) -> None:
    wide = head.mouth_width * (1.0 + 0.12 * pose.smile)
    x = u / wide
    y = v - head.mouth_y - 0.05 * pose.smile * (0.45 - x**2)
    arch = np.clip(1.0 - np.abs(x) ** 2.2, -0.4, 1.0)
    bow = 1.0 - 0.30 * np.exp(-((x / 0.16) ** 2))
    top = -head.lip_full * 0.85 * arch * bow
    bottom = head.lip_full * 1.30 * arch
    gap = 0.030 * max(pose.smile - 0.35, 0.0) / 0.65 * arch * 1.6
    upper = _inside(np.maximum(top - gap - y, y), 0.030)
    lower = _inside(np.maximum(-y, y - bottom - gap), 0.035)
    light = 0.55 + 0.55 * pose.ambient
    _over(canvas, head.lip * (0.82 * light), 0.85 * upper)
    roll = 1.0 + 0.22 * np.exp(-(((y - gap - 0.45 * bottom) / 0.035) ** 2))
    _over(canvas, head.lip * (light * roll)[..., None], 0.85 * lower)
    teeth = np.array([0.86, 0.83, 0.78], np.float32) * light
    _over(canvas, teeth, _inside(np.abs(y) - gap, 0.016) * _inside(0.02 - gap, 0.02))
    dark = head.lip * np.array([0.36, 0.28, 0.28], np.float32)
    line = np.exp(-(((np.abs(y) - gap) / 0.013) ** 2)) * _inside(np.abs(x) - 1.02, 0.2)
    _over(canvas, dark, 0.85 * line)
    _over(canvas, 0.6 * head.skin, 0.30 * _bump(u, v, (0.0, head.mouth_y + 0.145), 0.15, 0.03))


def _paint_back(canvas: Field, pose: _Shot, rng: np.random.Generator) -> None:
    """Fill the canvas with an out-of-focus wall."""
    size = canvas.shape[0]
    slope = np.linspace(1.12, 0.78, size, dtype=np.float32)[:, None]
    mottle = slope * (1.0 + 0.16 * _cloud(rng, size, 3) + 0.05 * _cloud(rng, size, 9))
    tint = 1.0 + 0.05 * np.stack([_cloud(rng, size, 2) for _ in range(3)], axis=-1)
    canvas[:] = pose.wall * mottle[..., None] * tint


def _paint_body(canvas: Field, head: _Head, pose: _Shot, u: Field, v: Field, fold: Field) -> None:
    """Neck, shoulders and clothes; ``u`` and ``v`` here stay upright when the head rolls."""
    light = (pose.ambient + 0.42 + 0.25 * pose.lamp[0] * u).astype(np.float32)
    neck = 0.62 * head.width + 0.10 * np.clip(v - 1.15, 0.0, 1.0) ** 2 * 4.0
    round_off = 1.0 - 0.40 * np.clip(np.abs(u) / neck, 0.0, 1.0) ** 3
    chin = 1.0 - 0.48 * np.exp(-((np.clip(v - 0.88, 0.0, None) / 0.25) ** 2))
    skin = head.skin * (light * round_off * chin)[..., None]
    _over(canvas, skin, _inside(np.abs(u) - neck, 0.03) * _inside(0.4 - v, 0.1))
    shoulder = 1.22 + 0.30 * np.clip(np.abs(u) / 1.25, 0.0, 2.0) ** 2.6
    opening = 1.30 + (0.10 + 0.38 * pose.collar) * np.clip(1.0 - (u / 0.58) ** 2, -1.0, 1.0)
    edge = np.maximum(shoulder - v, opening - v)
    bright = light * np.clip(0.62 + 0.75 * (v - shoulder), 0.5, 1.05) * (1.0 + 0.10 * fold)
    _over(canvas, head.skin * (light * 0.8)[..., None], _inside(shoulder + 0.03 - v, 0.30))
    _over(canvas, pose.cloth * bright[..., None], _inside(edge, 0.03))
    _over(canvas, 0.45 * pose.cloth, 0.5 * np.exp(-((edge / 0.022) ** 2)))


def _hair_colour(head: _Head, pose: _Shot, u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Strands that run away from the parting, (size, size, 3)."""
    count = 512
    strands = rng.normal(0.0, 1.0, count).astype(np.float32)
    strands += 1.3 * np.repeat(strands[::4], 4)
    wavy = 0.05 * _cloud(rng, u.shape[0], 5)
    angle = np.arctan2(u - head.parting, np.clip(v + 1.25, 0.05, None)) + wavy
    index = ((angle / np.pi + 0.5) * (count - 2)).clip(0, count - 2)
    low = index.astype(np.int64)
    part = (index - low).astype(np.float32)
    value = strands[low] * (1.0 - part) + strands[low + 1] * part
    shine = np.exp(-(((v + 0.80 - 0.25 * np.abs(u)) / 0.13) ** 2))
    light = pose.ambient + 0.35 + 0.22 * pose.lamp[0] * u + 0.38 * shine * (1.0 + 0.2 * value)
    colour: Field = head.hair * (light * (1.0 + 0.11 * value))[..., None] + 0.01
    return np.clip(colour, 0.0, 1.0)


def _paint_head(
    canvas: Field,
    head: _Head,
    pose: _Shot,
    u: Field,
    v: Field,
    scale: float,
    rng: np.random.Generator,
) -> None:
    """Ears, skin and features, back to front."""
    size = canvas.shape[0]
    for side in (-1.0, 1.0):
        x, y = (u - side * (head.width + 0.015) + 0.5 * pose.yaw) / 0.10, (v - 0.10) / 0.21
        r = np.sqrt(x**2 + y**2)
        tone = (pose.ambient + 0.30) * (1.0 - 0.35 * _inside(r - 0.55, 0.5))
        warm = head.skin * np.array([0.98, 0.86, 0.82], np.float32)
        _over(canvas, warm * tone[..., None], _inside(r - 1.0, 0.3))
    edge = _outline(head, u, v)
    turned = u - pose.yaw * _depth(u, head.width)
    diffuse, gloss = _lit(_height(head, pose, turned, v, edge), pose, scale)
    blush = 0.4 * _bump(turned, v, (0.0, head.nose_y - 0.05), 0.13, 0.13)
    for side in (-1.0, 1.0):
        blush += 0.55 * _bump(turned, v, (side * 0.42, 0.30), 0.20, 0.16)
    red = np.stack([0.02 * blush, -0.10 * blush, -0.09 * blush], axis=-1)
    pores = 1.0 + 0.016 * _cloud(rng, size, size // 3) + 0.03 * _cloud(rng, size, 14)
    spots = np.clip(_cloud(rng, size, size // 5) - 0.75, 0.0, 1.0)
    spots *= head.freckles * _bump(turned, v, (0.0, 0.22), 0.5, 0.2)
    albedo = head.skin * (pores - 0.28 * spots)[..., None] * (1.0 + red)
    jawline = _inside(0.30 + 0.30 * np.cos(np.clip(turned * 3.2, -3.1, 3.1)) - v, 0.30)
    lips = _bump(turned, v, (0.0, head.mouth_y + 0.02), 0.22, 0.07)
    grain = np.clip(0.75 + 0.35 * _cloud(rng, size, size // 3), 0.0, 1.0)
    _over(albedo, 0.8 * head.hair, head.beard * 0.8 * jawline * grain * (1.0 - 0.8 * lips))
    # Light that leaves skin near a shadow's edge is redder than the light that fell on it.
    depth = np.clip(1.0 - diffuse, 0.0, 1.0)[..., None] * np.array([0.0, 0.22, 0.30], np.float32)
    skin = albedo * diffuse[..., None] * (1.0 - depth) + (0.11 * gloss)[..., None]
    _over(canvas, skin, _inside(edge, 0.035))
    hairs = _cloud(rng, size, size // 3)
    for side in (-1.0, 1.0):
        _paint_eye(canvas, head, pose, turned, v, side)
        _paint_brow(canvas, head, turned, v, side, hairs)
    _paint_nose(canvas, head, pose, turned, v)
    _paint_mouth(canvas, head, pose, turned, v)


def _paint_hair(canvas: Field, head: _Head, u: Field, v: Field, colour: Field, wave: Field) -> None:
    """Paint the hair in front: cap, sides and, when long, the curtains beside the face."""
    across = np.abs(u) / head.width
    line = head.hairline + 0.035 * wave + head.parting * u * 0.9 + 0.50 * across**3.2
    if head.hair_end > 0.5:
        side = 0.86 + 0.05 * np.clip(v, -0.5, 1.5) + 0.03 * wave
        cover = np.maximum(_inside(v - line, 0.06), _inside(side - across, 0.07))
    else:
        cover = _inside(v - np.minimum(line, head.hair_end), 0.07)
    outer = _outline(head, u, np.minimum(v, 0.1), head.volume + 0.02 * wave.mean())
    tips = _inside(v - head.hair_end - 0.05 * wave, 0.25)
    mask = cover * _inside(outer + 0.02 * wave, 0.05) * tips
    shadow = cv2.GaussianBlur(mask, (0, 0), 0.022 * u.shape[0])
    on_skin = np.clip(shadow - mask, 0.0, 1.0) * _inside(_outline(head, u, v), 0.04)
    canvas *= (1.0 - 0.35 * on_skin)[..., None]
    _over(canvas, colour, mask)


def draw_portrait(identity: int, shot: int, seed: int = 0, size: int = 256) -> Image:
    """Draw one portrait; the same arguments give the same bytes in every process.

    Args:
        identity: Number of the person, 0 or more.
        shot: Number of the exposure of this person, 0 or more.
        seed: Seed of the whole data set, 0 or more.
        size: Side of the picture in pixels.

    Returns:
        RGB picture of shape (size, size, 3), uint8.
    """
    head, pose = _head(identity, seed), _shot(identity, shot, seed)
    rng = _rng(seed, _PIXELS, identity, shot)
    matrix = _to_pixels(pose, size)
    scale = _HALF_SPAN * pose.scale * size
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    x, y = (x - np.float32(matrix[0, 2])) / scale, (y - np.float32(matrix[1, 2])) / scale
    cos, sin = float(np.cos(pose.roll)), float(np.sin(pose.roll))
    u, v = (cos * x + sin * y).astype(np.float32), (cos * y - sin * x).astype(np.float32)
    canvas = np.empty((size, size, 3), np.float32)
    _paint_back(canvas, pose, rng)
    colour = _hair_colour(head, pose, u, v, rng)
    wave = _cloud(rng, size, 12)
    if head.hair_end > 0.5:
        behind = _outline(head, u, np.minimum(v, 0.1), head.volume) + 0.02 * wave
        _over(canvas, 0.6 * colour, _inside(behind, 0.05) * _inside(v - head.hair_end, 0.2))
    _paint_body(canvas, head, pose, x.astype(np.float32), y.astype(np.float32), wave)
    _paint_head(canvas, head, pose, u, v, scale, rng)
    _paint_hair(canvas, head, u, v, colour, wave)
    return _expose(canvas, pose, rng)


def _expose(canvas: Field, pose: _Shot, rng: np.random.Generator) -> Image:
    """Lens and sensor: focus, white balance, exposure, then noise that grows with the light."""
    size = canvas.shape[0]
    sharp = cv2.GaussianBlur(canvas, (0, 0), (0.35 + pose.blur) * size / 256)
    white = np.array([1.0 + pose.warmth, 1.0, 1.0 - pose.warmth], np.float32)
    light = sharp * white * pose.exposure
    # The demosaicing of a camera smears its noise over neighbours; white noise would look drawn.
    grain = rng.standard_normal((size, size, 3), np.float32)
    grain = 0.5 * grain + 0.5 * grain.sum(axis=-1, keepdims=True)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.75) * 2.3
    light = light + grain * pose.noise * (0.5 + np.sqrt(np.clip(light, 0.0, 1.0)))
    return np.asarray(np.clip(light, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _face_mask(geometry: Geometry, size: int, grow: float) -> Field:
    """Feathered ellipse over brows, nose and mouth, (size, size), 0..1."""
    eyes, mouth = geometry.points[:2].mean(axis=0), geometry.points[3:].mean(axis=0)
    apart = float(np.linalg.norm(geometry.points[1] - geometry.points[0]))
    down = (mouth - eyes) / np.linalg.norm(mouth - eyes)
    x0, y0 = eyes + 0.44 * (mouth - eyes)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    along = (x - x0) * down[0] + (y - y0) * down[1]
    across = (x - x0) * down[1] - (y - y0) * down[0]
    long = float(np.linalg.norm(mouth - eyes)) * 0.92 * grow
    r = np.sqrt((across / (0.88 * apart * grow)) ** 2 + (along / long) ** 2)
    return _inside((r - 1.0).astype(np.float32), 0.22)


def blend_fake(
    target: Image, donor: Image, target_geometry: Geometry, donor_geometry: Geometry, seed: int = 0
) -> Image:
    """Put the inner face of the donor on the target, as a swap pipeline does.

    Args:
        target: Portrait that keeps hair, head and background, (size, size, 3) RGB.
        donor: Portrait of the other person, (size, size, 3) RGB of any size.
        target_geometry: Where the target's face lies.
        donor_geometry: Where the donor's face lies.
        seed: Fixes how coarse the resampling and how large the mask is.

    Returns:
        The fake, RGB, of the target's shape.
    """
    rng = _rng(seed, _BLEND)
    size = target.shape[0]
    ones = np.ones((5, 1))
    affine = np.linalg.lstsq(
        np.hstack([donor_geometry.points, ones]), target_geometry.points, rcond=None
    )[0].T
    # A generator works at its own resolution: what it returns has neither pores nor sensor noise.
    zoom = rng.uniform(0.34, 0.46)
    small = cv2.warpAffine(
        cv2.GaussianBlur(donor, (0, 0), 0.7), affine * zoom, (round(size * zoom),) * 2,
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    swapped = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    mask = _face_mask(target_geometry, size, rng.uniform(0.96, 1.08))
    inner = mask > 0.5
    base = target.astype(np.float32)
    ours, theirs = base[inner], swapped[inner]
    gain = ours.std(axis=0) / np.maximum(theirs.std(axis=0), 1.0)
    matched = (swapped - theirs.mean(axis=0)) * np.clip(gain, 0.7, 1.4) + ours.mean(axis=0)
    # Colour transfer never hits exactly; the miss goes either way, so no mean gives fakes away.
    matched += rng.normal(0.0, 4.0, 3)
    mixed: Field = base + (matched - base) * mask[..., None]
    return np.asarray(np.clip(mixed + 0.5, 0, 255)).astype(np.uint8)


def write_dataset(
    root: Path, identities: int = 24, shots: int = 5, seed: int = 0, size: int = 256
) -> int:
    """Write real portraits, their fakes and ``labels.csv`` (path, label, group, method).

    Identity ``i`` wears the face of identity ``i ^ 1``, so a pair shares one group and a split by
    group never shows a face on both sides.

    Args:
        root: Folder to write to; it is made if absent.
        identities: Number of persons, even.
        shots: Exposures per person; each gives one real and one fake picture.
        seed: Seed of the data set, 0 or more.
        size: Side of the pictures in pixels.

    Returns:
        Number of pictures written.

    Raises:
        ValueError: ``identities`` is odd or below 2, or ``shots`` is below 1.
    """
    if identities < 2 or identities % 2:
        raise ValueError(f"identities must be even and at least 2, as faces swap: {identities}")
    if shots < 1:
        raise ValueError(f"shots must be at least 1: {shots}")
    rows: list[tuple[str, str, str, str]] = []
    for first in range(0, identities, 2):
        faces = {
            (identity, shot): (
                draw_portrait(identity, shot, seed, size),
                portrait_geometry(identity, shot, seed, size),
            )
            for identity in (first, first + 1)
            for shot in range(shots)
        }
        for (identity, shot), (real, geometry) in faces.items():
            draw = _rng(seed, _DONOR, identity, shot)
            donor, donor_geometry = faces[identity ^ 1, int(draw.integers(shots))]
            fake = blend_fake(real, donor, geometry, donor_geometry, seed=int(draw.integers(2**31)))
            for label, method, picture in (("real", "original", real), ("fake", "blend", fake)):
                path = root / label / f"id{identity:03d}" / f"{shot:02d}.png"
                _write_png(path, picture)
                rows.append(
                    (path.relative_to(root).as_posix(), label, f"pair{first // 2:02d}", method)
                )
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "group", "method"))
        writer.writerows(rows)
    return len(rows)


def _write_png(path: Path, picture: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"{path}: the picture could not be encoded")
    path.write_bytes(data.tobytes())
