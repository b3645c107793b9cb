"""Small crop folders that several tests of data read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deepfake.dataset.rows import CropRow
from tests.made_crops import write_crop_folder
from tests.made_data import COUNTS


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("data") / "crops", COUNTS, size=32)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fakes with their originals, in groups of several; fewer fakes than reals."""
    folder = tmp_path_factory.mktemp("grouped") / "crops"
    return write_crop_folder(folder, COUNTS, size=32, group_size=3, originals=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """To be edited."""
    return write_crop_folder(tmp_path / "crops", COUNTS, size=16, group_size=2)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """The n-th fake of a split was made from its n-th real; to be edited."""

    def pair_up(row: CropRow) -> CropRow:
        original = f"{row.group}-0" if row.label else ""
        return replace(row, source=f"{row.group}-{row.label}", original=original)

    return write_crop_folder(tmp_path / "pairs", COUNTS, size=16, edit=pair_up)
