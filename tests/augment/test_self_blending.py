"""Self-blended reals differ from their original where the face is, patterns everywhere."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deepfake.augment import self_blending as blending
from deepfake.augment.face_parts import (
    Crop,
    Points,
    draw_frontal_face,
    hull_mask,
    to_five,
)
from deepfake.augment.self_blending import (
    PATTERN_ALPHA,
    BlendSettings,
    blend_pattern,
    draw_pattern,
    find_hulls,
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


# What a self-blend is made of, each knob alone: the others are switched off.

PLAIN = BlendSettings(
    masks=(("face", 1.0),),
    shake=0,
    warp=0,
    soft=(0.001, 0.001),
    ratios=(1.0,),
    tinted=0,
    saturation=0,
    contrast=0,
    brightness=0,
    transfer=0,
    coarser=0,
    sharper=0,
    band=0,
    jpeg=0,
    scale=0,
    shift=(0, 0),
)
"""Nothing is changed: the blend is the crop."""
WIDE = 160
GREY = np.full((WIDE, WIDE, 3), 120, np.uint8)
FACE: Points = (draw_frontal_face() * 20 + (80, 55)).astype(np.float32)
MESH: Points = np.random.default_rng(3).uniform(30, 130, (468, 2)).astype(np.float32)
TEXTURE = np.random.default_rng(0).integers(60, 200, (WIDE, WIDE, 3)).astype(np.uint8)


def test_without_changes_the_blend_is_the_crop() -> None:
    for seed in range(5):
        assert np.array_equal(self_blend(TEXTURE, FACE, rng(seed), PLAIN), TEXTURE)


def blends(crop: Crop = GREY, number: int = 100, **settings: Any) -> list[Floats]:
    changed = replace(PLAIN, **settings)
    return [self_blend(crop, FACE, rng(seed), changed).astype(float) for seed in range(number)]


def in_and_out(blended: Floats) -> tuple[Floats, Floats]:
    """Mean colour of the middle of the face, and of a corner."""
    return blended[70:90, 70:90].mean(axis=(0, 1)), blended[:8, :8].mean(axis=(0, 1))


def test_source_or_target_is_changed_equally_often() -> None:
    sides = [in_and_out(one) for one in blends(brightness=0.1)]
    assert not any((inside != 120).any() and (outside != 120).any() for inside, outside in sides)
    assert_rate(sum((inside != 120).any() for inside, _ in sides), 0.5, len(sides))


def change_of(blended: Floats) -> Floats:
    inside, outside = in_and_out(blended)
    return inside - 120 if (inside != 120).any() else outside - 120


def test_tint_is_of_a_share_and_brightness_of_all() -> None:
    changes = np.array([change_of(one) for one in blends(number=200, tinted=0.3, tint=20.0)])
    tinted = changes[np.ptp(changes, axis=1) > 0]
    assert_rate(len(tinted), 0.3, len(changes))
    assert_uniform(tinted[:, 0], -20, 20, 1)
    changes = np.array([change_of(one) for one in blends(number=200, brightness=0.1)])
    assert (np.ptp(changes, axis=1) == 0).all()
    assert_uniform(changes[:, 0], -25.5, 25.5, 1)


def test_contrast_and_saturation() -> None:
    crop = GREY.copy()
    crop[:8, :8], crop[70:90, 70:80], crop[70:90, 80:90] = 200, 200, (200, 120, 120)
    plain = [crop[:8, :8].mean(), crop[70:90, 70:80].mean()]
    assert plain == [200, 200]
    ratios = []
    for one in blends(crop, 120, contrast=0.1):
        inside, outside = one[70:90, 70:80].mean(), one[:8, :8].mean()
        mean = crop.mean()
        ratios.append(((inside if inside != 200 else outside) - mean) / (200 - mean))
    assert_uniform(ratios, 0.9, 1.1, 0.01)
    redness = [
        (one[70:90, 80:90, 0] - one[70:90, 80:90, 1]).mean() / 80
        for one in blends(crop, 120, saturation=0.2)
    ]
    assert_uniform([value for value in redness if value != 1], 0.8, 1.2, 0.02)


def test_ratios_are_drawn_evenly() -> None:
    given = (0.25, 0.5, 1.0, 1.0)
    crop = GREY.copy()
    plain = blends(crop, 120, brightness=0.1)
    weaker = blends(crop, 120, brightness=0.1, ratios=given)
    shares = []
    for full, part in zip(plain, weaker, strict=True):
        inside, changed = in_and_out(full)[0][0] - 120, in_and_out(part)[0][0] - 120
        if abs(inside) > 8:
            shares.append(changed / inside)
    nearest = [min((0.25, 0.5, 1.0), key=lambda r: abs(r - share)) for share in shares]
    assert max(abs(a - b) for a, b in zip(nearest, shares, strict=True)) < 0.1
    assert_rate(nearest.count(0.25), 0.25, len(nearest))
    assert_rate(nearest.count(0.5), 0.25, len(nearest))


def detail(blended: Floats) -> tuple[float, float]:
    """How much the middle of the face, and a corner, vary from pixel to pixel."""
    return tuple(  # type: ignore[return-value]
        float(np.abs(np.diff(part, axis=0)).mean())
        for part in (blended[70:90, 70:90], blended[2:22, 2:22])
    )


@pytest.mark.parametrize(
    ("settings", "finer"),
    [
        ({"coarser": 0.4}, False),
        ({"sharper": 0.4}, True),
        ({"band": 0.4, "band_gain": (0.5, 0.5)}, False),
        ({"band": 0.4, "band_gain": (1.4, 1.4)}, True),
        ({"jpeg": 0.4, "jpeg_quality": (10, 12)}, False),
    ],
    ids=["coarser", "sharper", "less-detail", "more-detail", "jpeg"],
)
def test_one_side_has_other_frequencies(settings: dict[str, Any], finer: bool) -> None:
    plain = np.array(detail(TEXTURE.astype(float)))
    ratios = np.array([detail(one) for one in blends(TEXTURE, 120, **settings)]) / plain
    differs = np.abs(ratios - 1) > 1e-9
    assert not differs.all(axis=1).any()  # never both sides
    assert_rate(int(differs.any(axis=1).sum()), 0.4, len(ratios))
    changed = ratios[differs]
    assert (changed > 1).all() if finer else (changed < 1).all()


def test_jpeg_is_that_of_a_file_of_these_colours() -> None:
    crop = np.random.default_rng(5).integers(0, 255, (WIDE, WIDE, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=30, subsampling="4:2:0")
    saved = np.asarray(Image.open(file).convert("RGB"), np.float32)
    for one in blends(crop, 10, jpeg=1.0, jpeg_quality=(30, 30)):
        for part in np.s_[70:90, 70:90], np.s_[2:22, 2:22]:
            kept, jpeg = (float(np.abs(one[part] - other[part]).mean()) for other in (crop, saved))
            assert min(kept, jpeg) < 0.5


def test_colours_are_transferred_to_the_inside() -> None:
    large = cv2.resize(TEXTURE[:8, :8], (WIDE, WIDE), interpolation=cv2.INTER_CUBIC)
    shades = np.asarray(large, np.uint8)
    options = {"brightness": 0.1, "contrast": 0.1}
    apart = [blends(shades, 60, **options, transfer=share) for share in (0.0, 1.0)]
    gaps = []
    for many in apart:
        sides = [in_and_out(one) for one in many]
        inside, outside = (np.array([side[n] for side in sides]) for n in (0, 1))
        here, there = in_and_out(shades.astype(float))
        gaps.append(np.abs((inside - here) - (outside - there)).mean())
    assert gaps[1] < 0.4 * gaps[0]


def test_the_source_is_moved_and_scaled() -> None:
    dot = np.zeros((WIDE, WIDE, 3), np.uint8)
    y, x = np.mgrid[0:WIDE, 0:WIDE] - WIDE / 2
    places = [(-16, -10), (16, -10), (0, 20)]
    for channel, (u, v) in enumerate(places):
        dot[..., channel] = np.rint(255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8))
    maps = []
    for one in blends(dot, 120, scale=0.05, shift=(0.03, 0.015)):
        total = one.sum(axis=(0, 1))
        found = [(one * axis[..., None]).sum(axis=(0, 1)) / total for axis in (x, y)]
        known = np.c_[places, np.ones(3)]
        maps.append(np.linalg.solve(known, np.stack(found, axis=1)).T)
    scales = [one[0, 0] for one in maps]
    assert 1 / 1.05 - 0.01 < min(scales) < 0.96 < 1.04 < max(scales) < 1.06
    for axis, most in ((0, 0.03), (1, 0.015)):
        assert_uniform([one[axis, 2] / WIDE for one in maps], -most, most, 0.004)


def mask_of(**settings: Any) -> list[NDArray[np.float32]]:
    changed = replace(PLAIN, **settings)
    return [
        blending._soften(
            blending._deform(
                blending._draw_mask(FACE, WIDE, rng(seed), changed), rng(seed), changed
            ),
            rng(seed),
            changed,
        )
        for seed in range(60)
    ]


def test_masks_are_shaken_deformed_and_soft() -> None:
    (hull,) = find_hulls("face", FACE, rng(0))
    plain = hull_mask(hull, WIDE) > 0
    assert all(((mask > 0.5) ^ plain).mean() < 0.03 for mask in mask_of())
    for settings in ({"shake": 0.05}, {"warp": 0.06}):
        moved = [((mask > 0.5) ^ plain).mean() for mask in mask_of(**settings)]
        assert np.mean(moved) > 0.03
    steepness = [
        np.mean([np.hypot(*np.gradient(mask)).max() for mask in mask_of(soft=(size, size))])
        for size in (0.005, 0.05)
    ]
    assert steepness[0] > 4 * steepness[1]
    # Blurs take from a hull or add to it, by turns.
    sizes = [float((mask > 0.5).mean()) for mask in mask_of(soft=(0.05, 0.05))]
    assert_rate(sum(size > plain.mean() for size in sizes), 0.5, len(sizes))


def test_masks_come_as_often_as_they_say() -> None:
    names = ("face", "mouth", "eyes")
    settings = replace(PLAIN, masks=((names[0], 0.5), (names[1], 0.3), (names[2], 0.2)))
    known = {
        name: sum(hull_mask(hull, WIDE) > 0 for hull in find_hulls(name, FACE, rng(0)))
        for name in names
    }
    drawn = [blending._draw_mask(FACE, WIDE, rng(seed), settings) > 0 for seed in range(300)]
    found = [min(known, key=lambda name: (known[name] ^ mask).sum()) for mask in drawn]
    for name, share in settings.masks:
        assert_rate(found.count(name), share, len(found))
    assert sum(share for _, share in BlendSettings().masks) == pytest.approx(1)


@pytest.mark.parametrize("points", [to_five(FACE), FACE, MESH], ids=["five", "68", "mesh"])
def test_every_mask_has_an_area(points: Points) -> None:
    for name, _ in BlendSettings().masks:
        for seed in range(5):
            hulls = find_hulls(name, points, rng(seed))
            assert all(hull_mask(hull, WIDE).any() for hull in hulls), name
    assert len(find_hulls("eyes", points, rng(0))) == 2


def test_parts_lie_where_the_face_has_them() -> None:
    middles = {
        name: np.concatenate(find_hulls(name, FACE, rng(0))).mean(axis=0)
        for name in ("mouth", "eyes", "nose", "lower")
    }
    assert middles["eyes"][1] < middles["nose"][1] < middles["mouth"][1]
    assert middles["lower"][1] > middles["nose"][1]
    areas = {
        name: hull_mask(find_hulls(name, FACE, rng(0))[0], WIDE).mean()
        for name in ("face", "below_brows", "inner", "nose")
    }
    assert areas["face"] > areas["below_brows"] > areas["inner"] > areas["nose"]


def test_patches_are_many() -> None:
    patches = [hull_mask(find_hulls("patch", MESH, rng(seed))[0], WIDE) for seed in range(40)]
    assert len({patch.tobytes() for patch in patches}) == 40
    sizes = [float((patch > 0).mean()) for patch in patches]
    assert min(sizes) < 0.1 < 0.2 < max(sizes)


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
