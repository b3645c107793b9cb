"""A folder of photos for the commands that score, and the words that most of them get."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake import cli
from tests.conftest import Trained


@pytest.fixture
def inbox(trained: Trained, tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number, path in enumerate(sorted(trained.photos.rglob("*.png"))[:3]):
        (folder / f"p{number}.png").write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_bytes(b"nothing")
    return folder


def predict(inbox: Path, trained: Trained, *more: object) -> int:
    words = [inbox, "--checkpoint", trained.checkpoint, "--workers", "0", "--quiet", *more]
    return cli.predict([str(word) for word in words])
