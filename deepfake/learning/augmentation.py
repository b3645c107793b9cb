"""The entry's augmentation: compression, then flip, noise and blur in random order.

A pure function ``(uint8 crop, seed) -> uint8 crop``: the same seed gives the same result in any
process. Knows no data set and no loader.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
from numpy.typing import NDArray

# albumentations asks a server for a newer version of itself while it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A


class Augmentation:
    """JPEG of quality 10 to 30, then flip, Gaussian noise and blur, in an order drawn each time.

    Each step happens with probability 0.5, as in the entry: JPEG quality 10 to 30, horizontal
    flip, noise per channel with a standard deviation of 5 to 10 % of the value range, blur with a
    sigma of 0 to 1 pixel.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # albumentations answers an unknown argument with a mere warning.
            warnings.simplefilter("error", UserWarning)
            self._pipeline = A.Compose(
                [
                    A.ImageCompression(quality_range=(10, 30), p=0.5),
                    # n=3 keeps all three, each with its own p; the default would pick one.
                    A.RandomOrder(
                        [
                            A.HorizontalFlip(p=0.5),
                            A.GaussNoise(std_range=(0.05, 0.10), per_channel=True, p=0.5),
                            A.GaussianBlur(blur_limit=0, sigma_limit=(0, 1), p=0.5),
                        ],
                        n=3,
                        p=1.0,
                    ),
                ]
            )

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Augment one crop.

        Args:
            image: ``(S, S, 3)`` uint8 RGB.
            seed: Decides everything that is random, so that neither the number of loader workers
                nor their order matters (albumentations 2.0.8 repeats itself across workers).

        Returns:
            ``(S, S, 3)`` uint8 RGB.
        """
        self._pipeline.set_random_seed(seed)
        augmented: NDArray[np.uint8] = self._pipeline(image=image)["image"]
        return augmented


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of one sample in one epoch: well mixed, the same in every process."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])
