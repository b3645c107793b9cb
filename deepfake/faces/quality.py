"""How good a face crop is, and how far it lies from the faces that a detector was trained on.

The distance is looked for in the pixels and not in the network: the features of a network that has
only seen drawings tell drawings from drawings, and a photograph lands anywhere among them. A crop
is shrunk to a thumbnail; what the thumbnails of the training faces have in common spans a face
space, and both the distance within that space and the distance from it count. Knows no network
and no label.

References:
    Turk and Pentland, "Eigenfaces for Recognition", 1991.
    Moghaddam and Pentland, "Probabilistic Visual Learning for Object Representation", PAMI 1997
    (the distance: within face space and from it).
    Pech-Pacheco et al., "Diatom Autofocusing in Brightfield Microscopy", ICPR 2000 (variance of
    the Laplacian as sharpness).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.errors import UsageError
from deepfake.faces.geometry import measure_box
from deepfake.records import FaceQuality

Thumbnails = NDArray[np.float64]
Box = Sequence[float] | NDArray[np.float32]

_SIDE = 8  # of a thumbnail in pixels
_NUMBERS = 3 * _SIDE * _SIDE
_COMPONENTS = 12
_FLAT = 4.0  # grey levels: the contrast of a blank crop is not blown up
_LEAST_SCALE = 1e-3
_LEAST_VARIANCE = 1e-4
_FOLDS = 5
_PERCENTILES = (0.5, 50.0, 99.5)
_SLACK = 0.1  # of a range: few faces know their own range badly
_RANGES = tuple(field.name for field in fields(FaceQuality))
_UNITS = {"size_px": " px"}
_WORDS = {"size_px": "face size"}


@dataclass(frozen=True, slots=True)
class FaceSpace:
    """What the thumbnails of many faces have in common; all arrays are float32.

    Args:
        mean: ``(192,)``.
        scale: ``(192,)``, standard deviation of each number.
        components: ``(K, 192)``, orthonormal, of the scaled numbers.
        variances: ``(K,)``, along the components.
        rest: ``(1,)``, mean variance along everything else.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    components: NDArray[np.float32]
    variances: NDArray[np.float32]
    rest: NDArray[np.float32]

    @classmethod
    def fit(cls, thumbnails: Thumbnails) -> Self:
        """Find the face space of thumbnails ``(N, 192)``, N at least 1."""
        mean = thumbnails.mean(axis=0)
        scale = np.maximum(thumbnails.std(axis=0), _LEAST_SCALE)
        rows = (thumbnails - mean) / scale
        values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))  # lowest first
        kept = min(_COMPONENTS, max(1, len(rows) // 4))  # few faces span no more than that
        rest = max(float(values[:-kept].mean()), _LEAST_VARIANCE)
        parts = (mean, scale, vectors[:, -kept:].T, np.maximum(values[-kept:], rest), [rest])
        return cls(*(np.ascontiguousarray(part, dtype=np.float32) for part in parts))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take over what ``to_arrays`` gave, or what a stranger says it gave.

        Raises:
            UsageError: If an array is missing, has another shape or type, or holds numbers that
                are not finite or make no space.
        """
        names = {field.name for field in fields(cls)}
        if set(arrays) != names:
            raise UsageError(
                f"its face space has {sorted(arrays)}, expected {sorted(names)}; fit the head anew"
            )
        n_kept = len(arrays["variances"].reshape(-1))
        shapes = {"components": (n_kept, _NUMBERS), "variances": (n_kept,), "rest": (1,)}
        for name, array in arrays.items():
            shape = shapes.get(name, (_NUMBERS,))
            if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise UsageError(
                    f"quality.{name} of its face space is {array.dtype} {array.shape}; expected "
                    f"finite float32 numbers {shape}"
                )
            if name in ("scale", "variances", "rest") and not (array > 0).all():
                raise UsageError(f"quality.{name} of its face space holds numbers that are not > 0")
        return cls(**arrays)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays by name, about 12 kB together."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def distances(self, thumbnails: Thumbnails) -> NDArray[np.float64]:
        """Distance of thumbnails ``(N, 192)`` from the faces of this space, ``(N,)``.

        It is the Mahalanobis distance, with one variance for all that lies outside of the space,
        divided by the root of 192: about 1 for the faces that the space was fitted on.
        """
        rows = (thumbnails - self.mean) / self.scale  # (N, 192)
        within = rows @ self.components.T  # (N, K)
        outside = np.maximum((rows**2).sum(axis=1) - (within**2).sum(axis=1), 0)
        square = (within**2 / self.variances).sum(axis=1) + outside / self.rest
        return np.asarray(np.sqrt(square / _NUMBERS), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class TrainingFaces:
    """What is remembered of the faces that a detector was trained on.

    Args:
        space: Their face space.
        percentiles: 0.5th, 50th and 99.5th percentile of each number of ``FaceQuality``; that of
            the distance is of faces whose group was held out when the space was fitted.
        n_faces: How many faces were measured.
    """

    space: FaceSpace
    percentiles: Mapping[str, tuple[float, float, float]]
    n_faces: int

    @classmethod
    def fit(
        cls, crops: Iterable[NDArray[np.uint8]], boxes: Sequence[Box], groups: Sequence[str]
    ) -> Self:
        """Measure training faces.

        Args:
            crops: Each ``(S, S, 3)`` uint8 RGB; read once, one after the other.
            boxes: Box of each in pixels of its frame.
            groups: Faces of one group are held out together.

        Raises:
            UsageError: If there are fewer than two.
        """
        if len(boxes) < 2:
            raise UsageError(f"{len(boxes)} training faces; at least two are needed")
        thumbnails = np.empty((len(boxes), _NUMBERS))
        measured: dict[str, list[float]] = {name: [] for name in _RANGES}
        for number, (crop, box) in enumerate(zip(crops, boxes, strict=True)):
            thumbnails[number] = _shrink(crop)
            measured["size_px"].append(measure_box(box))
            sharpness, brightness = measure_pixels(crop)
            measured["sharpness"].append(sharpness)
            measured["brightness"].append(brightness)
        measured["distance"] = _measure_held_out(thumbnails, groups).tolist()
        percentiles = {
            name: tuple(np.percentile(values, _PERCENTILES).tolist())
            for name, values in measured.items()
        }
        return cls(FaceSpace.fit(thumbnails), percentiles, len(boxes))

    @classmethod
    def from_parts(cls, arrays: Mapping[str, NDArray[Any]], info: Any) -> Self:
        """Take over what ``to_arrays`` of the space and ``describe`` gave, without trusting it.

        Raises:
            UsageError: If it is nonsense.
        """
        if not isinstance(info, dict) or set(info) != {"percentiles", "n_faces"}:
            raise UsageError(f"what it says of its training faces is {info!r:.80}; fit a new head")
        percentiles, n_faces = info["percentiles"], info["n_faces"]
        if type(n_faces) is not int or n_faces < 2:
            raise UsageError(
                f"it was trained on {n_faces!r:.40} measured faces; expected 2 or more"
            )
        if not isinstance(percentiles, dict) or set(percentiles) != set(_RANGES):
            raise UsageError(f"its percentiles are {percentiles!r:.80}; expected {_RANGES}")
        for name, values in percentiles.items():
            numbers = isinstance(values, list | tuple) and all(type(v) is float for v in values)
            if not numbers or len(values) != 3 or not np.isfinite(values).all():
                raise UsageError(
                    f"its percentiles of {name} are {values!r:.80}; expected 3 numbers"
                )
            if sorted(values) != list(values):
                raise UsageError(f"its percentiles of {name} are {values!r:.80}; expected to rise")
        rising = {name: (low, middle, high) for name, (low, middle, high) in percentiles.items()}
        return cls(FaceSpace.from_arrays(arrays), rising, n_faces)

    def describe(self) -> dict[str, Any]:
        """All but the space, in plain types."""
        percentiles = {name: list(values) for name, values in self.percentiles.items()}
        return {"percentiles": percentiles, "n_faces": self.n_faces}

    def measure(
        self, crop: NDArray[np.uint8], box_xyxy: Sequence[float] | NDArray[np.float32]
    ) -> FaceQuality:
        """Measure a face.

        Args:
            crop: ``(S, S, 3)`` uint8 RGB, cut by the recipe of the training crops.
            box_xyxy: Its box in pixels of its frame.
        """
        distance = float(self.space.distances(_shrink(crop)[None])[0])
        return FaceQuality(measure_box(box_xyxy), *measure_pixels(crop), distance)

    def is_far(self, quality: FaceQuality) -> bool:
        """Whether a face is so unlike the training faces that its score means nothing."""
        return quality.distance is not None and quality.distance > self.percentiles["distance"][2]

    def remarks_on(self, quality: FaceQuality) -> tuple[str, ...]:
        """What of a face lies outside of what was learnt from, in words; the gravest first."""
        remarks = []
        if self.is_far(quality):
            remarks.append(
                f"unlike the training faces (distance {quality.distance:.2f}; theirs end at "
                f"{self.percentiles['distance'][2]:.2f})"
            )
        for name in _RANGES[:-1]:
            value, (low, _, high) = getattr(quality, name), self.percentiles[name]
            slack = _SLACK * (high - low)
            if value is not None and not low - slack <= value <= high + slack:
                unit = _UNITS.get(name, "")
                remarks.append(
                    f"{_WORDS.get(name, name)} {value:.0f}{unit} (training faces: {low:.0f} to "
                    f"{high:.0f}{unit})"
                )
        return tuple(remarks)


def measure_pixels(crop: NDArray[np.uint8]) -> tuple[float, float]:
    """Sharpness and brightness of a crop ``(S, S, 3)`` uint8 RGB.

    Returns:
        Variance of the Laplacian of the grey levels wherever a pixel has four neighbours, and the
        mean grey level, 0 to 255.
    """
    grey = cv2.cvtColor(crop.astype(np.float32), cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(grey, cv2.CV_32F)[1:-1, 1:-1]
    return float(laplacian.var()), float(cv2.mean(grey)[0])


def _measure_held_out(thumbnails: Thumbnails, groups: Sequence[str]) -> NDArray[np.float64]:
    """Distance of each face from the space of faces of other groups, ``(N,)``.

    From a space that was fitted on it, a face is closer than any new one will ever be.
    """
    fold_of_group = {group: n % _FOLDS for n, group in enumerate(sorted(set(groups)))}
    folds = np.array([fold_of_group[group] for group in groups])
    if len(fold_of_group) == 1:
        folds = np.arange(len(groups)) % _FOLDS
    distances = np.empty(len(groups))
    for fold in np.unique(folds):
        inside = folds == fold
        distances[inside] = FaceSpace.fit(thumbnails[~inside]).distances(thumbnails[inside])
    return distances


def _shrink(crop: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A crop ``(S, S, 3)`` as ``(192,)`` numbers that brightness and contrast do not change."""
    small = cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    numbers = small.astype(np.float64).ravel()
    thumbnail: NDArray[np.float64] = (numbers - numbers.mean()) / (numbers.std() + _FLAT)
    return thumbnail
