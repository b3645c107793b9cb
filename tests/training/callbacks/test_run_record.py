"""What a run leaves in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from deepfake.errors import JobError
from deepfake.learning.data import CropDataModule
from deepfake.reports.curves import draw_curves
from deepfake.training.callbacks.run_record import RunRecord
from tests.made_crops import write_crop_folder
from tests.made_task import make_task
from tests.made_trainer import make_trainer

COUNTS = {"train": (16, 12), "validation": (9, 7), "test": (5, 5)}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("fit") / "crops", COUNTS, size=32)


def test_a_run_that_fails_leaves_its_curves(crops: Path, tmp_path: Path) -> None:
    task, record = make_task(), RunRecord(tmp_path, draw_curves)
    trainer = make_trainer(tmp_path, record, max_epochs=2)
    start = task.on_train_epoch_start

    def fail() -> None:
        start()
        if task.current_epoch == 1:
            raise JobError("as if")

    task.on_train_epoch_start = fail  # type: ignore[method-assign]
    with pytest.raises(JobError, match="as if"):
        trainer.fit(task, datamodule=CropDataModule(str(crops), batch_size=8))
    assert (tmp_path / "curves.svg").is_file()
    (tmp_path / "curves.svg").unlink()
    record.on_exception(trainer, task, OSError(28, "no space"))
    assert not (tmp_path / "curves.svg").exists()


def test_history_has_a_row_per_epoch_and_survives_a_resume(crops: Path, tmp_path: Path) -> None:
    drawn: list[int] = []

    def draw(history: Sequence[dict[str, float]]) -> str:
        drawn.append(len(history))
        return "<svg/>"

    data = CropDataModule(str(crops), batch_size=8)
    first = RunRecord(tmp_path / "one", draw)
    trainer = make_trainer(tmp_path, first, max_epochs=1)
    trainer.fit(make_task(), datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = RunRecord(tmp_path / "two", draw)
    trainer = make_trainer(tmp_path, second, max_epochs=2)
    trainer.fit(make_task(), datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert [row["epoch"] for row in second.history] == [0, 1]
    assert second.history[:1] == first.history
    assert {"lr", "train_loss", "projection_norm", "val_auc"} <= second.history[0].keys()
    assert drawn == [1, 2]
    assert (tmp_path / "two" / "curves.svg").read_text() == "<svg/>"
    (start,) = json.loads((tmp_path / "two" / "environment.json").read_text())["starts"]
    assert start["resumed_from"] == str(tmp_path / "last.ckpt")
    assert start["counts"]["train"] == {"real": 16, "fake": 12}


def test_an_epoch_without_a_validation_has_no_metrics_of_one(crops: Path, tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    trainer = make_trainer(tmp_path, record, max_epochs=3, check_val_every_n_epoch=2)
    trainer.fit(make_task(), datamodule=CropDataModule(str(crops), batch_size=8))
    assert ["val_auc" in row for row in record.history] == [False, True, False]


def test_without_a_renderer_there_is_no_picture(crops: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, RunRecord(tmp_path / "run"))
    trainer.fit(make_task(), datamodule=CropDataModule(str(crops), batch_size=8))
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert files == ["environment.json", "metrics.csv"]
