"""A small checkpoint, and one server with it that most tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake import cli
from tests import fakes
from tests.evaluation.made_checkpoint import write_checkpoint
from tests.web.made_media import encode_photo
from tests.web.made_server import InlinePool, Running, running


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web-checkpoint")
    fakes.write_portraits(folder / "photos", 8)
    words = [str(folder / "photos"), str(folder / "crops"), "--size", "64", "--workers", "0"]
    assert cli.crop([*words, "--quiet"]) == 0
    return write_checkpoint(folder / "model.ckpt", folder / "crops")


@pytest.fixture(scope="session")
def allowed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that clients may name files of, and what lies about it."""
    root = tmp_path_factory.mktemp("web-allowed")
    fakes.write_photo(root / "allowed" / "inside.png", fakes.portrait(1))
    (root / "allowed" / "notes.txt").write_text("no photo")
    fakes.write_photo(root / "outside.png", fakes.portrait(2))
    (root / "allowed" / "link.png").symlink_to(root / "outside.png")
    (root / "allowed" / "out").symlink_to(root)
    return root / "allowed"


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, allowed_folder: Path
) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("web") / "private"
    with running(root, [checkpoint], allowed=[allowed_folder]) as server:
        yield server


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A drawn portrait as a PNG."""
    return encode_photo(fakes.portrait(3))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of this test start no process."""
    monkeypatch.setattr("deepfake.web.engine.WorkerPool", InlinePool)
