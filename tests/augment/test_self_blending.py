"""Self-blended reals differ from their original where the face is, patterns everywhere."""

from __future__ import annotations

from collections import Counter
from functools import cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.augment import self_blending as blending
from deepfake.augment.face_parts import (
    Crop,
    Points,
    draw_frontal_face,
    hull_mask,
    outline,
    to_five,
)
from deepfake.augment.self_blending import (
    PATTERN_ALPHA,
    blend_pattern,
    draw_pattern,
    lower_resolution,
    self_blend,
)
from tests.chances import Floats, assert_rate, assert_uniform

SIZE = 96
NO_POINTS: Points = np.empty((0, 2), np.float32)


def points() -> Points:
    return to_five((draw_frontal_face() * 13 + (48, 34)).astype(np.float32))


def textured(seed: int = 0) -> Crop:
    return np.random.default_rng(seed).integers(60, 200, (SIZE, SIZE, 3)).astype(np.uint8)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("change", [self_blend, blend_pattern, lower_resolution])
def test_the_generator_decides_everything(change: object) -> None:
    crop = textured()
    before = crop.copy()
    results = [change(crop, points(), rng(seed)) for seed in (1, 1, 2)]  # type: ignore[operator]
    assert np.array_equal(crop, before)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert {(result.shape, result.dtype) for result in results} == {
        ((SIZE, SIZE, 3), np.dtype(np.uint8))
    }


def test_a_self_blend_has_a_seam_between_inside_and_outside() -> None:
    crop = textured()
    inside_differs = outside_same = 0
    for seed in range(60):
        difference = np.abs(self_blend(crop, points(), rng(seed)).astype(int) - crop)
        corner, centre = difference[:6, :6].mean(), difference[40:55, 40:56].mean()
        # Either the source was changed, and the corner is the crop's own, or the target was.
        outside_same += corner == 0
        inside_differs += centre > 1
    assert inside_differs > 54
    assert 15 < outside_same < 45


def test_a_self_blend_is_subtle() -> None:
    # Smooth as skin is: noise would lose its contrast by any interpolation.
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    crop = np.stack([100 + x // 2, 90 + y // 2, np.full_like(x, 120)], axis=2).astype(np.uint8)
    differences = [
        np.abs(self_blend(crop, points(), rng(seed)).astype(int) - crop).mean()
        for seed in range(40)
    ]
    assert max(differences) < 60
    assert np.median(differences) > 0.5


def test_blended_faces_keep_within_the_hull() -> None:
    crop = textured()
    far = to_five((draw_frontal_face() * 4 + (20, 20)).astype(np.float32))
    unchanged = [
        np.array_equal(self_blend(crop, far, rng(seed))[60:, 60:], crop[60:, 60:])
        for seed in range(40)
    ]
    assert 8 < sum(unchanged) < 32  # where the source was changed, half of the time


def test_patterns_are_many_and_weigh_a_fifth() -> None:
    patterns = {draw_pattern(SIZE, rng(seed)).tobytes() for seed in range(50)}
    assert len(patterns) == 50
    crop = textured()
    for seed in range(12):
        mixed = blend_pattern(crop, NO_POINTS, rng(seed)).astype(float)
        expected = (1 - PATTERN_ALPHA) * crop + PATTERN_ALPHA * draw_pattern(SIZE, rng(seed))
        np.testing.assert_allclose(mixed, expected, atol=1)
    assert PATTERN_ALPHA == 0.2


def test_lower_resolution_removes_detail_only() -> None:
    checks = (np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 200).astype(np.uint8)
    crop = np.repeat(checks[..., None], 3, axis=2)
    shades = np.repeat(np.linspace(50, 200, SIZE).astype(np.uint8)[None, :, None], SIZE, axis=0)
    smooth = np.repeat(shades, 3, axis=2)
    for seed in range(20):
        assert lower_resolution(crop, NO_POINTS, rng(seed)).std() < 0.5 * crop.std()
        changed = lower_resolution(smooth, NO_POINTS, rng(seed)).astype(int)
        assert np.abs(changed - smooth).mean() < 3


def test_a_face_that_is_no_face_is_no_error() -> None:
    for broken in (np.zeros((5, 2)), np.full((5, 2), 1e6), np.full((68, 2), -40.0)):
        result = self_blend(textured(), broken.astype(np.float32), rng(0))
        assert result.shape == (SIZE, SIZE, 3)


# What a self-blend is made of, read from what it makes of made crops. Where the surroundings
# were changed and not the inside, a flat grey shows the weight of the inside in every pixel.

WIDE = 160
GREY = np.full((WIDE, WIDE, 3), 120, np.uint8)
FACE: Points = (draw_frontal_face() * 20 + (80, 55)).astype(np.float32)
SEEDS = range(700)


@cache
def greys() -> list[Crop]:
    return [self_blend(GREY, FACE, rng(seed)) for seed in range(600)]


@cache
def changed() -> list[int]:
    """Seeds whose surroundings were changed, and not the inside."""
    return [seed for seed, blended in enumerate(greys()) if (blended[0, 0] != 120).any()]


@cache
def weights() -> dict[int, Floats]:
    """Weight of the inside, by seed, where it can be read: the change must be more than faint."""
    fields = {}
    for seed in changed():
        changes = greys()[seed][0, 0] - 120.0
        channel = int(np.abs(changes).argmax())
        if abs(changes[channel]) > 14:
            fields[seed] = 1 - (greys()[seed][..., channel] - 120.0) / changes[channel]
    return fields


def test_a_self_blend_takes_the_papers_ratios() -> None:
    strongest = np.array([field.max() for field in weights().values()])
    ratios = np.array([0.25, 0.5, 0.75, 1.0])
    nearest = np.abs(strongest[:, None] - ratios).argmin(axis=1)
    assert np.quantile(np.abs(strongest - ratios[nearest]), 0.9) < 0.05
    for ratio, p in enumerate((1 / 6, 1 / 6, 1 / 6, 1 / 2)):
        assert_rate(int((nearest == ratio).sum()), p, len(strongest))


def inner(field: Floats) -> Crop:
    """Where at least half of what the inside weighs at most is left."""
    return np.asarray(field > field.max() / 2, np.uint8)


def test_the_mask_is_deformed() -> None:
    depths = []
    for field in weights().values():
        contours, _ = cv2.findContours(inner(field), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        rim = max(contours, key=cv2.contourArea)
        hull = cv2.convexHull(rim, returnPoints=False)
        found = cv2.convexityDefects(rim, hull)
        depths.append(0 if found is None else found[..., 3].max() / 256)
    # A hull, blurred, has no dents but those of whole pixels, below one.
    assert 2.2 < np.mean(depths) < 3.2


@cache
def four_hulls() -> list[NDArray[np.bool_]]:
    inner_face, lower = FACE[17:], np.concatenate([FACE[1:16], FACE[27:31]])
    hulls = [outline(FACE), outline(FACE, with_forehead=False), inner_face, lower]
    return [hull_mask(hull, WIDE) > 0 for hull in hulls]


def test_the_mask_is_one_of_four_hulls_grown_or_shrunk() -> None:
    areas = [mask.sum() for mask in four_hulls()]
    found = [float(inner(field).sum()) for field in weights().values()]
    assert np.mean(found) == pytest.approx(np.mean(areas), rel=0.15)


def test_the_hulls_come_equally_often_with_shaken_corners() -> None:
    # Before the mask is deformed and blurred, or the shaking could hardly be told from these.
    shaken = [blending._random_hull(FACE, WIDE, rng(seed)) > 0 for seed in range(400)]
    nearest = [int(np.argmin([(mask ^ hull).sum() for hull in four_hulls()])) for mask in shaken]
    for hull in range(4):
        assert_rate(nearest.count(hull), 1 / 4, 400)
    ratios = [
        mask.sum() / four_hulls()[hull].sum() for mask, hull in zip(shaken, nearest, strict=True)
    ]
    # By 3 % of the hull's extent. Half of that leaves 0.019 here, half as much again 0.059.
    assert np.std(ratios) == pytest.approx(0.038, rel=0.25)


def test_the_rim_is_soft() -> None:
    softness = []
    for field in weights().values():
        steepest = np.hypot(*np.gradient(field)).max()
        softness.append(field.max() / steepest / np.sqrt(2 * np.pi) / WIDE)
    # A straight rim's blur, in shares of the side, is drawn from 0.01 to 0.05; a bent one is less.
    assert min(softness) > 0.007
    assert 0.030 < np.quantile(softness, 0.9) < max(softness) < 0.052


def test_what_is_changed_about_the_look() -> None:
    assert_rate(len(changed()), 0.5, 600)
    changes = np.array([greys()[seed][0, 0] for seed in changed()]) - 120.0
    means = changes.mean(axis=1)
    # Three shifts of up to 20, and a brightness of up to a tenth of the range.
    assert means.std() == pytest.approx(np.sqrt(40**2 / 12 / 3 + 51**2 / 12), rel=0.1)
    assert abs(means).max() < 20 + 25.5 + 1
    assert (changes - means[:, None]).std() == pytest.approx(np.sqrt(40**2 / 12 * 2 / 3), rel=0.1)

    crop = GREY.copy()
    wave = 20 * np.sin(2 * np.pi * (np.arange(24) + 0.5) / 8)
    crop[:, :24] = np.rint(120 + wave)[None, :, None]
    crop[:50, 140:], crop[50:110, 140:], crop[110:, 140:] = 90, (180, 100, 100), 160
    results = [self_blend(crop, FACE, rng(seed)).astype(float) for seed in changed()]
    dark, red, bright = (np.array([one[row, 152] for one in results]) for row in (20, 80, 140))
    contrast = (bright - dark).mean(axis=1) / 70
    assert_uniform(contrast, 0.9, 1.1, 0.015)
    redder = (red - dark)[:, 0] - (red - dark)[:, 1]
    assert_uniform(redder / 80 / contrast, 0.8, 1.2, 0.03)
    heights = np.array([one[:20, 8:16].mean(axis=(0, 2)).std() for one in results])
    gains = heights / contrast / wave[8:16].std()
    # Coarser by 2 or by 4, or sharper; a blur of one pixel leaves 0.735 of these waves.
    sharp, coarse = gains[gains > 1], gains[gains < 1]
    assert_rate(len(coarse), 0.5, len(gains))
    assert_rate(int((coarse < 0.6).sum()), 0.5, len(coarse))
    assert_uniform(sharp, 1 + 0.4 * 0.265, 1 + 1.0 * 0.265, 0.05)


def test_the_inside_is_moved_and_scaled_by_a_few_percent() -> None:
    middle = WIDE / 2
    places = np.array([(-16, -16), (16, -16), (0, 10)], float)
    y, x = np.mgrid[0:WIDE, 0:WIDE] - middle
    lights = np.stack([np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8) for u, v in places], axis=2)
    crop = np.rint(255 * lights).astype(np.uint8)
    near = cv2.dilate((crop.max(axis=2) > 20).astype(np.uint8), np.ones((13, 13))) > 0
    maps = []
    for seed, field in weights().items():
        if field[near].min() < 0.97:
            continue  # a lower ratio, or a mask that does not hold the lights
        light = self_blend(crop, FACE, rng(seed)).astype(float)
        light[~near] = 0
        light[light < 24] = 0
        total = light.sum(axis=(0, 1))
        found = [(light * axis[..., None]).sum(axis=(0, 1)) / total for axis in (x, y)]
        maps.append(np.linalg.solve(np.c_[places, np.ones(3)], np.stack(found, axis=1)).T)
    wide, high = (np.array([one[axis, axis] for one in maps]) for axis in (0, 1))
    assert_uniform(wide, 0.95, 1 / 0.95, 0.015)
    assert abs(wide - high).max() < 0.03
    for axis, most in ((0, 0.03), (1, 0.015)):
        assert_uniform([one[axis, 2] / WIDE for one in maps], -most, most, 0.004)


def test_lower_resolution_is_by_2_to_4_and_three_interpolations() -> None:
    crop = textured()
    known: dict[bytes, tuple[int, int]] = {}
    for side in range(20, 56):
        small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        for method in (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC):
            large = cv2.resize(small, (SIZE, SIZE), interpolation=method)
            known[large.tobytes()] = (side, method)
    results = [lower_resolution(crop, NO_POINTS, rng(seed)).tobytes() for seed in range(400)]
    found = [known[one] for one in results if one in known]
    assert len(found) == 400
    assert_uniform([SIZE / side for side, _ in found], 2, 4, 0.1)
    methods = Counter(method for _, method in found)
    for method in methods:
        assert_rate(methods[method], 1 / 3, 400)


def test_four_of_six_patterns_have_two_colours() -> None:
    colours = [
        len(np.unique(draw_pattern(32, rng(seed)).reshape(-1, 3), axis=0)) for seed in range(400)
    ]
    assert_rate(sum(count <= 2 for count in colours), 4 / 6, 400)
