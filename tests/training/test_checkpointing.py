"""Checkpoints that are kept: the best, the last, by the clock, on a full disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from deepfake.errors import JobError
from deepfake.learning import validation
from deepfake.learning.checkpoint import read_info
from tests.training.made_runs import (
    EPOCHS,
    assert_same_state,
    train,
)


def test_checkpoints_in_mid_epoch_come_by_the_clock(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    original = Trainer.save_checkpoint

    def note(trainer: Trainer, *args: object, **options: object) -> None:
        kept.append(trainer.global_step)
        original(trainer, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "save_checkpoint", note)
    train(crops, tmp_path / "often", *EPOCHS, "--checkpoint_minutes", "0")
    train(crops, tmp_path / "never", *EPOCHS, "--checkpoint_minutes", "null")
    # Four steps: three in mid-epoch, then best and last, then the model.
    assert kept == [1, 2, 3, 4, 4, 4, *[4, 4, 4]]
    assert_same_state(tmp_path / "often" / "model.ckpt", tmp_path / "never" / "model.ckpt")


def test_a_full_disk_names_the_last_good_checkpoint(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    original = os.fsync

    def fail(descriptor: int) -> None:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if is_file and (run / "checkpoints" / "last.ckpt").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr("deepfake.storage.os.fsync", fail)
    with pytest.raises(JobError, match=r"no space left for .*MB\); the last good .*last\.ckpt: "):
        train(crops, run, *EPOCHS, "--trainer.max_epochs", "2")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert sorted(path.suffix for path in (run / "checkpoints").iterdir()) == [".ckpt", ".ckpt"]
    assert read_info(run / "checkpoints" / "last.ckpt")["epoch"] == 0


def rig_auc(monkeypatch: pytest.MonkeyPatch, figures: list[float]) -> None:
    """Let the epochs of the next runs have these validation figures."""
    remaining = iter(figures)
    monkeypatch.setattr(validation, "compute_auc", lambda labels, scores: next(remaining))


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        pytest.param([0.9, 0.5, 0.7], 0, id="before-the-break"),
        pytest.param([0.6, 0.5, 0.7], 2, id="after-the-break"),
    ],
)
def test_a_resumed_run_remembers_its_best_epoch(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: list[float], best: int
) -> None:
    options = [*EPOCHS, "--model.schedule", "null"]
    rig_auc(monkeypatch, figures)
    train(crops, tmp_path / "whole", *options, "--trainer.max_epochs", "3")
    rig_auc(monkeypatch, figures)
    train(crops, tmp_path / "first", *options, "--trainer.max_epochs", "2")
    kept = {path: path.read_bytes() for path in (tmp_path / "first").rglob("*.ckpt")}
    resume = ["--resume", str(tmp_path / "first"), "--trainer.max_epochs", "3"]
    train(crops, tmp_path / "second", *options, *resume)
    assert read_info(tmp_path / "whole" / "model.ckpt")["weights"] == f"epoch {best} (best)"
    assert read_info(tmp_path / "second" / "model.ckpt")["weights"] == f"epoch {best} (best)"
    assert_same_state(tmp_path / "whole" / "model.ckpt", tmp_path / "second" / "model.ckpt")
    assert {path: path.read_bytes() for path in (tmp_path / "first").rglob("*.ckpt")} == kept
