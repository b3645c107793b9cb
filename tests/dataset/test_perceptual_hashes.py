"""Crops are read once, whatever their size and the number of threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataset.made_faults import COUNTS, crop_of, find, look, paint
from tests.fakes import portrait
from tests.made_crops import write_crop_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_crop_folder(tmp_path / "crops", COUNTS, size=64)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_finds_look_alikes_at_every_decoding_scale(tmp_path: Path, size: int) -> None:
    root = write_crop_folder(tmp_path / "c", {"train": (2, 2), "test": (2, 2)}, size=size)
    one, other = crop_of(root, "train", 0), crop_of(root, "test", 0)
    paint(root, one, portrait(0, 0, size))
    paint(root, other, portrait(0, 0, size), quality=70)
    report = look(root, split="given")
    assert find(report, "look-alikes")[0].message.startswith("1 pairs")


def test_threads_change_nothing(folder: Path) -> None:
    assert look(folder, threads=3) == look(folder)
