"""Paints a head on a canvas: a height field lit by one lamp, and soft masks over it.

Hair, eyes, nose and mouth are masks; all functions paint in place. The units are those of
``people``.
"""

from __future__ import annotations

import cv2
import numpy as np

from deepfake.demo.people import HALF_SPAN, Field, Head, Shot, skin_depth, to_pixels


def paint_person(head: Head, pose: Shot, size: int, rng: np.random.Generator) -> Field:
    """Paint wall, body, head and hair, back to front.

    Returns:
        Light before lens and sensor, ``(size, size, 3)`` float32.
    """
    matrix = to_pixels(pose, size)
    scale = HALF_SPAN * pose.scale * size
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
        _over(canvas, 0.6 * colour, soft_step(behind, 0.05) * soft_step(v - head.hair_end, 0.2))
    _paint_body(canvas, head, pose, x.astype(np.float32), y.astype(np.float32), wave)
    _paint_head(canvas, head, pose, u, v, scale, rng)
    _paint_hair(canvas, head, u, v, colour, wave)
    return canvas


def soft_step(distance: Field, soft: float) -> Field:
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


def _outline(head: Head, u: Field, v: Field, grow: float = 0.0) -> Field:
    """Rough signed distance to the head's edge in face units, negative inside."""
    narrow = 1.0 - head.jaw * np.clip(v, 0.0, 1.2) ** 1.7
    x = np.abs(u) / ((head.width + grow) * narrow)
    y = np.abs(v) / (1.0 + grow)
    radius: Field = (x**head.square + y**head.square) ** (1.0 / head.square)
    return (radius - 1.0) * head.width


def _height(head: Head, pose: Shot, u: Field, v: Field, edge: Field) -> Field:
    """Relief of the face in face units, without the lips' colour or any paint."""
    nose_u = u - 0.45 * pose.yaw * np.exp(-(((v - head.nose_y) / 0.3) ** 2))
    round_off = np.clip(-edge / head.width, 0.0, 1.0)
    relief: Field = 0.78 * np.sqrt(round_off * (2.0 - round_off) + 0.02)
    along = soft_step(v - head.nose_y - 0.01, 0.12) * np.clip((v + 0.22) / 0.62, 0.0, 1.0)
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


def _lit(relief: Field, pose: Shot, scale: float) -> tuple[Field, Field]:
    """Diffuse light (about 0.3..1.2) and gloss (0..1) of a relief, each (size, size)."""
    down, right = np.gradient(relief * scale)
    length = np.sqrt(right**2 + down**2 + 1.0)
    facing = (pose.lamp[2] - right * pose.lamp[0] - down * pose.lamp[1]) / length
    diffuse = pose.ambient + 0.62 * np.clip((facing + 0.25) / 1.25, 0.0, None)
    half = pose.lamp + np.array([0.0, 0.0, 1.0], np.float32)
    half /= np.linalg.norm(half)
    gloss = np.clip((half[2] - right * half[0] - down * half[1]) / length, 0.0, 1.0) ** 22
    return diffuse.astype(np.float32), gloss.astype(np.float32)


def _paint_eye(canvas: Field, head: Head, pose: Shot, u: Field, v: Field, side: float) -> None:
    wide = head.eye_size
    x = (u - side * head.eye_x) / wide
    # The outer corner is the one away from the nose, so the tilt is mirrored.
    y = v - head.eye_y + head.eye_tilt * wide * x * side
    arch = np.clip(1.0 - x**2, -0.6, 1.0)
    upper = -0.46 * wide * pose.lids * arch
    lower = (0.34 - 0.08 * max(pose.smile, 0.0)) * wide * arch
    opening = soft_step(np.maximum(upper - y, y - lower), 0.02)
    near = soft_step(np.abs(x) - 1.12, 0.35)
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
    _over(canvas, ring, opening * soft_step(r - 1.0, 0.25))
    _over(canvas, np.full(3, 0.03, np.float32), opening * soft_step(r - 0.42, 0.22))
    spark = (pose.gaze / wide + 0.16 * float(pose.lamp[0]), -0.032)
    _over(canvas, np.ones(3, np.float32), 0.8 * opening * _bump(x, y, spark, 0.11, 0.015))
    lash = near * np.exp(-(((y - upper) / 0.017) ** 2))
    _over(canvas, 0.25 * dark, np.clip(0.95 * lash, 0.0, 1.0))
    _over(canvas, dark, 0.5 * near * np.exp(-(((y - lower) / 0.012) ** 2)))


def _paint_brow(canvas: Field, head: Head, u: Field, v: Field, side: float, hairs: Field) -> None:
    x = (u * side - head.eye_x * 0.98) / (head.eye_size * 1.45)
    middle = head.eye_y - head.brow_y + head.brow_bend * (x - 0.35) ** 2 * 0.8
    thick = head.brow_thick * np.clip(1.05 - 0.45 * x, 0.2, 1.4)
    mask = soft_step(np.abs(v - middle) - thick, 0.05) * soft_step(np.abs(x) - 1.0, 0.4)
    _over(canvas, 0.75 * head.hair, mask * np.clip(0.72 + 0.25 * hairs, 0.0, 0.95))


def _paint_nose(canvas: Field, head: Head, pose: Shot, u: Field, v: Field) -> None:
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


def _paint_mouth(canvas: Field, head: Head, pose: Shot, u: Field, v: Field) -> None:
    wide = head.mouth_width * (1.0 + 0.12 * pose.smile)
    x = u / wide
    y = v - head.mouth_y - 0.05 * pose.smile * (0.45 - x**2)
    arch = np.clip(1.0 - np.abs(x) ** 2.2, -0.4, 1.0)
    bow = 1.0 - 0.30 * np.exp(-((x / 0.16) ** 2))
    top = -head.lip_full * 0.85 * arch * bow
    bottom = head.lip_full * 1.30 * arch
    gap = 0.030 * max(pose.smile - 0.35, 0.0) / 0.65 * arch * 1.6
    upper = soft_step(np.maximum(top - gap - y, y), 0.030)
    lower = soft_step(np.maximum(-y, y - bottom - gap), 0.035)
    light = 0.55 + 0.55 * pose.ambient
    _over(canvas, head.lip * (0.82 * light), 0.85 * upper)
    roll = 1.0 + 0.22 * np.exp(-(((y - gap - 0.45 * bottom) / 0.035) ** 2))
    _over(canvas, head.lip * (light * roll)[..., None], 0.85 * lower)
    teeth = np.array([0.86, 0.83, 0.78], np.float32) * light
    _over(canvas, teeth, soft_step(np.abs(y) - gap, 0.016) * soft_step(0.02 - gap, 0.02))
    dark = head.lip * np.array([0.36, 0.28, 0.28], np.float32)
    line = np.exp(-(((np.abs(y) - gap) / 0.013) ** 2)) * soft_step(np.abs(x) - 1.02, 0.2)
    _over(canvas, dark, 0.85 * line)
    _over(canvas, 0.6 * head.skin, 0.30 * _bump(u, v, (0.0, head.mouth_y + 0.145), 0.15, 0.03))


def _paint_back(canvas: Field, pose: Shot, rng: np.random.Generator) -> None:
    """Fill the canvas with an out-of-focus wall."""
    size = canvas.shape[0]
    slope = np.linspace(1.12, 0.78, size, dtype=np.float32)[:, None]
    mottle = slope * (1.0 + 0.16 * _cloud(rng, size, 3) + 0.05 * _cloud(rng, size, 9))
    tint = 1.0 + 0.05 * np.stack([_cloud(rng, size, 2) for _ in range(3)], axis=-1)
    canvas[:] = pose.wall * mottle[..., None] * tint


def _paint_body(canvas: Field, head: Head, pose: Shot, u: Field, v: Field, fold: Field) -> None:
    """Neck, shoulders and clothes; ``u`` and ``v`` here stay upright when the head rolls."""
    light = (pose.ambient + 0.42 + 0.25 * pose.lamp[0] * u).astype(np.float32)
    neck = 0.62 * head.width + 0.10 * np.clip(v - 1.15, 0.0, 1.0) ** 2 * 4.0
    round_off = 1.0 - 0.40 * np.clip(np.abs(u) / neck, 0.0, 1.0) ** 3
    chin = 1.0 - 0.48 * np.exp(-((np.clip(v - 0.88, 0.0, None) / 0.25) ** 2))
    skin = head.skin * (light * round_off * chin)[..., None]
    _over(canvas, skin, soft_step(np.abs(u) - neck, 0.03) * soft_step(0.4 - v, 0.1))
    shoulder = 1.22 + 0.30 * np.clip(np.abs(u) / 1.25, 0.0, 2.0) ** 2.6
    opening = 1.30 + (0.10 + 0.38 * pose.collar) * np.clip(1.0 - (u / 0.58) ** 2, -1.0, 1.0)
    edge = np.maximum(shoulder - v, opening - v)
    bright = light * np.clip(0.62 + 0.75 * (v - shoulder), 0.5, 1.05) * (1.0 + 0.10 * fold)
    _over(canvas, head.skin * (light * 0.8)[..., None], soft_step(shoulder + 0.03 - v, 0.30))
    _over(canvas, pose.cloth * bright[..., None], soft_step(edge, 0.03))
    _over(canvas, 0.45 * pose.cloth, 0.5 * np.exp(-((edge / 0.022) ** 2)))


def _hair_colour(head: Head, pose: Shot, u: Field, v: Field, rng: np.random.Generator) -> Field:
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
    head: Head,
    pose: Shot,
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
        tone = (pose.ambient + 0.30) * (1.0 - 0.35 * soft_step(r - 0.55, 0.5))
        warm = head.skin * np.array([0.98, 0.86, 0.82], np.float32)
        _over(canvas, warm * tone[..., None], soft_step(r - 1.0, 0.3))
    edge = _outline(head, u, v)
    turned = u - pose.yaw * skin_depth(u, head.width)
    diffuse, gloss = _lit(_height(head, pose, turned, v, edge), pose, scale)
    blush = 0.4 * _bump(turned, v, (0.0, head.nose_y - 0.05), 0.13, 0.13)
    for side in (-1.0, 1.0):
        blush += 0.55 * _bump(turned, v, (side * 0.42, 0.30), 0.20, 0.16)
    red = np.stack([0.02 * blush, -0.10 * blush, -0.09 * blush], axis=-1)
    pores = 1.0 + 0.016 * _cloud(rng, size, size // 3) + 0.03 * _cloud(rng, size, 14)
    spots = np.clip(_cloud(rng, size, size // 5) - 0.75, 0.0, 1.0)
    spots *= head.freckles * _bump(turned, v, (0.0, 0.22), 0.5, 0.2)
    albedo = head.skin * (pores - 0.28 * spots)[..., None] * (1.0 + red)
    jawline = soft_step(0.30 + 0.30 * np.cos(np.clip(turned * 3.2, -3.1, 3.1)) - v, 0.30)
    lips = _bump(turned, v, (0.0, head.mouth_y + 0.02), 0.22, 0.07)
    grain = np.clip(0.75 + 0.35 * _cloud(rng, size, size // 3), 0.0, 1.0)
    _over(albedo, 0.8 * head.hair, head.beard * 0.8 * jawline * grain * (1.0 - 0.8 * lips))
    # Light that leaves skin near a shadow's edge is redder than the light that fell on it.
    depth = np.clip(1.0 - diffuse, 0.0, 1.0)[..., None] * np.array([0.0, 0.22, 0.30], np.float32)
    skin = albedo * diffuse[..., None] * (1.0 - depth) + (0.11 * gloss)[..., None]
    _over(canvas, skin, soft_step(edge, 0.035))
    hairs = _cloud(rng, size, size // 3)
    for side in (-1.0, 1.0):
        _paint_eye(canvas, head, pose, turned, v, side)
        _paint_brow(canvas, head, turned, v, side, hairs)
    _paint_nose(canvas, head, pose, turned, v)
    _paint_mouth(canvas, head, pose, turned, v)


def _paint_hair(canvas: Field, head: Head, u: Field, v: Field, colour: Field, wave: Field) -> None:
    """Paint the hair in front: cap, sides and, when long, the curtains beside the face."""
    across = np.abs(u) / head.width
    line = head.hairline + 0.035 * wave + head.parting * u * 0.9 + 0.50 * across**3.2
    if head.hair_end > 0.5:
        side = 0.86 + 0.05 * np.clip(v, -0.5, 1.5) + 0.03 * wave
        cover = np.maximum(soft_step(v - line, 0.06), soft_step(side - across, 0.07))
    else:
        cover = soft_step(v - np.minimum(line, head.hair_end), 0.07)
    outer = _outline(head, u, np.minimum(v, 0.1), head.volume + 0.02 * wave.mean())
    tips = soft_step(v - head.hair_end - 0.05 * wave, 0.25)
    mask = cover * soft_step(outer + 0.02 * wave, 0.05) * tips
    shadow = cv2.GaussianBlur(mask, (0, 0), 0.022 * u.shape[0])
    on_skin = np.clip(shadow - mask, 0.0, 1.0) * soft_step(_outline(head, u, v), 0.04)
    canvas *= (1.0 - 0.35 * on_skin)[..., None]
    _over(canvas, colour, mask)
