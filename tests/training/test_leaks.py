"""A leak that was planted is found by ``doctor`` and refused by a training."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from deepfake import cli
from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.rows import CropRow
from deepfake.errors import UsageError
from tests.made_crops import write_crop_folder, write_tables
from tests.training.made_runs import (
    train,
)


def plant_identity(crops: Path, rows: list[CropRow]) -> None:
    """A person of the training split in the test split, under the same name."""
    leaking = find_row(rows, "test", 0)
    rows[rows.index(leaking)] = replace(leaking, group=find_row(rows, "train", 0).group)


def plant_copy(crops: Path, rows: list[CropRow]) -> None:
    """A training picture in the test split, compressed once more."""
    picture = cv2.imread(str(crops / find_row(rows, "train", 0).crop))
    target = str(crops / find_row(rows, "test", 0).crop)
    assert picture is not None
    assert cv2.imwrite(target, picture, [cv2.IMWRITE_JPEG_QUALITY, 60])


def plant_parting(crops: Path, rows: list[CropRow]) -> None:
    """A fake in the test split, of an original of the training split; their groups differ."""
    leaking = find_row(rows, "test", 1)
    rows[rows.index(leaking)] = replace(leaking, original=find_row(rows, "train", 0).source)


def find_row(rows: list[CropRow], split: str, label: int) -> CropRow:
    return next(row for row in rows if (row.split, row.label) == (split, label))


@pytest.mark.parametrize(
    ("plant", "topic", "problem"),
    [
        (plant_identity, "groups", "1 of 32 groups stand in more than one split.*: train-0"),
        (
            plant_copy,
            "look-alikes",
            r"1 pairs of crops in two splits look alike.*: train \S+ \(\w+\) ~ te",
        ),
        (plant_parting, "originals", "1 fake crops stand in another split than their original: te"),
    ],
    ids=["identity", "recompressed", "original-and-fake"],
)
def test_a_planted_leak_is_found_by_doctor_and_training(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    plant: Callable[[Path, list[CropRow]], None],
    topic: str,
    problem: str,
) -> None:
    crops = write_crop_folder(tmp_path / "crops", originals=True)
    assert cli.doctor([str(crops), "--quiet"]) == 0
    rows = list(read_manifest(crops).rows)
    plant(crops, rows)
    write_tables(crops, rows)
    capsys.readouterr()
    assert cli.doctor([str(crops), "--quiet"]) == 1
    assert re.findall(r"^LEAK +(\S+)", capsys.readouterr().out, re.MULTILINE) == [topic]
    with pytest.raises(UsageError, match=problem + ".*; .*data.split.allow_leak true"):
        train(crops, tmp_path / "run")
    assert not (tmp_path / "run" / "model.ckpt").exists()
