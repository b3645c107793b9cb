"""Crops that the callbacks are tested on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.made_crops import write_crop_folder


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (8, 8), "validation": (4, 4), "test": (4, 4)}
    return write_crop_folder(tmp_path_factory.mktemp("callback") / "crops", counts, size=32)
