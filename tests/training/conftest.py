"""Crops and trained runs that several files of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.made_crops import write_crop_folder
from tests.training.made_runs import LONG, MIDWAY, train


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without --run go to the test's folder; what a run tells its children is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPFAKE_RUN_FOLDER", "")
    monkeypatch.delenv("DEEPFAKE_RUN_FOLDER")


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("train") / "crops")


@pytest.fixture(scope="session")
def many_crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (80, 60), "validation": (8, 8), "test": (8, 8)}
    return write_crop_folder(tmp_path_factory.mktemp("many") / "crops", counts)


@pytest.fixture(scope="session")
def uninterrupted(many_crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(many_crops, run, *LONG)
    return run


@pytest.fixture(scope="session")
def straight(many_crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of 20 steps with everything that has a state, and no stop."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train(many_crops, run, *MIDWAY)
    return run


@pytest.fixture(scope="session")
def finished(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    train(crops, run)
    return run
