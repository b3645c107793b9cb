"""Turns (identity, shot, seed) into a drawn portrait, and two portraits into a face-swapped fake.

The fakes follow the classical swap: align, match colours, resample, feather. The module does not
know how a detector works. A score on these portraits says that a pipeline runs, never that it finds
fakes in the wild.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from deepfake.demo.painting import paint_person, soft_step
from deepfake.demo.people import (
    BLEND,
    DONOR,
    PIXELS,
    Field,
    Image,
    PortraitGeometry,
    Shot,
    make_head,
    make_rng,
    make_shot,
    portrait_geometry,
)
from deepfake.storage import write_atomic
from deepfake.tables import format_table


def draw_portrait(identity: int, shot: int, seed: int = 0, size: int = 256) -> Image:
    """Draw one portrait; the same arguments give the same bytes in every process.

    Args:
        identity: Number of the person, 0 or more.
        shot: Number of the exposure of this person, 0 or more.
        seed: Seed of the whole data set, 0 or more.
        size: Side of the portrait in pixels.

    Returns:
        RGB image of shape (size, size, 3), uint8.
    """
    head, pose = make_head(identity, seed), make_shot(identity, shot, seed)
    rng = make_rng(seed, PIXELS, identity, shot)
    return _expose(paint_person(head, pose, size, rng), pose, rng)


def _expose(canvas: Field, pose: Shot, rng: np.random.Generator) -> Image:
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


def _face_mask(geometry: PortraitGeometry, size: int, grow: float) -> Field:
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
    return soft_step((r - 1.0).astype(np.float32), 0.22)


def blend_fake(
    target: Image,
    donor: Image,
    target_geometry: PortraitGeometry,
    donor_geometry: PortraitGeometry,
    seed: int = 0,
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
    rng = make_rng(seed, BLEND)
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
        shots: Exposures per person; each gives one real and one fake photo.
        seed: Seed of the data set, 0 or more.
        size: Side of the portraits in pixels.

    Returns:
        Number of photos written.

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
            draw = make_rng(seed, DONOR, identity, shot)
            donor, donor_geometry = faces[identity ^ 1, int(draw.integers(shots))]
            fake = blend_fake(real, donor, geometry, donor_geometry, seed=int(draw.integers(2**31)))
            for label, method, photo in (("real", "original", real), ("fake", "blend", fake)):
                path = root / label / f"id{identity:03d}" / f"{shot:02d}.png"
                _write_png(path, photo)
                rows.append(
                    (path.relative_to(root).as_posix(), label, f"pair{first // 2:02d}", method)
                )
    header = ("path", "label", "group", "method")
    write_atomic(root / "labels.csv", format_table(header, rows))
    return len(rows)


def _write_png(path: Path, photo: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"{path}: the photo could not be encoded")
    path.write_bytes(data.tobytes())
