"""Checkpoints that are kept: the best, the last, by the clock, on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from deepfake.errors import JobError, UsageError
from deepfake.learning import validation
from deepfake.learning.checkpoint import read_info
from deepfake.learning.checkpoint_file import seal
from deepfake.training.checkpointing import AtomicCheckpointIO, make_checkpoints
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


def test_the_last_checkpoint_is_published_when_it_is_there(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def publish() -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))

    keeper = AtomicCheckpointIO(publish)
    for name in ("best.ckpt", "last.ckpt"):
        keeper.save_checkpoint({"epoch": 1}, tmp_path / name)
    assert seen == [["best.ckpt", "last.ckpt"]]


def rig_auc(monkeypatch: pytest.MonkeyPatch, figures: list[float]) -> None:
    """Let the epochs of the next runs have these validation figures."""
    remaining = iter(figures)
    monkeypatch.setattr(validation, "compute_auc", lambda labels, scores: next(remaining))


def forge(run: Path, paths: dict[str, Any]) -> None:
    """Let the last checkpoint of a run tell of other paths than it had."""
    last = run / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    told = [state for name, state in content["callbacks"].items() if "KeptCheckpoint" in name]
    assert len(told) == 2
    for state in told:
        state.update(paths)
    seal(content)
    torch.save(content, last)


def test_going_on_removes_and_reads_nothing_of_others(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stranger's checkpoint says lies in the new run's folder, by a path that leaves it."""
    options = [*EPOCHS, "--model.schedule", "null"]
    rig_auc(monkeypatch, [0.5, 0.9])
    stranger, own = tmp_path / "stranger", tmp_path / "own"
    train(crops, stranger, *options)
    precious = tmp_path / "precious"
    precious.write_bytes((stranger / "checkpoints" / "last.ckpt").read_bytes())
    dirpath = str(own / "checkpoints")
    (own.parent / "own").mkdir()
    (own / "checkpoints").mkdir()
    (own / "config.yaml").touch()
    aside = f"{dirpath}/../../precious"
    score = torch.tensor(0.6)
    forge(
        stranger,
        {
            "dirpath": dirpath,
            "best_model_path": aside,
            "best_model_score": score,
            "best_k_models": {aside: score},
            "kth_best_model_path": aside,
            "kth_value": score,
            "last_model_path": aside,
        },
    )
    shutil.copy(stranger / "checkpoints" / "last.ckpt", own / "checkpoints" / "last.ckpt")
    train(crops, own, *options, "--trainer.max_epochs", "2", "--resume", "auto")
    assert precious.exists()
    assert read_info(own / "model.ckpt")["weights"] == "epoch 1 (best)"


@pytest.mark.parametrize("name", ["epoch000.ckpt", "/home/stranger/run/epoch000.ckpt", "../../x"])
def test_of_a_path_only_the_name_counts(name: str, tmp_path: Path) -> None:
    for beside in ("epoch000.ckpt", "x"):
        (tmp_path / beside).touch()
    best, last = make_checkpoints(tmp_path / "run", True, tmp_path / "last.ckpt")
    state = best.state_dict() | {"best_model_path": name, "best_model_score": torch.tensor(0.5)}
    for callback in (best, last):
        callback.load_state_dict(state | {"best_k_models": {"/etc/passwd": torch.tensor(0.5)}})
    assert best.best_model_path == str(tmp_path / Path(name).name)
    assert best.best_k_models == {best.best_model_path: torch.tensor(0.5)}
    assert (last.best_model_path, last.best_k_models) == ("", {})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
def test_the_best_epoch_of_a_stranger_is_a_file_of_his_folder(kind: str, tmp_path: Path) -> None:
    best = make_checkpoints(tmp_path / "run", True, tmp_path / "last.ckpt")[0]
    path = tmp_path / "best.ckpt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/etc/passwd")
    state = best.state_dict() | {"best_model_path": "best.ckpt"}
    with pytest.raises(UsageError, match=r"best\.ckpt.*(leads out|no regular file)"):
        best.load_state_dict(state | {"best_model_score": torch.tensor(0.5)})


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        pytest.param([0.9, 0.5, 0.7], 0, id="before-the-break"),
        pytest.param([0.6, 0.5, 0.7], 2, id="after-the-break", marks=pytest.mark.slow),
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
