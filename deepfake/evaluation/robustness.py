"""What happens to photos and videos on their way through the world, at five severities each.

Pure functions ``(uint8 crop, severity, seed) -> uint8 crop``: the same three give the same crop.
Severity 0 changes nothing. What is relative to a size is relative to the side of the crop, so that
a severity means the same for crops of any size. Knows no network and no data set.

References:
    Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", ICLR 2019 (the idea of five severities; the severities here are our own).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.errors import UsageError
from deepfake.faces.extraction import decode_crop, encode_crop
from deepfake.media.encoding import recompress_h264

Crop = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind of damage.

    Args:
        title: What tables call it.
        unit: What its values are.
        values: One for each severity, from 1 on.
        apply: Does it to a crop, with a value and a source of chance.
    """

    title: str
    unit: str
    values: tuple[float, ...]
    apply: Callable[[Crop, float, np.random.Generator], Crop]


def corrupt(crop: Crop, name: str, severity: int, seed: int = 0) -> Crop:
    """Damage a crop.

    Args:
        crop: ``(S, S, 3)`` RGB; stays as it is.
        name: One of ``CORRUPTIONS``.
        severity: 0 (none) up to the number of its values.
        seed: Decides what is left to chance; each crop should have its own.

    Returns:
        A new crop of the same shape.

    Raises:
        UsageError: If there is no such corruption or severity.
    """
    (name,) = choose_corruptions([name])
    values = CORRUPTIONS[name].values
    if not 0 <= severity <= len(values):
        raise UsageError(f"{name} has severities 0 to {len(values)}, not {severity}")
    if severity == 0:
        return crop.copy()
    # One draw for all severities: a crop that gets darker at 1 gets darker still at 2.
    return CORRUPTIONS[name].apply(crop, values[severity - 1], np.random.default_rng(seed))


def choose_corruptions(names: Sequence[str]) -> tuple[str, ...]:
    """The corruptions of these names, or all of them if none is named, each once.

    Raises:
        UsageError: If a name is unknown.
    """
    unknown = [name for name in names if name not in CORRUPTIONS]
    if unknown:
        raise UsageError(f"no corruption {unknown[0]!r}; there are {', '.join(CORRUPTIONS)}")
    return tuple(dict.fromkeys(names or CORRUPTIONS))


def _jpeg(crop: Crop, quality: float, _: np.random.Generator) -> Crop:
    return decode_crop(encode_crop(crop, int(quality)))


def _video(crop: Crop, crf: float, _: np.random.Generator) -> Crop:
    return recompress_h264(crop, int(crf))


def _blur(crop: Crop, share: float, _: np.random.Generator) -> Crop:
    sigma = share * crop.shape[0] / 100
    return _as_crop(cv2.GaussianBlur(crop, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def _noise(crop: Crop, share: float, rng: np.random.Generator) -> Crop:
    return _as_crop(crop + rng.normal(0, 255 * share / 100, crop.shape))


def _downscale(crop: Crop, factor: float, _: np.random.Generator) -> Crop:
    side = crop.shape[0]
    small = cv2.resize(crop, (max(1, round(side / factor)),) * 2, interpolation=cv2.INTER_AREA)
    return _as_crop(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC))


def _brightness(crop: Crop, share: float, rng: np.random.Generator) -> Crop:
    """Half of the crops darker, half brighter."""
    return _as_crop(crop * (1 + rng.choice([-1, 1]) * share / 100))


def _flip(crop: Crop, _: float, __: np.random.Generator) -> Crop:
    return np.ascontiguousarray(crop[:, ::-1])


def _jitter(crop: Crop, share: float, rng: np.random.Generator) -> Crop:
    """A window that is smaller by twice the share and off centre by up to it.

    No larger one: what lies around a crop is not stored, and made-up borders are another damage.
    """
    side = crop.shape[0]
    margin = side * share / 100
    left, top = margin * (1 + rng.uniform(-1, 1, 2))
    scale = side / (side - 2 * margin)
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    return _as_crop(
        cv2.warpAffine(
            crop,
            matrix,
            (side, side),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    )


def _as_crop(image: NDArray[Any]) -> Crop:
    crop: Crop = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return crop


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "jpeg": Corruption("JPEG", "quality", (90, 70, 50, 30, 10), _jpeg),
        "video": Corruption("H.264, a single frame", "CRF", (18, 23, 32, 40, 48), _video),
        "blur": Corruption("blur", "sigma, % of the side", (0.5, 1, 1.5, 2.2, 3), _blur),
        "noise": Corruption("noise", "std, % of the range", (2, 4, 8, 12, 20), _noise),
        "downscale": Corruption("down-scaling", "factor", (1.5, 2, 3, 4, 8), _downscale),
        "brightness": Corruption("brightness", "% up or down", (10, 20, 30, 40, 50), _brightness),
        "jitter": Corruption("crop jitter", "% of the side", (2, 4, 6, 8, 12), _jitter),
        "flip": Corruption("mirrored", "left and right swapped", (1,), _flip),
    }
)
"""Corruptions by name; all have five severities but a mirror image, which has one."""
