"""Signals between, at the end of and after epochs; that of mid-epoch is in test_training.py."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from deepfake.learning.data import CropDataModule
from deepfake.training.callbacks.interruption import StopOnSignal, Stopped
from tests.made_task import make_task
from tests.made_trainer import make_trainer


class _Hit(Callback):
    """Sends this process a signal in one step."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def fit(crops: Path, stop: StopOnSignal, hit: _Hit, **options: Any) -> Trainer:
    task = make_task()
    trainer = make_trainer(crops, stop, hit, max_epochs=2, **options)
    trainer.fit(task, datamodule=CropDataModule(str(crops), 4))
    return trainer


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        pytest.param(1, 2, id="mid-epoch"),
        # The end of an epoch is another callback's to keep.
        pytest.param(3, None, id="last-step-of-an-epoch"),
        pytest.param(7, None, id="last-step-of-all"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_step(
    crops: Path, tmp_path: Path, number: signal.Signals, step: int, kept: int | None
) -> None:
    before = signal.getsignal(number)
    stop = StopOnSignal(tmp_path / "last.ckpt", None)
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as caught:
        fit(crops, stop, _Hit(step, number))
    assert caught.value.number == number
    assert signal.getsignal(number) == before
    if kept is None:
        assert not (tmp_path / "last.ckpt").exists()
        assert stop.saved_path == ""
    else:
        content = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert content["global_step"] == kept
        assert stop.saved_path == str(tmp_path / "last.ckpt")


def test_a_step_is_whole_only_with_all_its_batches(crops: Path, tmp_path: Path) -> None:
    stop = StopOnSignal(tmp_path / "last.ckpt", None)
    with pytest.raises(Stopped):
        fit(crops, stop, _Hit(0, signal.SIGTERM), accumulate_grad_batches=2)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["global_step"] == 1
    assert content["CropDataModule"]["batch"] == 2


def test_a_second_ctrl_c_is_obeyed_at_once(tmp_path: Path) -> None:
    stop = StopOnSignal(tmp_path / "last.ckpt")
    stop._note(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop._note(signal.SIGINT, None)


def test_processes_agree_on_the_strongest_wish_a_step_later(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        stop = StopOnSignal(tmp_path / "last.ckpt")
        stop._group = torch.distributed.new_group(backend="gloo")
        assert [stop._agree(wish) for wish in (1, 2, 0, 0)] == [0, 1, 2, 0]
        assert stop._agree(2, wait=True) == 2
        assert stop._agree(0, wait=True) == 0
    finally:
        torch.distributed.destroy_process_group()


def test_a_stop_from_elsewhere_has_no_signal() -> None:
    assert str(Stopped(0)) == "stopped by another process"
