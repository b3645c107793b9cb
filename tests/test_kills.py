"""Killed a hundred times without warning, each long job ends as one that nobody disturbed.

    pytest -m slow tests/test_kills.py [-k merge]       or with DEEPFAKE_KILLS=20 in front

Real processes, and SIGKILL for all of them at once, at moments drawn by chance. A job that comes to
its end is compared and begun anew. Most of a start is the import of torch: where a job can do
without workers, nine starts of ten are of a process that has imported it, and the tenth is a
command with two workers. The short forms stand beside the jobs' tests.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import pytest

from deepfake.cli import main
from tests.conftest import Trained
from tests.fakes import tree_hashes, write_portraits
from tests.training.made_runs import SMOKE, state_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("DEEPFAKE_KILLS", "100"))  # of each job
WORKERS = ["--workers", "2"]


class Command:
    """A command in processes of its own.

    Args:
        words: What follows ``deepfake``.
        log: Where its output goes.
    """

    def __init__(self, words: list[str], log: Path) -> None:
        code = "import sys; from deepfake.cli import main; sys.exit(main())"
        environment = {k: v for k, v in os.environ.items() if k != "DEEPFAKE_RUN_FOLDER"}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *words],
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def wait(self, limit_s: float | None = None) -> int | None:
        """Its exit code, or none if it was killed at the end of the time."""
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            return None


class WarmCommand:
    """The same in a fork of a process that has imported what it needs; it starts no workers."""

    def __init__(self, words: list[str], log: Path) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(["torch", "deepfake.cli", "tests.test_kills"])
        self._process = context.Process(target=run_here, args=([*words, "--workers", "0"], log))
        self._process.start()

    def wait(self, limit_s: float | None = None) -> int | None:
        self._process.join(limit_s)
        code = self._process.exitcode
        self._process.kill()
        self._process.join()
        return code


def run_here(words: list[str], log: Path) -> None:
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.exit(main(words))


def kill_again_and_again(
    words_for: Callable[[Path], list[object]],
    read: Callable[[Path], object],
    folder: Path,
    workers: Sequence[str] | None = None,
) -> None:
    """Compare what ``read`` finds of a job that nobody disturbs with that of jobs that die.

    Args:
        words_for: The command, for a folder that it may write into.
        read: What the command has left in such a folder.
        folder: For all of it.
        workers: Options of a command with workers, where it may go without.
    """
    rng = random.Random(0)
    log = folder / "log.txt"

    def run(name: str, warm: bool, limit_s: float | None = None) -> bool:
        """Start the command or go on with it; whether it came to its end."""
        place = folder / name
        place.mkdir(exist_ok=True)
        words = [str(word) for word in words_for(place)]
        process = WarmCommand(words, log) if warm else Command([*words, *(workers or ())], log)
        code = process.wait(limit_s)
        assert code in (0, None), log.read_text()
        return code == 0

    whole_s = {}
    for warm in (False, True) if workers else (False,):
        run(f"first-{warm}", warm)  # files that are read, and the process that is forked
        begin = time.monotonic()
        assert run(f"clean-{warm}", warm)
        whole_s[warm] = time.monotonic() - begin
    expected = read(folder / "clean-False")
    killed, number, starts = 0, 0, 0
    while killed < KILLS:
        warm = bool(workers) and starts % 10 > 0
        starts += 1
        # Before that, a cold start has not even imported what it needs.
        earliest = 0.05 if warm else 0.4
        is_new, begin = not (folder / str(number)).exists(), time.monotonic()
        if run(str(number), warm, rng.uniform(earliest, 1.05) * whole_s[warm]):
            if is_new:  # the machine may have more or less else to do by now
                whole_s[warm] = time.monotonic() - begin
            assert read(folder / str(number)) == expected
            number += 1
        else:
            killed += 1
    assert run(str(number), bool(workers))
    assert read(folder / str(number)) == expected
    assert not list(folder.rglob(".tmp-*"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_portraits(tmp_path / "photos", 60)
    return tmp_path / "photos"


@pytest.mark.parametrize("store", ["folder", "tar"])
def test_crop(store: str, photos: Path, tmp_path: Path) -> None:
    kept = ["--store", store, "--quiet"]
    kill_again_and_again(
        lambda place: ["crop", photos, place / "crops", "--size", "64", *kept],
        lambda place: tree_hashes(place / "crops"),
        tmp_path,
        WORKERS,
    )


def test_predict(photos: Path, trained: Trained, tmp_path: Path) -> None:
    def words(place: Path) -> list[object]:
        tables = ["--output", place / "s.csv", "--faces", place / "faces.parquet"]
        return ["predict", photos, "--checkpoint", trained.checkpoint, *tables, "--quiet"]

    kill_again_and_again(
        words,
        lambda place: [(place / name).read_bytes() for name in ("s.csv", "faces.parquet")],
        tmp_path,
        WORKERS,
    )


@pytest.mark.parametrize("kind", ["crop", "predict"])
def test_merge(kind: str, photos: Path, trained: Trained, tmp_path: Path) -> None:
    parts = []
    for number in (1, 2, 3):
        part = tmp_path / (f"part{number}.csv" if kind == "predict" else f"part{number}")
        options = ["--checkpoint", trained.checkpoint] if kind == "predict" else ["--size", "64"]
        words = [kind, photos, "--output", part, *options, "--quiet", "--shard", f"{number}/3"]
        assert Command([*map(str, words), *WORKERS], tmp_path / "log.txt").wait() == 0
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
