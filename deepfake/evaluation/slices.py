"""Predictions faces in, how often they are called wrongly by size and by sharpness out.

A trait is a number that every face has whatever its label. Faces are cut into as many equal parts
as carry an answer, so that no part is a handful. Knows no network and no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfake.evaluation.bootstrap import ROUNDS, measure_share
from deepfake.evaluation.predictions import Predictions
from deepfake.metrics import Figure

PARTS = 5
LEAST_FACES = 20
"""Of a part; fewer faces make fewer parts."""


@dataclass(frozen=True, slots=True)
class Part:
    """The faces between two values of a trait.

    Args:
        low: Lowest value in it.
        middle: Median value in it.
        high: Highest value in it.
        n_real: Real faces.
        n_fake: Fake faces.
        accused: Share of the reals that are called fake.
        missed: Share of the fakes that are called real.
    """

    low: float
    middle: float
    high: float
    n_real: int
    n_fake: int
    accused: Figure
    missed: Figure


@dataclass(frozen=True, slots=True)
class Trait:
    """A property of faces.

    Args:
        name: Short name.
        title: For people.
        unit: What its values are.
        values: ``(N,)``, of all faces of all data sets in order.
        parts: By rising value.
    """

    name: str
    title: str
    unit: str
    values: NDArray[np.float64]
    parts: tuple[Part, ...]


def measure_traits(
    sets: Sequence[Predictions], threshold: float, rounds: int = ROUNDS
) -> tuple[Trait, ...]:
    """Cut the faces of all data sets by size and by sharpness.

    Args:
        sets: One or more.
        threshold: At or above it means fake; the checkpoint's.
        rounds: Drawings of the bootstrap.
    """
    faces = [face for scored in sets for face in scored.material.faces]
    boxes = np.array([face.box_xyxy for face in faces], dtype=np.float64).reshape(-1, 4)
    sizes = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    sharpness = np.concatenate([scored.embedded.sharpness for scored in sets]).astype(np.float64)
    called = np.concatenate([scored.p_fake for scored in sets]) >= threshold
    is_fake = np.array([face.label == 1 for face in faces], dtype=np.bool_)
    groups = np.array(
        [f"{scored.material.name}/{f.group}" for scored in sets for f in scored.material.faces],
        dtype=np.str_,
    )

    def measure_part(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> Part:
        reals, fakes = mask & ~is_fake, mask & is_fake
        inside = values[mask]
        return Part(
            low=float(inside.min()),
            middle=float(np.median(inside)),
            high=float(inside.max()),
            n_real=int(reals.sum()),
            n_fake=int(fakes.sum()),
            accused=measure_share(called[reals], groups[reals], rounds),
            missed=measure_share(~called[fakes], groups[fakes], rounds),
        )

    return tuple(
        Trait(
            *(name, title, unit, values),
            tuple(measure_part(values, mask) for mask in cut(values)),
        )
        for name, title, unit, values in (
            ("face_size", "face size", "longer side of the face's box, pixels", sizes),
            ("sharpness", "sharpness", "variance of the crop's Laplacian", sharpness),
        )
    )


def cut(values: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Masks of ``PARTS`` or fewer parts of equal numbers; equal values are never parted.

    Example:
        >>> [int(mask.sum()) for mask in cut(np.array([7.0] * 30 + [9.0] * 30))]
        [30, 30]
    """
    if not len(values):
        return []
    number = max(1, min(PARTS, len(values) // LEAST_FACES))
    # Edges are values: whatever lies on one belongs to the part above it.
    edges = np.unique(np.quantile(values, np.linspace(0, 1, number + 1)[1:-1], method="higher"))
    part = np.searchsorted(edges, values, side="right")
    return [part == place for place in range(len(edges) + 1) if (part == place).any()]
