"""Trainings for tests, as a user runs them, and what is compared of them."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepfake.learning.crops import Sample
from deepfake.learning.task import EmbeddingTask
from deepfake.training.run import run_training

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs"
SMOKE = ["--config", "smoke", "--config", str(REPO / "experiments" / "gap" / "08-both.yaml")]
EPOCHS = ["--trainer.limit_train_batches", "1.0", "--model.network.drop_path_rate", "0.1"]


def train(crops: Path | str, run: Path | None, *options: str, base: list[str] = SMOKE) -> str:
    output = io.StringIO()
    where = [] if run is None else ["--run", str(run)]
    assert run_training([*base, "--data.root", str(crops), *where, *options], output) == 0
    return output.getvalue()


def state_of(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def logged(run: Path, name: str) -> list[float]:
    """One figure of ``metrics.csv``, epoch by epoch."""
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def assert_same_state(first: Path, second: Path, tolerance: float = 0.0) -> None:
    one, two = state_of(first), state_of(second)
    assert set(one) == set(two)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=tolerance, msg=name)


def start(crops: Path | str, run: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(REPO / "train.py"), *SMOKE, "--data.root", str(crops)]
    with (run.parent / f"{run.name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--run", str(run), *options],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_until(child: subprocess.Popen[bytes], happened: Callable[[], bool], log: Path) -> None:
    while not happened():
        assert child.poll() is None, log.read_text()
        time.sleep(0.005)


LONG = [*EPOCHS, "--trainer.max_epochs", "3", "--data.augmentation.share", "0.5"]


MIDWAY = [*LONG, "--trainer.max_epochs", "2", "--average.decay", "0.9"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]


def wait(child: subprocess.Popen[bytes], log: Path) -> int:
    try:
        return child.wait(timeout=300)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def interrupt_at(
    monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM
) -> None:
    """Let the next run get a signal in the middle of one of its steps."""
    original = EmbeddingTask.training_step

    def hit(task: EmbeddingTask, batch: Sample, batch_idx: int) -> Tensor:
        loss = original(task, batch, batch_idx)
        if task.global_step == step:
            os.kill(os.getpid(), number)
        return loss

    monkeypatch.setattr(EmbeddingTask, "training_step", hit)


def run_until_signal(
    crops: Path | str, run: Path, monkeypatch: pytest.MonkeyPatch, step: int, *options: str
) -> int:
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        patch.delenv("DEEPFAKE_RUN_FOLDER", raising=False)
        return run_training(
            [*SMOKE, "--data.root", str(crops), "--run", str(run), *options], io.StringIO()
        )


def assert_same_run(first: Path, second: Path) -> None:
    assert_same_state(first / "model.ckpt", second / "model.ckpt")
    for name in ("train_loss", "train_ap_distance", "val_loss", "val_auc", "projection_norm"):
        assert logged(first, name)[-1:] == logged(second, name)[-1:], name
    reports = [(run / "metrics.json").read_text() for run in (first, second)]
    assert reports[0] == reports[1]
