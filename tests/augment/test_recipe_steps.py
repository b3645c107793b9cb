"""Every step of every recipe, by what comes out: how often, how strong, in which order.

Each step is drawn many times, from one seed, on a crop on which its strength can be read.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.augment import recipes
from deepfake.augment.face_parts import draw_frontal_face
from deepfake.augment.recipes import EXTRAS, RECIPES, Augmentation, apply_extra
from tests.chances import Floats, assert_rate, assert_uniform

Crop = NDArray[np.uint8]
Step = Any  # albumentations has no types

FLAT = np.full((48, 48, 3), 128, np.uint8)
WHITE = np.full((48, 48, 3), 255, np.uint8)
TEXTURE = np.random.default_rng(0).integers(60, 200, (64, 64, 3)).astype(np.uint8)


def steps(recipe: str, kind: type[Step]) -> list[Step]:
    """Steps of a kind, those inside a step that is none itself as well."""
    found: list[Step] = []
    for step in RECIPES[recipe]():
        inside = step.transforms if isinstance(step, A.RandomOrder) else [step]
        found += [one for one in inside if isinstance(one, kind)]
    return found


def draw(step: Step, crop: Crop, times: int = 1000) -> list[Crop]:
    """What one step makes of a crop, each time from the same generators."""
    step.set_random_state(np.random.default_rng(1), random.Random(1))
    return [step(image=crop)["image"] for _ in range(times)]


def changed(results: Sequence[Crop], crop: Crop) -> list[Crop]:
    return [result for result in results if not np.array_equal(result, crop)]


def test_steps_are_those_that_are_measured_here() -> None:
    names = {
        recipe: " ".join(type(step).__name__ for step in make()) for recipe, make in RECIPES.items()
    }
    assert names == {
        "dacon": "ImageCompression RandomOrder",
        "light": "HorizontalFlip Affine RandomBrightnessContrast GaussianBlur ImageCompression",
        "degraded": "HorizontalFlip Affine RandomBrightnessContrast Downscale GaussianBlur "
        "GaussNoise ImageCompression",
        "dfdc": "ImageCompression GaussNoise GaussianBlur HorizontalFlip OneOf OneOf ToGray Affine",
    }


@pytest.mark.parametrize(
    ("recipe", "low", "high", "p"),
    [
        ("dacon", 10, 30, 0.5),
        ("light", 40, 95, 0.3),
        ("degraded", 35, 95, 0.5),
        ("dfdc", 60, 100, 0.5),
    ],
)
def test_jpeg_quality(recipe: str, low: int, high: int, p: float) -> None:
    (step,) = steps(recipe, A.ImageCompression)
    qualities = {}
    for quality in range(1, 101):
        words = [cv2.IMWRITE_JPEG_QUALITY, quality]
        # The order of channels matters to JPEG; whichever the library takes will do.
        for turn in (1, -1):
            data = cv2.imencode(".jpg", TEXTURE[..., ::turn], words)[1]
            decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::turn]
            qualities[decoded.tobytes()] = quality
    found = [qualities[result.tobytes()] for result in changed(draw(step, TEXTURE), TEXTURE)]
    assert_rate(len(found), p)
    assert_uniform(found, low, high, 0.5)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_flips(recipe: str) -> None:
    (step,) = steps(recipe, A.HorizontalFlip)
    flipped = changed(draw(step, TEXTURE), TEXTURE)
    assert_rate(len(flipped), 0.5)
    assert all(np.array_equal(result, TEXTURE[:, ::-1]) for result in flipped)


@pytest.mark.parametrize(
    ("recipe", "low", "high", "p"),
    [("dacon", 0.05, 0.10, 0.5), ("degraded", 0.01, 0.04, 0.2), ("dfdc", 0.012, 0.028, 0.1)],
)
def test_noise(recipe: str, low: float, high: float, p: float) -> None:
    (step,) = steps(recipe, A.GaussNoise)
    noisy = [result / 255 for result in changed(draw(step, FLAT), FLAT)]
    assert_rate(len(noisy), p)
    assert_uniform([result.std() for result in noisy], low, high, 0.003)
    assert np.mean(noisy) == pytest.approx(128 / 255, abs=0.003)
    for result in noisy:  # another in each channel
        red, green, blue = result.reshape(-1, 3).T
        assert abs(np.corrcoef([red, green, blue])[np.triu_indices(3, 1)]).max() < 0.12


@pytest.mark.parametrize(
    ("recipe", "p", "low", "high"),
    [("dacon", 0.5, 0.0, 1.0), ("light", 0.15, 0.0, 1.0), ("degraded", 0.2, 0.3, 1.5)],
)
def test_blur_of_about_a_pixel(recipe: str, p: float, low: float, high: float) -> None:
    (step,) = steps(recipe, A.GaussianBlur)
    column = np.zeros_like(FLAT)
    column[:, 24] = 255
    blurred = changed(draw(step, column), column)
    # Below 1 / 3.5 of a pixel albumentations takes a kernel of one.
    least = max(1 / 3.5, low)
    assert_rate(len(blurred), p * (high - least) / (high - low))
    lights = [one[24, 24:26, 0].astype(float) for one in blurred]
    sigmas = [1 / math.sqrt(2 * math.log(middle / beside)) for middle, beside in lights]
    assert_uniform(sigmas, least, high, 0.03)


def test_the_winners_blur() -> None:
    (step,) = steps("dfdc", A.GaussianBlur)
    blurred = changed(draw(step, TEXTURE), TEXTURE)
    assert_rate(len(blurred), 0.05)
    expected = cv2.GaussianBlur(TEXTURE, (3, 3), 0).astype(int)
    assert max(np.abs(result - expected).max() for result in blurred) <= 1


def draw_lights() -> tuple[Crop, Floats]:
    """A light in each channel, and where they are, ``(3, 2)``, from the middle."""
    places = np.array([(-12, -12), (14, -4), (-2, 14)], float)
    y, x = np.mgrid[0:96, 0:96] - 47.5
    lights = [np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 2.5**2)) for u, v in places]
    return np.rint(255 * np.stack(lights, axis=2)).astype(np.uint8), places


def find_lights(crop: Crop) -> Floats:
    y, x = np.mgrid[0:96, 0:96] - 47.5
    light = np.where(crop > 8, crop, 0).astype(float)
    sums = [(light * axis[..., None]).sum(axis=(0, 1)) for axis in (x, y)]
    return np.asarray(np.stack(sums, axis=1) / light.sum(axis=(0, 1))[:, None])


@pytest.mark.parametrize(
    ("recipe", "scale", "shift", "angle"),
    [("light", (1.0, 1.17), 0.05, 0.0), ("dfdc", (0.8, 1.2), 0.1, 10.0)],
)
def test_shift_scale_and_rotation(
    recipe: str, scale: tuple[float, float], shift: float, angle: float
) -> None:
    (step,) = steps(recipe, A.Affine)
    lights, places = draw_lights()
    moved = changed(draw(step, lights, 500), lights)
    assert_rate(len(moved), 0.5, 500)
    known = np.c_[places, np.ones(3)]
    maps = [np.linalg.solve(known, find_lights(result)).T for result in moved]
    wide = np.array([np.hypot(*found[:, 0]) for found in maps])
    high = np.array([np.hypot(*found[:, 1]) for found in maps])
    turns = np.array([np.degrees(np.arctan2(found[1, 0], found[0, 0])) for found in maps])
    assert_uniform(wide, *scale, 0.02)
    assert_uniform(high, *scale, 0.02)
    for axis in (0, 1):
        assert_uniform([found[axis, 2] / 96 for found in maps], -shift, shift, 0.008)
    if angle:  # the winner's keeps the shape of a face
        assert_uniform(turns, -angle, angle, 0.5)
        assert abs(wide - high).max() < 0.03
    else:
        assert abs(turns).max() < 0.5
        assert abs(np.corrcoef(wide, high)[0, 1]) < 0.2
    black = [result.min() == 0 for result in draw(step, WHITE, 100)]
    assert any(black) == (recipe == "dfdc")  # else the crop goes on, mirrored


RAMP = np.repeat(np.tile(np.linspace(90, 160, 48).astype(np.uint8), (48, 1))[..., None], 3, 2)


def lines(results: Sequence[Crop]) -> Floats:
    """Slope and level at 0 of each result over the ramp, ``(N, 2)``, the level in shares of 255."""
    fits = [np.polyfit(RAMP[0, :, 0].astype(float), result[0, :, 0], 1) for result in results]
    return np.array(fits) / (1, 255)


def test_brightness_and_contrast_of_the_light_recipe() -> None:
    (step,) = steps("light", A.RandomBrightnessContrast)
    results = changed(draw(step, RAMP), RAMP)
    assert_rate(len(results), 0.5)
    slopes, levels = lines(results).T
    assert_uniform(slopes, 0.8, 1.2, 0.01)
    assert_uniform(levels, -0.1, 0.1, 0.01)


def one_of(place: int) -> A.OneOf:
    """The n-th choice of the winner's: resizes, then colours."""
    choice = steps("dfdc", A.OneOf)[place]
    assert isinstance(choice, A.OneOf)
    return choice


def is_a_map_of_grey(result: Crop, crop: Crop) -> bool:
    """Whether equal values became equal values, whatever the channel."""
    return all(len(np.unique(result[crop == value])) == 1 for value in np.unique(crop))


def test_one_of_three_colours() -> None:
    step = one_of(1)
    assert [type(one).__name__ for one in step.transforms] == [
        "RandomBrightnessContrast",
        "FancyPCA",
        "HueSaturationValue",
    ]
    patches = np.zeros((16, 16, 3), np.uint8)
    patches[:8], patches[8:], patches[:8, 8:] = (200, 30, 30), (30, 200, 200), (220, 40, 200)
    results = draw(step, patches)
    counts = Counter("brightness" if is_a_map_of_grey(one, patches) else "colour" for one in results
                     if not np.array_equal(one, patches))  # fmt: skip
    assert_rate(sum(counts.values()), 0.7)
    assert_rate(counts["brightness"], 0.7 / 3)
    # Of the other two, only a turn of the hue moves these patches by so much.
    far = sum(abs(one.astype(int) - patches).max() > 40 for one in results
              if not is_a_map_of_grey(one, patches))  # fmt: skip
    assert 0.7 / 3 * 1000 * 0.5 < far < 0.7 / 3 * 1000 + 60


def test_how_far_colours_go() -> None:
    brightness, pca, hue = one_of(1).transforms
    slopes, levels = lines(draw(brightness, RAMP)).T
    assert_uniform(slopes, 0.8, 1.2, 0.01)
    assert_uniform(levels, -0.2, 0.2, 0.01)

    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:8] = 255
    halves[8:] = 1
    # Black and white: one component with all of the variance, three quarters of a unit, whose
    # share of it has a standard deviation of 0.1; albumentations does not divide it among the
    # channels, so that a third of it, rooted, is left. White can only become darker.
    variance = float(np.cov(halves.reshape(-1, 3).T / 255).sum() / 3)
    darker = [(255 - one[0, 0, 0]) / 127 / variance for one in draw(pca, halves)]
    assert_rate(sum(share > 0 for share in darker), 0.5)
    assert np.sqrt(np.mean(np.square([s for s in darker if s > 0]))) == pytest.approx(
        0.1 / math.sqrt(3), rel=0.15
    )

    colour = np.full((4, 4, 3), (90, 120, 140), np.uint8)
    plain = np.asarray(cv2.cvtColor(colour, cv2.COLOR_HSV2RGB), np.uint8)
    base = cv2.cvtColor(plain, cv2.COLOR_RGB2HSV)[0, 0].astype(int)
    shifts = np.array(
        [cv2.cvtColor(one, cv2.COLOR_RGB2HSV)[0, 0] - base for one in draw(hue, plain)]
    )
    for channel, limit in enumerate((20, 30, 20)):
        assert_uniform(shifts[:, channel], -limit, limit, 2)


def test_shrunk_and_enlarged_by_the_degraded_recipe() -> None:
    (step,) = steps("degraded", A.Downscale)
    scales = np.arange(0.39, 1, 0.003)
    known = []
    for scale in scales:
        small = cv2.resize(TEXTURE, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        large = cv2.resize(small, (64, 64), interpolation=cv2.INTER_LINEAR)
        known.append(np.asarray(large, float))
    results = changed(draw(step, TEXTURE), TEXTURE)
    assert_rate(len(results), 0.3)
    gaps = np.array([[np.abs(one - other).mean() for other in known] for one in results[:150]])
    assert np.median(gaps.min(axis=1)) < 1
    assert_uniform(scales[gaps.argmin(axis=1)], 0.4, 0.99, 0.03)


def test_resized_by_three_pairs_of_interpolations() -> None:
    area, linear, cubic = cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC
    crop = TEXTURE[..., 0]
    known: dict[tuple[int, float], Floats] = {}
    for pair, (down, up) in enumerate(((area, cubic), (area, linear), (linear, linear))):
        for scale in np.arange(0.4, 1, 0.003):
            small = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=down)
            large = cv2.resize(small, (64, 64), interpolation=up)
            known[pair, scale] = np.asarray(large, float).ravel()
    table, names = np.stack(list(known.values())), list(known)
    # The resized one that each result is nearest to.
    results = changed(draw(one_of(0), TEXTURE), TEXTURE)
    flat = np.stack([one[..., 0].ravel() for one in results]).astype(float)
    nearest = ((table**2).sum(axis=1) - 2 * flat @ table.T).argmin(axis=1)
    found = [names[place] for place in nearest]
    assert_rate(len(found), 0.5)
    assert_uniform([scale for _, scale in found], 0.5, 0.99, 0.01)
    pairs = Counter(pair for pair, _ in found)
    assert len(pairs) == 3
    for pair in pairs:
        assert_rate(pairs[pair], 1 / 3, pairs.total())


def test_grey() -> None:
    (step,) = steps("dfdc", A.ToGray)
    grey = changed(draw(step, TEXTURE), TEXTURE)
    assert_rate(len(grey), 0.2)
    assert all((np.ptp(one, axis=2) == 0).all() for one in grey)


def neighbours(crop: Crop) -> float:
    """Correlation of a pixel with the one beside it: 0 of noise, more once it was blurred."""
    values = crop[..., 0].astype(float)
    return float(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1])


def test_the_entrys_noise_and_blur_come_in_any_order_after_the_compression() -> None:
    augment = Augmentation("dacon")
    # A flat grey shows noise alone; blur before it leaves no trace, blur after it makes it soft,
    # and compression after it would make it blocks.
    noisy = [one for one in (augment(FLAT, seed) for seed in range(1000)) if one.std() > 1.5]
    assert_rate(len(noisy), 0.5)
    soft = sum(neighbours(one) > 0.1 for one in noisy)
    # Blurred (a half), visibly (sigma above 0.42), and after the noise (a half).
    assert_rate(soft, 0.5 * 0.58 * 0.5, len(noisy))


def test_the_entrys_steps_are_drawn_one_by_one() -> None:
    augment = Augmentation("dacon")
    seeds, column = range(500), np.zeros_like(FLAT)
    column[:, 8] = 200
    lit = [augment(column, seed) for seed in seeds]
    flipped = np.array([one[:, 24:].mean() > one[:, :24].mean() for one in lit])
    noisy = np.array([augment(FLAT, seed).std() > 1.5 for seed in seeds])
    assert_rate(int(flipped.sum()), 0.5, 500)
    assert_rate(int((flipped & noisy).sum()), 0.25, 500)


# Extras

FACE = (draw_frontal_face() * 8 + (32, 24)).astype(np.float32)


@cache
def run(recipe: str, *extra: str) -> list[Crop]:
    """600 crops, each from its own seed."""
    augment = Augmentation(recipe, extra)
    return [augment(TEXTURE, seed, FACE) for seed in range(600)]


def differ(results: Sequence[Crop], others: Sequence[Crop]) -> list[bool]:
    return [not np.array_equal(one, other) for one, other in zip(results, others, strict=True)]


@pytest.mark.parametrize(
    ("name", "p"),
    [
        ("blind_face", 0.5),
        ("pattern", 0.3),
        ("face_parts", 0.7 * 7 / 8),  # of the winner's cut-outs, an eighth hides nothing
        ("half_face", 0.2),
        ("downscale", 0.3),
        ("h264", 0.5),
    ],
)
def test_extras_happen_as_often_as_their_sources_had_them(name: str, p: float) -> None:
    assert_rate(sum(differ(run("light", name), run("light"))), p, 600)


def test_every_extra_is_measured_here() -> None:
    names = {"blind_face", "pattern", "face_parts", "half_face", "downscale", "h264"}
    assert set(EXTRAS) == names


def test_h264_draws_its_rate_factor_evenly_and_its_blocks_begin_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[int, int, int]] = []

    def note(frame: Crop, crf: int) -> Crop:
        drawn.append((crf, frame.shape[0], frame.shape[1]))
        return frame

    monkeypatch.setattr(recipes, "recompress_h264", note)
    rng = np.random.default_rng(0)
    for _ in range(600):
        same = apply_extra("h264", TEXTURE, None, rng)
        assert np.array_equal(same, TEXTURE)
    factors, heights, widths = np.transpose(drawn)
    assert set(factors) == set(range(20, 41))
    assert set(heights) == set(widths) == set(range(64, 80))
    assert_uniform(factors.astype(float), 20, 40, slack=0.5)


@pytest.mark.parametrize("size", [16, 33, 64])
def test_h264_keeps_size_and_place_and_takes_detail(size: int) -> None:
    tiles = np.random.default_rng(0).integers(0, 200, (8, 8, 3)).astype(np.uint8)
    large = cv2.resize(tiles, (size, size), interpolation=cv2.INTER_NEAREST)
    crop = np.asarray(large + np.random.default_rng(1).integers(0, 40, large.shape), np.uint8)
    before = crop.copy()
    results = [apply_extra("h264", crop, None, np.random.default_rng(seed)) for seed in range(6)]
    again = [apply_extra("h264", crop, None, np.random.default_rng(seed)) for seed in range(6)]
    assert np.array_equal(results, again)
    assert len({result.tobytes() for result in results}) == 6
    assert {(result.shape, result.dtype) for result in results} == {(crop.shape, crop.dtype)}
    assert np.array_equal(crop, before)
    mean = np.mean(results, axis=0)
    off = {(y, x): np.abs(np.roll(mean, (y, x), (0, 1)) - crop).mean() for y, x in _NEAR}
    assert min(off, key=off.__getitem__) == (0, 0)
    assert measure_detail(mean) < 0.8 * measure_detail(crop)


_NEAR = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]


def measure_detail(crop: NDArray[Any]) -> float:
    return float(np.abs(cv2.Laplacian(crop.astype(np.float64), cv2.CV_64F)).mean())


@pytest.mark.parametrize("names", [("face_parts", "half_face"), ("half_face", "face_parts")])
def test_half_a_face_is_hidden_only_where_no_part_is_cut_out(names: tuple[str, str]) -> None:
    plain, parts, both = run("light"), run("light", "face_parts"), run("light", *names)
    half = differ(both, parts)
    assert not any(cut and hid for cut, hid in zip(differ(parts, plain), half, strict=True))
    assert_rate(sum(half), 0.3 * 0.2, 600)
    assert_rate(sum(differ(run("light", "half_face"), plain)), 0.2, 600)


def test_the_entry_blackens_what_was_compressed_and_then_flips_blurs_and_adds_noise() -> None:
    plain, blind = run("dacon"), run("dacon", "blind_face")
    pairs = [pair for pair in zip(plain, blind, strict=True) if not np.array_equal(*pair)]
    assert_rate(len(pairs), 0.5, 600)
    # Compression after it would leave ringing around the black; noise and blur do leave traces.
    black = sum(((hidden == 0) | (hidden == shown)).all() for shown, hidden in pairs)
    assert_rate(black, 0.5 * (0.5 + 0.5 / 3.5), len(pairs))
    # What else is drawn stays: where nothing is black, the two are alike.
    assert all((hidden == shown)[-8:].all() for shown, hidden in pairs)
