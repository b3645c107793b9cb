"""Self-blended reals differ from their original where the face is, patterns everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from deepfake.learning.blending import (
    PATTERN_ALPHA,
    blend_pattern,
    draw_pattern,
    lower_resolution,
    self_blend,
)
from deepfake.learning.face_parts import Picture, Points, draw_frontal_face, to_five

SIZE = 96
NO_POINTS: Points = np.empty((0, 2), np.float32)


def points() -> Points:
    return to_five((draw_frontal_face() * 13 + (48, 34)).astype(np.float32))


def textured(seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(60, 200, (SIZE, SIZE, 3)).astype(np.uint8)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("change", [self_blend, blend_pattern, lower_resolution])
def test_the_generator_decides_everything(change: object) -> None:
    picture = textured()
    before = picture.copy()
    results = [change(picture, points(), rng(seed)) for seed in (1, 1, 2)]  # type: ignore[operator]
    assert np.array_equal(picture, before)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert {(result.shape, result.dtype) for result in results} == {
        ((SIZE, SIZE, 3), np.dtype(np.uint8))
    }


def test_a_self_blend_has_a_seam_between_inside_and_outside() -> None:
    picture = textured()
    inside_differs = outside_same = 0
    for seed in range(60):
        difference = np.abs(self_blend(picture, points(), rng(seed)).astype(int) - picture)
        corner, centre = difference[:6, :6].mean(), difference[40:55, 40:56].mean()
        # Either the source was changed, and the corner is the picture's own, or the target was.
        outside_same += corner == 0
        inside_differs += centre > 1
    assert inside_differs > 54
    assert 15 < outside_same < 45


def test_a_self_blend_is_subtle() -> None:
    # Smooth as skin is: noise would lose its contrast by any interpolation.
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    picture = np.stack([100 + x // 2, 90 + y // 2, np.full_like(x, 120)], axis=2).astype(np.uint8)
    differences = [
        np.abs(self_blend(picture, points(), rng(seed)).astype(int) - picture).mean()
        for seed in range(40)
    ]
    assert max(differences) < 60
    assert np.median(differences) > 0.5


def test_blended_faces_keep_within_the_hull() -> None:
    picture = textured()
    far = to_five((draw_frontal_face() * 4 + (20, 20)).astype(np.float32))
    unchanged = [
        np.array_equal(self_blend(picture, far, rng(seed))[60:, 60:], picture[60:, 60:])
        for seed in range(40)
    ]
    assert 8 < sum(unchanged) < 32  # where the source was changed, half of the time


def test_patterns_are_many_and_weigh_a_fifth() -> None:
    patterns = {draw_pattern(SIZE, rng(seed)).tobytes() for seed in range(50)}
    assert len(patterns) == 50
    picture = textured()
    for seed in range(12):
        mixed = blend_pattern(picture, NO_POINTS, rng(seed)).astype(float)
        expected = (1 - PATTERN_ALPHA) * picture + PATTERN_ALPHA * draw_pattern(SIZE, rng(seed))
        np.testing.assert_allclose(mixed, expected, atol=1)
    assert PATTERN_ALPHA == 0.2


def test_lower_resolution_removes_detail_only() -> None:
    checks = (np.indices((SIZE, SIZE)).sum(axis=0) % 2 * 200).astype(np.uint8)
    picture = np.repeat(checks[..., None], 3, axis=2)
    shades = np.repeat(np.linspace(50, 200, SIZE).astype(np.uint8)[None, :, None], SIZE, axis=0)
    smooth = np.repeat(shades, 3, axis=2)
    for seed in range(20):
        assert lower_resolution(picture, NO_POINTS, rng(seed)).std() < 0.5 * picture.std()
        changed = lower_resolution(smooth, NO_POINTS, rng(seed)).astype(int)
        assert np.abs(changed - smooth).mean() < 3


def test_a_face_that_is_no_face_is_no_error() -> None:
    for broken in (np.zeros((5, 2)), np.full((5, 2), 1e6), np.full((68, 2), -40.0)):
        result = self_blend(textured(), broken.astype(np.float32), rng(0))
        assert result.shape == (SIZE, SIZE, 3)
