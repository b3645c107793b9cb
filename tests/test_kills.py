"""Killed a hundred times without warning, each long job ends as one that nobody disturbed.

Real processes with two workers, and SIGKILL for all of them at once, at moments drawn by chance. A
job that comes to its end is compared and begun anew. The short forms stand beside the jobs' tests.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Trained
from tests.fakes import tree_hashes, write_portraits
from tests.training.made_runs import SMOKE, state_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
ROOT = Path(__file__).parents[1]
KILLS = 100
WORKERS = ["--workers", "2", "--quiet"]


def start(words: list[object], folder: Path) -> subprocess.Popen[bytes]:
    command = "import sys; from deepfake.cli import main; sys.exit(main())"
    environment = {k: v for k, v in os.environ.items() if k != "DEEPFAKE_RUN_FOLDER"}
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", command, *map(str, words)],
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def kill_again_and_again(
    words_for: Callable[[Path], list[object]], read: Callable[[Path], object], folder: Path
) -> None:
    """Compare what ``read`` finds of a job that nobody disturbs with that of jobs that die.

    Args:
        words_for: The command, for a folder that it may write into.
        read: What the command has left in such a folder.
        folder: For all of it.
    """
    rng = random.Random(0)

    def run(name: str, limit_s: float | None) -> bool:
        """Start the command or go on with it; whether it came to its end."""
        place = folder / name
        place.mkdir(exist_ok=True)
        process = start(words_for(place), folder)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
        assert code == 0, (folder / "log.txt").read_text()
        return True

    begin = time.monotonic()
    assert run("clean", None)
    whole_s = time.monotonic() - begin
    expected = read(folder / "clean")
    killed, number = 0, 0
    while killed < KILLS:
        # Before that, a start has not even imported what it needs.
        if run(str(number), rng.uniform(0.4, 1.05) * whole_s):
            assert read(folder / str(number)) == expected
            number += 1
        else:
            killed += 1
    assert run(str(number), None)
    assert read(folder / str(number)) == expected
    assert not list(folder.rglob(".tmp-*"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_portraits(tmp_path / "photos", 60)
    return tmp_path / "photos"


@pytest.mark.parametrize("store", ["folder", "tar"])
def test_crop(store: str, photos: Path, tmp_path: Path) -> None:
    kept = ["--store", store, *WORKERS]
    kill_again_and_again(
        lambda place: ["crop", photos, place / "crops", "--size", "64", *kept],
        lambda place: tree_hashes(place / "crops"),
        tmp_path,
    )


def test_predict(photos: Path, trained: Trained, tmp_path: Path) -> None:
    def words(place: Path) -> list[object]:
        tables = ["--output", place / "s.csv", "--faces", place / "faces.parquet"]
        return ["predict", photos, "--checkpoint", trained.checkpoint, *tables, *WORKERS]

    kill_again_and_again(
        words,
        lambda place: [(place / name).read_bytes() for name in ("s.csv", "faces.parquet")],
        tmp_path,
    )


@pytest.mark.parametrize("kind", ["crop", "predict"])
def test_merge(kind: str, photos: Path, trained: Trained, tmp_path: Path) -> None:
    parts = []
    for number in (1, 2, 3):
        part = tmp_path / (f"part{number}.csv" if kind == "predict" else f"part{number}")
        options = ["--checkpoint", trained.checkpoint] if kind == "predict" else ["--size", "64"]
        words = [kind, photos, "--output", part, *options, *WORKERS, "--shard", f"{number}/3"]
        assert start(words, tmp_path).wait() == 0
        parts.append(part)
    kill_again_and_again(
        lambda place: ["merge", *parts, "--output", place / ("m.csv" if parts[0].suffix else "m")],
        lambda place: tree_hashes(place),
        tmp_path,
    )


def test_train(trained: Trained, tmp_path: Path) -> None:
    def words(place: Path) -> list[object]:
        options = ["--trainer.max_epochs", "3", "--checkpoint_minutes", "0", "--resume", "auto"]
        options += ["--data.num_workers", "2", "--trainer.accelerator", "cpu"]
        return ["train", *SMOKE, "--data.root", trained.crops, "--run", place / "run", *options]

    def read(place: Path) -> object:
        state = state_of(place / "run" / "model.ckpt")
        metrics = (place / "run" / "metrics.json").read_text()
        return metrics, {name: value.numpy().tobytes() for name, value in state.items()}

    kill_again_and_again(words, read, tmp_path)
