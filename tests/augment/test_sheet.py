"""The contact sheet shows what training would see, the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.augment.recipes import EXTRAS, RECIPES
from deepfake.augment.sheet import draw_sheet, row_names
from deepfake.errors import UsageError
from deepfake.learning.data import CropDataModule
from tests.made_crops import write_crop_folder

COUNTS = {"train": (3, 5), "validation": (2, 2)}


def make(root: Path, **options: object) -> CropDataModule:
    data = CropDataModule(str(root), **options)  # type: ignore[arg-type]
    data.setup()
    return data


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("sheet") / "crops", COUNTS, size=128)


def tiles(sheet: bytes, rows: int, columns: int) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[:2] == (rows * 132 + 4, 190 + columns * 132 + 4)
    return np.array(
        [
            [
                picture[4 + r * 132 : 132 + r * 132, 190 + c * 132 : 318 + c * 132, ::-1]
                for c in range(columns)
            ]
            for r in range(rows)
        ]
    )


def test_a_row_for_each_augmentation(crops: Path) -> None:
    data = make(crops, extra=["blind_face"], augment_share=1.0)
    sheet = draw_sheet(data, 4)
    assert draw_sheet(make(crops, extra=["blind_face"], augment_share=1.0), 4) == sheet
    names = row_names()
    assert set(names) == {"crop", "landmarks", *RECIPES, *EXTRAS, "self_blend", "as configured"}
    found = tiles(sheet, len(names), 4)
    plain = [tile.tobytes() for tile in found[0]]
    dataset = data.datasets["train"]
    shown = {dataset.read(row).tobytes(): row.label for row in dataset.rows}
    assert [shown[tile] for tile in plain] == [0, 1, 0, 1]
    for name, line in zip(names[1:], found[1:], strict=True):
        changed = sum(tile.tobytes() != same for tile, same in zip(line, plain, strict=True))
        assert changed >= 1, name
    assert draw_sheet(make(crops, seed=1), 4) != sheet


def test_rows_by_name_and_fewer_crops_than_columns(crops: Path) -> None:
    sheet = draw_sheet(make(crops), 20, ["crop", "self_blend"])
    found = tiles(sheet, 2, 8)
    assert found.shape[:2] == (2, 8)
    with pytest.raises(UsageError, match="no augmentation 'glow'; there are crop, landmarks"):
        draw_sheet(make(crops), 4, ["glow"])


def test_only_reals_are_blended_with_themselves(crops: Path) -> None:
    plain, blended = tiles(draw_sheet(make(crops), 4, ["crop", "self_blend"]), 2, 4)
    for column, fake in enumerate([False, True, False, True]):
        # Paper with a few words, or a picture that is nearly the one above it.
        assert ((blended[column] > 200).mean() > 0.9) == fake
        assert (np.abs(blended[column].astype(int) - plain[column]).mean() < 40) == (not fake)


def test_crops_without_landmarks(tmp_path: Path) -> None:
    root = write_crop_folder(
        tmp_path / "crops", COUNTS, size=32, edit=lambda row: replace(row, window=None)
    )
    with pytest.raises(UsageError, match=r"no landmarks .*crop again"):
        draw_sheet(make(root), 2)
