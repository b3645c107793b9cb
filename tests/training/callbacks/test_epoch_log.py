"""The lines of a running training, and the time that is left."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from deepfake.learning.data import CropDataModule
from deepfake.training.callbacks import epoch_log
from deepfake.training.callbacks.epoch_log import EpochLog
from tests.made_crops import write_crop_folder
from tests.made_task import make_task
from tests.made_trainer import make_trainer

COUNTS = {"train": (16, 12), "validation": (9, 7), "test": (5, 5)}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("fit") / "crops", COUNTS, size=32)


def test_a_line_per_epoch(crops: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="deepfake.training.callbacks.epoch_log")
    trainer = make_trainer(crops, EpochLog(), max_epochs=2)
    trainer.fit(make_task(), datamodule=CropDataModule(str(crops), batch_size=8))
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("deepfake")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all(0 <= float(line.split("val_auc ")[1][:6]) <= 1 for line in lines)
    assert ["left" in line for line in lines] == [True, False]


class _Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(epoch_log, "time", made)
    return made


class _Progress:
    """What the log asks a Trainer: epoch 1 of 0 to 2, ten steps each."""

    def __init__(self) -> None:
        self.current_epoch, self.max_epochs, self.num_training_batches = 1, 3, 10
        self.callback_metrics: dict[str, float] = {}
        self.is_global_zero = True


def walk(log: EpochLog, clock: _Clock, trainer: Any, steps: int, step_s: float) -> None:
    for step in range(steps):
        clock.now_s += step_s if step else 50.0  # the first one compiles
        log.on_train_batch_end(trainer, make_task(), None, None, step)


def test_time_left_counts_what_this_process_did(clock: _Clock) -> None:
    log: Any = EpochLog(every_s=1e9)
    trainer = _Progress()
    log.on_train_start(trainer, make_task())
    assert log.seconds_left(trainer, 0) is None
    walk(log, clock, trainer, 10, 2.0)
    assert log.seconds_left(trainer, 10) == pytest.approx(10 * 2.0)
    clock.now_s += 9.0  # a validation
    # A resumed run did the first epoch elsewhere; one epoch is left, nine tenths were timed.
    assert log.seconds_left(trainer, 10) == pytest.approx(10 * 2.0 + 10.0)


def test_without_an_end_there_is_no_time_left(clock: _Clock) -> None:
    log: Any = EpochLog(every_s=1e9)
    trainer = _Progress()
    log.on_train_start(trainer, make_task())
    walk(log, clock, trainer, 4, 2.0)
    assert log.seconds_left(trainer, 4) == pytest.approx(16 * 2.0)
    trainer.max_epochs = -1
    assert log.seconds_left(trainer, 4) is None


def test_a_line_now_and_then_within_an_epoch(
    clock: _Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="deepfake.training.callbacks.epoch_log")
    log, trainer = EpochLog(every_s=30.0), _Progress()
    log.on_train_start(trainer, make_task())  # type: ignore[arg-type]
    walk(log, clock, trainer, 8, 20.0)
    lines = [r.getMessage() for r in caplog.records]
    assert [line.split("  ")[:2] for line in lines] == [
        ["epoch 2/3", "step 1/10"],
        ["epoch 2/3", "step 3/10"],
        ["epoch 2/3", "step 5/10"],
        ["epoch 2/3", "step 7/10"],
    ]
    assert "left" not in lines[0]
    assert lines[1].endswith("05:40 left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, ""),
        (20.0, "  00:20 left"),
        (3000.0, "  50:00 left"),
        (11_100.0, "  3:05:00 left"),
    ],
)
def test_words_for_the_time_left(seconds: float | None, text: str) -> None:
    assert epoch_log._format_left(seconds) == text
