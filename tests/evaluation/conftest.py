"""One crop folder and one checkpoint for the whole room."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deepfake.dataset.manifest import SourceRow, format_sources, read_sources
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.media.discovery import display_name
from tests.evaluation.made_checkpoint import write_checkpoint
from tests.made_crops import write_crop_folder

HOSTILE = '<script>alert("1")</script>&\u202etxt.jpg'
REASON = 'decode_error: <img src=x onerror="alert(2)">'


@dataclass(frozen=True)
class Made:
    """A folder with 2 unanswered files in its test split, and a checkpoint trained on another."""

    crops: Path
    path: Path
    checkpoint: Checkpoint


def add_unanswered(root: Path) -> None:
    """Add a fake that cannot be read and a real without a face to the test split."""
    rows = [
        SourceRow(
            display_name(HOSTILE), "unreadable", REASON, 0, 1, "<b>", "x", "test", "f" * 16, "a"
        ),
        SourceRow("wall.jpg", "no_face", "no_face: none", 0, 0, "", "y", "test", "e" * 16, "b"),
    ]
    (root / "sources.csv").write_text("".join(format_sources([*read_sources(root), *rows])))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("evaluation")
    crops = write_crop_folder(
        folder / "crops",
        {"train": (8, 8), "validation": (12, 12), "test": (10, 10)},
        size=32,
        edit=lambda row: replace(row, method="<i>swap</i>" if row.label else ""),
    )
    add_unanswered(crops)
    path = write_checkpoint(folder / "model.ckpt", crops, manifest_sha256="0" * 64)
    return Made(crops, path, load_checkpoint(path))
