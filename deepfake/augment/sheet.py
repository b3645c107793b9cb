"""A contact sheet of what the augmentations do: a row for each, a column for each crop.

Drawn from the crops that training would see, by the seed alone. Knows no network and no Trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.augment.face_parts import Picture, Points, to_68, to_five
from deepfake.augment.recipes import (
    EXTRAS,
    RECIPES,
    Augmentation,
    apply_extra,
    sample_seed,
)
from deepfake.augment.self_blending import self_blend
from deepfake.errors import UsageError
from deepfake.learning.batches import SampleKey
from deepfake.learning.data import CropDataModule, CropDataset

_NAME_WIDTH = 190
_TILE = 128
_GAP = 4
_INK, _PAPER = (30, 30, 30), 245
_NOT_FOR_FAKES = "of reals only"

Draw = Callable[[int], Picture | None]
"""Row of the data set to a picture, or to none where the change is not for this one."""


def draw_sheet(data: CropDataModule, n_crops: int = 10, names: Sequence[str] = ()) -> bytes:
    """Draw every augmentation on training crops of both classes.

    Args:
        data: Set up; its seed chooses the crops and what happens to them.
        n_crops: Columns; alternately real and fake.
        names: Rows to draw, of those that ``row_names`` tells; by default all of them.

    Returns:
        The sheet as a PNG file.

    Raises:
        UsageError: If the crops bring no landmarks, or there is no such row.
    """
    dataset = data.datasets["train"]
    rows = _rows(data)
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise UsageError(f"no augmentation {unknown[0]!r}; there are {', '.join(rows)}")
    columns = _choose(dataset, n_crops, data.seed)
    step = _TILE + _GAP
    chosen = list(names or rows)
    sheet = np.full(
        (len(chosen) * step + _GAP, _NAME_WIDTH + len(columns) * step + _GAP, 3), _PAPER, np.uint8
    )
    for line, name in enumerate(chosen):
        top = line * step + _GAP
        at = (8, top + _TILE // 2 + 5)
        cv2.putText(sheet, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
        for place, index in enumerate(columns):
            left = _NAME_WIDTH + place * step
            picture = rows[name](index)
            if picture is not None:
                sheet[top : top + _TILE, left : left + _TILE] = _fit(picture)
            else:
                at = (left + 26, top + _TILE // 2 + 5)
                cv2.putText(
                    sheet, _NOT_FOR_FAKES, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA
                )
    _, encoded = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    return bytes(encoded)


def row_names() -> list[str]:
    """Names of all rows of a sheet, from above."""
    return ["crop", "landmarks", *RECIPES, *EXTRAS, "self_blend", "as configured"]


def _rows(data: CropDataModule) -> dict[str, Draw]:
    dataset = data.datasets["train"]

    def plain(index: int) -> Picture:
        return dataset.read(dataset.rows[index])

    def points(index: int) -> Points:
        found = dataset.points(dataset.rows[index])
        if found is None:
            raise UsageError(
                f"the crops in {dataset.root} have no landmarks (or no window, as crops from "
                "before it was noted): crop again with this version"
            )
        return found

    def generator(index: int) -> np.random.Generator:
        return np.random.default_rng(sample_seed(data.seed, 0, index))

    def marked(index: int) -> Picture:
        return _mark(plain(index), points(index))

    def recipe(name: str) -> Draw:
        augment = Augmentation(name)
        return lambda index: augment(plain(index), sample_seed(data.seed, 0, index))

    def extra(name: str) -> Draw:
        return lambda index: apply_extra(name, plain(index), points(index), generator(index))

    def blended(index: int) -> Picture | None:
        if dataset.rows[index].label == 1:
            return None
        return self_blend(plain(index), points(index), generator(index))

    drawn: list[Draw] = [
        plain,
        marked,
        *(recipe(name) for name in RECIPES),
        *(extra(name) for name in EXTRAS),
        blended,
        lambda index: _to_picture(dataset[SampleKey(0, index, True)]["image"].numpy()),
    ]
    return dict(zip(row_names(), drawn, strict=True))


def _choose(dataset: CropDataset, number: int, seed: int) -> list[int]:
    """Rows of both classes in turns, real first."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.permutation([n for n, row in enumerate(dataset.rows) if row.label == label])
        for label in (0, 1)
    ]
    turns = [int(column[n]) for n in range(number) for column in columns if n < len(column)]
    return turns[:number]


def _mark(picture: Picture, points: Points) -> Picture:
    """The points that the manifest has, large, and all those that are inferred, small."""
    marked = picture.copy()
    unit = max(len(picture) // 100, 1)
    layers = ((to_68(points), unit, (0, 255, 0)), (to_five(points), 2 * unit, (255, 0, 0)))
    for chosen, radius, colour in layers:
        for x, y in np.rint(chosen).astype(int).tolist():
            cv2.circle(marked, (x, y), radius, colour, cv2.FILLED)
    return marked


def _to_picture(planes: NDArray[np.uint8]) -> Picture:
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _fit(picture: Picture) -> Picture:
    method = cv2.INTER_AREA if len(picture) > _TILE else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (_TILE, _TILE), interpolation=method))
