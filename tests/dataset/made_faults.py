"""Crop folders with a fault, and what the doctor says of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.audit import Issue
from deepfake.dataset.doctor import Report, examine
from deepfake.dataset.manifest import read_manifest, read_sources
from deepfake.dataset.rows import CropRow

COUNTS = {"train": (12, 12), "validation": (4, 4), "test": (4, 4)}


def look(root: Path, **options: object) -> Report:
    return examine(root, quiet=True, **options)  # type: ignore[arg-type]


def find(report: Report, kind: str) -> list[Issue]:
    return [issue for issue in report.issues if issue.kind == kind]


def crop_of(root: Path, split: str, label: int, number: int = 0) -> CropRow:
    rows = [row for row in read_manifest(root).rows if (row.split, row.label) == (split, label)]
    return rows[number]


def name_of(root: Path, row: CropRow) -> str:
    return next(source.path for source in read_sources(root) if source.id == row.source)


def paint(root: Path, row: CropRow, picture: NDArray[np.uint8], quality: int = 95) -> None:
    assert cv2.imwrite(str(root / row.crop), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
