"""Predictions of faces in, error rates by the size and by the sharpness of faces out.

Faces are sorted by a number that every face has whatever its label, and cut into as many equal
slices as carry a metric, so that no slice is a handful. Knows no network and no chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.rows import CropRows
from deepfake.dataset.texts import Words
from deepfake.evaluation.bootstrap import N_RESAMPLES, bootstrap_share
from deepfake.evaluation.predictions import Predictions, name_groups
from deepfake.metrics import Estimate
from deepfake.records import Limits

N_SLICES = 5
MIN_FACES = 20
"""Of a slice; fewer faces make fewer slices."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The faces between two values.

    Args:
        low: Lowest value in it.
        median: Median value in it.
        high: Highest value in it.
        n_real: Real faces.
        n_fake: Fake faces.
        metrics: ``false_positive_rate`` and ``false_negative_rate`` of the verdicts.
    """

    low: float
    median: float
    high: float
    n_real: int
    n_fake: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class Slicing:
    """The faces of all data sets, sliced by one of their properties.

    Args:
        name: Short name of the property.
        title: For people.
        unit: What its values are.
        values: ``(N,)``, of all faces in order.
        slices: By rising value.
    """

    name: str
    title: str
    unit: str
    values: NDArray[np.float64]
    slices: tuple[Slice, ...]


def compute_slices(
    sets: Sequence[Predictions], limits: Limits, n_resamples: int = N_RESAMPLES
) -> tuple[Slicing, ...]:
    """Slice the faces of all data sets by size and by sharpness.

    Args:
        sets: One or more.
        limits: Of the verdict on one face; the checkpoint's.
        n_resamples: Of the bootstrap.
    """
    sizes = np.concatenate([_measure_sizes(one.dataset.faces) for one in sets])
    sharpness = np.concatenate([one.sharpness for one in sets]).astype(np.float64)
    scores = np.concatenate([one.p_fake for one in sets])
    called_fake = scores >= limits.of_fake()
    called_real = ~called_fake & (scores <= limits.real)
    is_fake = np.concatenate([one.dataset.labels for one in sets]) == 1
    named = [name_groups(one.dataset, one.dataset.faces) for one in sets]
    groups = Words.join(*((one.numbers, one.texts) for one in named)).numbers

    def compute_slice(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> Slice:
        reals, fakes = mask & ~is_fake, mask & is_fake
        false_positives, false_negatives = called_fake[reals], called_real[fakes]
        return Slice(
            low=float(values[mask].min()),
            median=float(np.median(values[mask])),
            high=float(values[mask].max()),
            n_real=int(reals.sum()),
            n_fake=int(fakes.sum()),
            metrics={
                "false_positive_rate": bootstrap_share(false_positives, groups[reals], n_resamples),
                "false_negative_rate": bootstrap_share(false_negatives, groups[fakes], n_resamples),
            },
        )

    def compute_slicing(name: str, title: str, unit: str, values: NDArray[np.float64]) -> Slicing:
        slices = tuple(compute_slice(values, mask) for mask in slice_masks(values))
        return Slicing(name, title, unit, values, slices)

    return (
        compute_slicing("face_size", "face size", "longer side of the face's box, pixels", sizes),
        compute_slicing("sharpness", "sharpness", "variance of the crop's Laplacian", sharpness),
    )


def _measure_sizes(faces: CropRows) -> NDArray[np.float64]:
    """The longer side of each face's box, ``(N,)``."""
    x0, y0, x1, y1 = faces.kept("box_xyxy").reshape(-1, 4).T
    sizes: NDArray[np.float64] = np.maximum(x1 - x0, y1 - y0)
    return sizes


def slice_masks(values: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Masks of ``N_SLICES`` or fewer slices of equal numbers; equal values stay in one slice.

    Example:
        >>> [int(mask.sum()) for mask in slice_masks(np.array([7.0] * 30 + [9.0] * 30))]
        [30, 30]
        >>> [int(mask.sum()) for mask in slice_masks(np.array([7.0] + [9.0] * 99))]
        [100]
    """
    if not len(values):
        return []
    number = max(1, min(N_SLICES, len(values) // MIN_FACES))
    # Edges are values: whatever lies on one belongs to the slice above it.
    edges = np.unique(np.quantile(values, np.linspace(0, 1, number + 1)[1:-1], method="higher"))
    place = np.searchsorted(edges, values, side="right")
    counts = np.bincount(place, minlength=len(edges) + 1)
    # Many equal values leave a handful beside them: it goes with its neighbour.
    joined = np.zeros(len(counts), np.int64)
    size = 0
    for here in range(1, len(counts)):
        size += counts[here - 1]
        is_enough = size >= MIN_FACES and counts[here:].sum() >= MIN_FACES
        joined[here] = joined[here - 1] + is_enough
        size = 0 if is_enough else size
    place = joined[place]
    return [place == number for number in range(int(joined[-1]) + 1)]
