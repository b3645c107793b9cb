"""Photos, and the crop folders that they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataset.made_jobs import Done, run
from tests.fakes import montage, portrait, tree_hashes, write_photo, write_portraits


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos, some of them bad."""
    root = write_portraits(tmp_path_factory.mktemp("few"), 6)
    write_photo(root / "real" / "montage.jpg", montage())
    write_photo(root / "fake" / "plain.png", portrait() // 200)
    write_photo(root / "fake" / "tiny.png", portrait()[:30])
    (root / "fake" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    (root / "notes.txt").write_text("no photo")
    return root


@pytest.fixture(scope="module")
def few_done(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    output = tmp_path_factory.mktemp("few_done") / "crops"
    run(few, output)
    return Done(few, tree_hashes(output))


@pytest.fixture(scope="module")
def many_done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Forty portraits and what a clean run makes of them."""
    folder = tmp_path_factory.mktemp("many")
    photos = write_portraits(folder / "photos", 40)
    run(photos, folder / "crops")
    return Done(photos, tree_hashes(folder / "crops"))
