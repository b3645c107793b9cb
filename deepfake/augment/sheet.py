"""A contact sheet of what the augmentations do: a row for each, a column for each crop.

Drawn from what it is handed, by the crops' seeds alone. Knows no file and no data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.augment.face_parts import Crop, Points, to_68, to_five
from deepfake.augment.recipes import EXTRAS, RECIPES, Augmentation, apply_extra
from deepfake.augment.self_blending import self_blend
from deepfake.errors import UsageError

_NAME_WIDTH = 190
_TILE = 128
_GAP = 4
_INK, _PAPER = (30, 30, 30), 245
_NOT_FOR_FAKES = "of reals only"


@dataclass(frozen=True, slots=True)
class Example:
    """A column of the sheet.

    Args:
        crop: ``(S, S, 3)`` uint8 RGB.
        points: Landmarks in its pixels, ``None`` without any.
        label: 1 = fake, 0 = real.
        seed: Decides what happens to it.
        augmented: What training would make of it, ``(S, S, 3)`` uint8 RGB.
    """

    crop: Crop
    points: Points | None
    label: int | None
    seed: int
    augmented: Crop


def draw_sheet(examples: Sequence[Example], names: Sequence[str] = ()) -> bytes:
    """Draw every augmentation on training crops.

    Args:
        examples: A column each.
        names: Rows to draw, of those that ``row_names`` tells; by default all of them.

    Returns:
        The sheet as a PNG file.

    Raises:
        UsageError: If the crops bring no landmarks, or there is no such row.
    """
    rows = _make_rows()
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise UsageError(f"no augmentation {unknown[0]!r}; there are {', '.join(rows)}")
    step = _TILE + _GAP
    chosen = list(names or rows)
    height, width = len(chosen) * step + _GAP, _NAME_WIDTH + len(examples) * step + _GAP
    sheet = np.full((height, width, 3), _PAPER, np.uint8)
    for line, name in enumerate(chosen):
        top = line * step + _GAP
        _write(sheet, name, 8, top, 0.5)
        for column, example in enumerate(examples):
            left = _NAME_WIDTH + column * step
            drawn = rows[name](example)
            if drawn is not None:
                sheet[top : top + _TILE, left : left + _TILE] = _fit(drawn)
            else:
                _write(sheet, _NOT_FOR_FAKES, left + 26, top, 0.4)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    return bytes(encoded)


def row_names() -> list[str]:
    """Names of all rows of a sheet, from above."""
    return list(_make_rows())


def alternate_classes(labels: NDArray[np.int64], number: int, seed: int) -> list[int]:
    """So many rows, drawn by a seed: a real and a fake in turns, as long as there are both."""
    rng = np.random.default_rng(seed)
    columns = [rng.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    most = min(number, max(map(len, columns)))
    turns = [int(column[n]) for n in range(most) for column in columns if n < len(column)]
    return turns[:number]


def _make_rows() -> dict[str, Callable[[Example], Crop | None]]:
    """What each row draws; ``None`` where the change is not for such a crop."""

    def recipe(name: str) -> Callable[[Example], Crop]:
        augment = Augmentation(name)
        return lambda example: augment(example.crop, example.seed)

    def extra(name: str) -> Callable[[Example], Crop]:
        return lambda example: apply_extra(
            name, example.crop, _points(example), np.random.default_rng(example.seed)
        )

    def blended(example: Example) -> Crop | None:
        if example.label == 1:
            return None
        return self_blend(example.crop, _points(example), np.random.default_rng(example.seed))

    return {
        "crop": lambda example: example.crop,
        "landmarks": lambda example: _mark(example.crop, _points(example)),
        **{name: recipe(name) for name in RECIPES},
        **{name: extra(name) for name in EXTRAS},
        "self_blend": blended,
        "as configured": lambda example: example.augmented,
    }


def _points(example: Example) -> Points:
    if example.points is None:
        raise UsageError(
            "the crops have no landmarks (or no window, as crops from before it was noted): crop "
            "again with this version"
        )
    return example.points


def _mark(crop: Crop, points: Points) -> Crop:
    """Five points, large, and all those that are known or inferred, small."""
    marked = crop.copy()
    unit = max(len(crop) // 100, 1)
    every = points if len(points) > len(to_68(points)) else to_68(points)
    layers = ((every, unit, (0, 255, 0)), (to_five(points), 2 * unit, (255, 0, 0)))
    for chosen, radius, colour in layers:
        for x, y in np.rint(chosen).astype(int).tolist():
            cv2.circle(marked, (x, y), radius, colour, cv2.FILLED)
    return marked


def _write(sheet: Crop, text: str, left: int, top: int, scale: float) -> None:
    """Write beside or into a tile, at half of its height."""
    at = (left, top + _TILE // 2 + 5)
    cv2.putText(sheet, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)


def _fit(crop: Crop) -> Crop:
    method = cv2.INTER_AREA if len(crop) > _TILE else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(crop, (_TILE, _TILE), interpolation=method))
