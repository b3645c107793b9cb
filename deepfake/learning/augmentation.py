"""Random changes of training crops, by name: the entry's, and a lighter one.

A pure function ``(uint8 crop, seed) -> uint8 crop``: the same seed gives the same result in any
process. Knows no data set and no loader.
"""

from __future__ import annotations

import os
import random
import warnings
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

# albumentations asks a server for a newer version of itself while it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A


def _make_entry() -> list[A.BasicTransform | A.BaseCompose]:
    """The entry's: each step with probability 0.5, the last three in an order drawn each time.

    JPEG of quality 10 to 30, horizontal flip, noise per channel with a standard deviation of 5 to
    10 % of the value range, blur with a sigma of 0 to 1 pixel.
    """
    steps = [
        A.HorizontalFlip(p=0.5),
        A.GaussNoise(std_range=(0.05, 0.10), per_channel=True, p=0.5),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0, 1), p=0.5),
    ]
    # n=3 keeps all three, each with its own p; the default would pick one.
    return [A.ImageCompression(quality_range=(10, 30), p=0.5), A.RandomOrder(steps, n=3, p=1.0)]


def _make_light() -> list[A.BasicTransform | A.BaseCompose]:
    """Changes that leave traces of blending visible: for every sample, not for a share of them.

    Flip, up to 17 % larger and 5 % shifted, brightness and contrast within 10 and 20 %, a little
    blur, JPEG of quality 40 to 95.
    """
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(1.0, 1.17),
            translate_percent=(-0.05, 0.05),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.5,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.5),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0, 1), p=0.15),
        A.ImageCompression(quality_range=(40, 95), p=0.3),
    ]


RECIPES = MappingProxyType({"entry": _make_entry, "light": _make_light})
"""Augmentations by name."""


class Augmentation:
    """A named recipe of random changes, driven by a seed per sample.

    Args:
        recipe: A name of ``RECIPES``: ``entry`` is the contest entry's (compression, then flip,
            noise and blur in random order), ``light`` a gentler one for every sample.

    Raises:
        ValueError: If there is no such recipe.
    """

    def __init__(self, recipe: str = "entry") -> None:
        if recipe not in RECIPES:
            raise ValueError(f"no augmentation {recipe!r}; there are {', '.join(RECIPES)}")
        with warnings.catch_warnings():
            # albumentations answers an unknown argument with a mere warning.
            warnings.simplefilter("error", UserWarning)
            self._pipeline = A.Compose(RECIPES[recipe]())

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Augment one crop.

        Args:
            image: ``(S, S, 3)`` uint8 RGB.
            seed: Decides everything that is random, so that neither the number of loader workers
                nor their order matters (albumentations 2.0.8 repeats itself across workers).

        Returns:
            ``(S, S, 3)`` uint8 RGB.
        """
        # One generator for all steps: set_random_seed would start each step at the same number, so
        # that all of them happen or none.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        augmented: NDArray[np.uint8] = self._pipeline(image=image)["image"]
        return augmented


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of one sample in one epoch: well mixed, the same in every process."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])
