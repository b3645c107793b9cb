"""Augmentation: a pure function of (crop, seed), in any order and in any process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.augment import recipes as augmentation
from deepfake.augment.recipes import EXTRAS, RECIPES, Augmentation, sample_seed

REPO = Path(__file__).resolve().parents[2]
Crop = NDArray[np.uint8]
DRAWS = 400
EACH_RECIPE = pytest.mark.parametrize("recipe", list(RECIPES))


def draw(size: int = 48) -> Crop:
    """Soft shades, different left and right, with a few hard edges."""
    y, x = np.mgrid[0:size, 0:size]
    crop = np.stack([60 + x * 2, 60 + y, np.full_like(x, 120)], axis=2)
    crop[8:20, 6:14] = (200, 90, 40)
    return crop.astype(np.uint8)


def legacy_state() -> str:
    return repr(np.random.get_state(legacy=False))


def digest(crops: list[Crop]) -> str:
    return hashlib.sha256(b"".join(crop.tobytes() for crop in crops)).hexdigest()


@EACH_RECIPE
def test_the_seed_decides_everything(recipe: str) -> None:
    crop, seeds = draw(), list(range(30))
    first, second = Augmentation(recipe), Augmentation(recipe)
    ahead = {seed: first(crop, seed) for seed in seeds}
    back = {seed: second(crop, seed) for seed in reversed(seeds)}
    assert all(np.array_equal(ahead[seed], back[seed]) for seed in seeds)
    assert len({result.tobytes() for result in ahead.values()}) > 20


@EACH_RECIPE
def test_a_global_seed_changes_nothing(recipe: str) -> None:
    augment, crop = Augmentation(recipe), draw()
    np.random.seed(1)
    before = augment(crop, 5)
    np.random.seed(2)
    state = legacy_state()
    assert np.array_equal(augment(crop, 5), before)
    assert legacy_state() == state


@EACH_RECIPE
@pytest.mark.parametrize("size", [16, 33, 64])
def test_keeps_shape_type_and_the_picture_it_was_given(recipe: str, size: int) -> None:
    augment, crop = Augmentation(recipe), draw(size)
    before = crop.copy()
    for seed in range(40):
        result = augment(crop, seed)
        assert result.shape == (size, size, 3)
        assert result.dtype == np.uint8
    assert np.array_equal(crop, before)


def test_sample_seeds_are_distinct() -> None:
    seeds = {
        sample_seed(seed, epoch, index)
        for seed in range(3)
        for epoch in range(10)
        for index in range(100)
    }
    assert len(seeds) == 3000
    assert all(0 <= seed < 2**32 for seed in seeds)


@EACH_RECIPE
def test_no_epoch_repeats_another(recipe: str) -> None:
    augment, crop = Augmentation(recipe), draw()
    epochs = [
        digest([augment(crop, sample_seed(0, epoch, index)) for index in range(12)])
        for epoch in range(4)
    ]
    assert len(set(epochs)) == 4


def share(happened: list[bool]) -> float:
    return sum(happened) / len(happened)


def brightest_side(crop: Crop) -> str:
    half = crop.shape[1] // 2
    red = crop[..., 0].astype(float)
    return "left" if red[:, :half].mean() > red[:, half:].mean() else "right"


# 400 draws of p = 0.5 have a standard deviation of 0.025: six of them on either side.
@EACH_RECIPE
def test_half_of_the_pictures_are_flipped(recipe: str) -> None:
    augment, crop = Augmentation(recipe), draw()
    crop[8:20, 6:14] = crop[30, 30]
    assert brightest_side(crop) == "right"
    flipped = [brightest_side(augment(crop, seed)) == "left" for seed in range(DRAWS)]
    assert share(flipped) == pytest.approx(0.5, abs=0.15)


@EACH_RECIPE
def test_the_steps_are_drawn_one_by_one(recipe: str) -> None:
    # Seeding each step with the same number would let all of them happen or none.
    augment, crop = Augmentation(recipe), draw()
    mirrored = np.ascontiguousarray(crop[:, ::-1])
    untouched = [
        any(np.array_equal(augment(crop, seed), same) for same in (crop, mirrored))
        for seed in range(DRAWS)
    ]
    # dacon: no compression, noise or blur (or one too weak to see), an eighth and a little;
    # light: 0.5 * 0.5 * 0.85 * 0.7, about as much.
    assert share(untouched) == pytest.approx(0.14, abs=0.1)


def test_the_light_recipe_leaves_traces_visible() -> None:
    augment, crop = Augmentation("light"), draw()
    crop[::2, ::2] += 20
    detail = [float(augment(crop, seed).astype(float).std()) for seed in range(100)]
    assert min(detail) > 0.6 * crop.std()


def test_unknown_recipe() -> None:
    with pytest.raises(
        ValueError, match="no augmentation 'heavy'; there are dacon, light, degraded, dfdc"
    ):
        Augmentation("heavy")


def test_a_wrong_argument_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import albumentations

    # albumentations itself only warns of it, and goes on without.
    def misspelt() -> list[albumentations.BasicTransform]:
        return [albumentations.ImageCompression(quality_lower=10, p=0.5)]

    monkeypatch.setattr(augmentation, "RECIPES", {"misspelt": misspelt})
    with pytest.raises(UserWarning, match="quality_lower"):
        Augmentation("misspelt")


_CHILD = """
import socket, sys

def refuse(*args, **kwargs):
    sys.exit(f"network: {args}")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from tests.augment.test_recipes import child_digest
sys.stdout.write(child_digest())
"""


def child_digest() -> str:
    """What another process computes; its import of the module is part of the test."""
    from deepfake.augment.recipes import RECIPES, Augmentation

    plain = [Augmentation(recipe)(draw(), seed) for recipe in RECIPES for seed in range(20)]
    return digest([*plain, *(Augmentation("light", ["h264"])(draw(), seed) for seed in range(6))])


@pytest.mark.slow
def test_another_process_gets_the_same_bytes_in_silence() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", _CHILD]
    child = subprocess.run(
        command, cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )
    assert (child.stdout, child.stderr, child.returncode) == (child_digest(), "", 0)


# Extras


def points(size: int = 48) -> NDArray[np.float32]:
    """Eyes, nose and mouth of a face in the middle."""
    shares = np.array([(0.36, 0.4), (0.64, 0.4), (0.5, 0.55), (0.39, 0.7), (0.61, 0.7)])
    return (shares * size).astype(np.float32)


def test_one_more_extra_leaves_the_others_as_they_were() -> None:
    crop = draw()
    one, two = Augmentation("light", ["pattern"]), Augmentation("light", ["half_face", "pattern"])
    same = [
        np.array_equal(one(crop, seed, points()), two(crop, seed, points())) for seed in range(100)
    ]
    assert share(same) == pytest.approx(1 - EXTRAS["half_face"].probability, abs=0.15)


def test_extras_are_refused_by_name_and_without_landmarks() -> None:
    with pytest.raises(ValueError, match="no extra augmentation 'glow'; there are blind_face"):
        Augmentation("dacon", ["glow"])
    augment = Augmentation("dacon", ["blind_face"])
    with pytest.raises(ValueError, match="'blind_face' needs landmarks, and this crop has none"):
        [augment(draw(), seed) for seed in range(20)]
    assert Augmentation("dacon", ["pattern"])(draw(), 0).shape == (48, 48, 3)
