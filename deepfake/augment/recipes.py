"""Random changes of training crops, by name: whole recipes, and single extras before them.

A pure function ``(uint8 crop, seed, landmarks) -> uint8 crop``: the same seed gives the same result
in any process. Knows no data set and no loader.

References:
    Seferbekov, winner of the Deepfake Detection Challenge, 2020 (recipe ``dfdc``, extras
    ``face_parts`` and ``half_face``): github.com/selimsef/dfdc_deepfake_challenge,
    ``training/pipelines/train_classifier.py`` and ``training/datasets/classifier_dataset.py``.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import cv2
import numpy as np

from deepfake.augment.face_parts import Crop, Points, blind_face, cut_out_part, hide_half
from deepfake.augment.self_blending import blend_pattern, lower_resolution
from deepfake.errors import UsageError
from deepfake.media.encoding import recompress_h264

# albumentations asks a server for a newer version of itself while it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A


def _make_dacon() -> list[A.BasicTransform | A.BaseCompose]:
    """The contest entry's: each step with probability 0.5, the last three in a random order.

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


def _make_degraded() -> list[A.BasicTransform | A.BaseCompose]:
    """``light``, and what photos and videos meet on their way: for every sample.

    Shrunk by up to 2.5 and enlarged again (0.3), blur with a sigma of 0.3 to 1.5 pixels (0.2),
    noise of 1 to 4 % of the value range (0.2), JPEG of quality 35 to 95 (0.5).
    """
    down, up = cv2.INTER_AREA, cv2.INTER_LINEAR
    shrink = A.Downscale(
        scale_range=(0.4, 0.99), interpolation_pair={"downscale": down, "upscale": up}, p=0.3
    )
    return [
        *_make_light()[:3],
        shrink,
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.5), p=0.2),
        A.GaussNoise(std_range=(0.01, 0.04), per_channel=True, p=0.2),
        A.ImageCompression(quality_range=(35, 95), p=0.5),
    ]


def _make_dfdc() -> list[A.BasicTransform | A.BaseCompose]:
    """The DFDC winner's: JPEG, noise, blur, flip, resize, colour, grey, shift-scale-rotate.

    JPEG of quality 60 to 100, flip; brightness and contrast, PCA colours or hue and saturation
    with 0.7, grey with 0.2; up to 10 % shifted, 20 % scaled and 10 degrees turned. Our crops have
    their final size: where the winner enlarged small ones by an interpolation drawn each time,
    these are shrunk by up to 2 and enlarged again by the same pairs of interpolations. PCA colours
    are those of albumentations 2, which stretch a crop's colours where version 1 shifted them.
    """
    area, linear, cubic = cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC
    resizes = [
        A.Downscale(
            scale_range=(0.5, 0.99), interpolation_pair={"downscale": down, "upscale": up}, p=1.0
        )
        for down, up in ((area, cubic), (area, linear), (linear, linear))
    ]
    colours = [A.RandomBrightnessContrast(p=1.0), A.FancyPCA(p=1.0), A.HueSaturationValue(p=1.0)]
    return [
        A.ImageCompression(quality_range=(60, 100), p=0.5),
        A.GaussNoise(std_range=(0.012, 0.028), p=0.1),  # its variance was 10 to 50
        # OpenCV's kernel of 3 pixels, 1/4, 1/2, 1/4; by itself albumentations now draws a sigma.
        A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.85, 0.85), p=0.05),
        A.HorizontalFlip(p=0.5),
        A.OneOf(resizes, p=0.5),
        A.OneOf(colours, p=0.7),
        A.ToGray(p=0.2),
        A.Affine(
            scale=(0.8, 1.2),
            keep_ratio=True,
            translate_percent=(-0.1, 0.1),
            rotate=(-10, 10),
            border_mode=cv2.BORDER_CONSTANT,
            p=0.5,
        ),
    ]


RECIPES = MappingProxyType(
    {"dacon": _make_dacon, "light": _make_light, "degraded": _make_degraded, "dfdc": _make_dfdc}
)
"""Augmentations by name."""


_CRF = (20, 40)  # from what video sites serve to what is hardly watched
_MACROBLOCK_PX = 16


def compress_as_video(image: Crop, points: Points, rng: np.random.Generator) -> Crop:
    """Pass through H.264 as a frame of a video does: rate factor 20 to 40, colour at half size.

    The blocks of the encoder begin anywhere, as they do where a face is cut out of a frame.
    """
    crf = int(rng.integers(_CRF[0], _CRF[1] + 1))
    top, left = rng.integers(_MACROBLOCK_PX, size=2).tolist()
    frame = np.pad(image, ((top, 0), (left, 0), (0, 0)), mode="edge")
    return np.ascontiguousarray(recompress_h264(frame, crf)[top:, left:])


@dataclass(frozen=True, slots=True)
class Extra:
    """A change that needs more than the crop, or that no recipe has.

    Args:
        change: Crop, landmarks in its pixels and a generator to a new crop.
        probability: Of its use.
        needs_landmarks: Whether the points may not be ``None``.
        instead_of: Name of the extra that this one only stands in for: where both are asked for,
            a crop gets this one only if it was not that one's turn.
    """

    change: Callable[[Crop, Points, np.random.Generator], Crop]
    probability: float
    needs_landmarks: bool = True
    instead_of: str = ""


EXTRAS = MappingProxyType(
    {
        # The contest entry's: of its released code, and of its attempts.
        "blind_face": Extra(blind_face, 0.5),
        "pattern": Extra(blend_pattern, 0.3, needs_landmarks=False),
        # The DFDC winner's.
        "face_parts": Extra(cut_out_part, 0.7),
        "half_face": Extra(hide_half, 0.2, instead_of="face_parts"),
        # Shiohara and Yamasaki's.
        "downscale": Extra(lower_resolution, 0.3, needs_landmarks=False),
        # What faces of videos come with, and photos do not.
        "h264": Extra(compress_as_video, 0.5, needs_landmarks=False),
    }
)
"""Single changes by name."""
ExtraName = Literal["blind_face", "pattern", "face_parts", "half_face", "downscale", "h264"]
"""Names of ``EXTRAS``, for the command line to check."""
_AFTER_FIRST_STEP = MappingProxyType({"dacon": ("blind_face",)})
"""Extras after the first step of a recipe: the contest entry blackened what was compressed."""


@dataclass(frozen=True)  # without slots: jsonargparse reads defaults by vars()
class AugmentationSettings:
    """What happens to training crops, and to how many of them.

    Args:
        recipe: ``dacon`` is the contest entry's (compression, then flip, noise and blur in random
            order), ``light`` a gentler one for every sample, ``degraded`` the same with what photos
            meet on their way through the net, ``dfdc`` that of the winner of the
            Deepfake Detection Challenge.
        share: Share of each batch that is augmented; the contest entry's code had 8 of 28.
        extra: Single changes before the recipe, in this order: ``blind_face``, ``pattern``,
            ``face_parts``, ``half_face``, ``downscale``, ``h264``; in ``dacon``, ``blind_face``
            comes after the compression.

    Raises:
        UsageError: If a share is not between 0 and 1.
    """

    recipe: Literal["dacon", "light", "degraded", "dfdc"] = "dacon"
    share: float = 8 / 28
    extra: tuple[ExtraName, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"data.augmentation.share={self.share}; expected 0 to 1")


class Augmentation:
    """A recipe of random changes and single changes before it, driven by a seed per sample.

    Args:
        recipe: As of ``AugmentationSettings``.
        extra: As of ``AugmentationSettings``.

    Raises:
        ValueError: If there is no such recipe or extra.
    """

    def __init__(self, recipe: str = "dacon", extra: Sequence[str] = ()) -> None:
        if recipe not in RECIPES:
            raise ValueError(f"no augmentation {recipe!r}; there are {', '.join(RECIPES)}")
        for name in extra:
            if name not in EXTRAS:
                raise ValueError(f"no extra augmentation {name!r}; there are {', '.join(EXTRAS)}")
        late = [name for name in extra if name in _AFTER_FIRST_STEP.get(recipe, ())]
        early = [name for name in extra if name not in late]
        with warnings.catch_warnings():
            # albumentations answers an unknown argument with a mere warning.
            warnings.simplefilter("error", UserWarning)
            steps = RECIPES[recipe]()
        cut = 1 if late else len(steps)
        self._stages = [(early, A.Compose(steps[:cut]))]
        if late:
            self._stages.append((late, A.Compose(steps[cut:])))

    def __call__(self, image: Crop, seed: int, points: Points | None = None) -> Crop:
        """Augment one crop.

        Args:
            image: ``(S, S, 3)`` uint8 RGB.
            seed: Decides everything that is random, so that neither the number of loader workers
                nor their order matters (albumentations 2.0.8 repeats itself across workers).
            points: ``(5, 2)``, ``(68, 2)`` or ``(468, 2)`` landmarks in pixels of the crop.

        Returns:
            ``(S, S, 3)`` uint8 RGB.

        Raises:
            ValueError: If an extra needs landmarks and there are none.
        """
        # A generator each: one more extra leaves what the others draw as it was.
        turns: dict[str, np.random.Generator] = {}
        for name in (name for names, _ in self._stages for name in names):
            rng = np.random.default_rng((seed, list(EXTRAS).index(name) + 1))
            if rng.random() < EXTRAS[name].probability:
                turns[name] = rng
        # One generator for all steps: set_random_seed would start each step at the same number, so
        # that all of them happen or none.
        generators = np.random.default_rng(seed), random.Random(seed)
        for number, (names, pipeline) in enumerate(self._stages):
            for name in names:
                if name in turns and EXTRAS[name].instead_of not in turns:
                    image = apply_extra(name, image, points, turns[name])
            pipeline.set_random_state(*generators)
            # A forced one does not draw whether to start: the steps draw as if they were together.
            image = pipeline(image=image, force_apply=number > 0)["image"]
        return image


def apply_extra(name: str, image: Crop, points: Points | None, rng: np.random.Generator) -> Crop:
    """Apply a single change for certain.

    Raises:
        ValueError: If it needs landmarks and there are none.
    """
    extra = EXTRAS[name]
    if points is None:
        if extra.needs_landmarks:
            raise ValueError(f"augmentation {name!r} needs landmarks, and this crop has none")
        points = np.empty((0, 2), np.float32)
    return extra.change(image, points, rng)


def sample_seed(seed: int, epoch: int, index: int, repeat: int = 0) -> int:
    """Seed of one sample in one epoch: well mixed, the same in every process.

    Args:
        seed: Of the data.
        epoch: Number of the epoch, or of the pass.
        index: What is drawn for: a row, a batch.
        repeat: How often the same has come before in this pass.
    """
    parts = (seed, epoch, index, repeat) if repeat else (seed, epoch, index)
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
