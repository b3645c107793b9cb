"""Who warns of a collapse, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from deepfake.errors import JobError
from deepfake.learning.data import CropDataModule
from deepfake.training.callbacks.collapse import CollapseWatch
from tests.made_crops import write_crop_folder
from tests.made_task import make_task, sgd
from tests.made_trainer import make_trainer

COUNTS = {"train": (16, 12), "validation": (9, 7), "test": (5, 5)}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("fit") / "crops", COUNTS, size=32)


def watch(guard: CollapseWatch, steps: list[tuple[float, float] | None]) -> None:
    task = make_task()
    trainer = Trainer(logger=False, accelerator="cpu")
    for step in steps:
        loss, distance = step or (0.0, 0.0)
        number = 0 if step is None else 12
        stuck = torch.tensor(float(distance < 1e-3 and abs(loss - 1.0) < 0.02))
        task.step_metrics = {"collapsed": (stuck, torch.tensor(float(number > 0)))}
        guard.on_train_batch_end(trainer, task, None, None, 0)


STUCK, FINE = (1.0, 1e-5), (0.9, 0.5)


@pytest.mark.parametrize(
    ("steps", "warnings"),
    [
        pytest.param([STUCK] * 20, 1, id="collapse-is-said-once"),
        pytest.param([FINE] * 20, 0, id="learning"),
        pytest.param([STUCK] * 4, 0, id="too-short"),
        pytest.param([*[STUCK] * 4, FINE] * 4, 0, id="interrupted"),
        pytest.param([FINE, *[STUCK] * 5], 1, id="after-a-good-start"),
        pytest.param([(1.0, 1.0)] * 20, 0, id="at-the-margin-but-apart"),
        pytest.param([(0.0, 1e-5)] * 20, 0, id="alike-but-not-at-the-margin"),
        pytest.param([STUCK, None] * 5, 1, id="batches-without-triplets-say-nothing"),
    ],
)
def test_collapse(
    steps: list[tuple[float, float] | None], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    watch(CollapseWatch(steps=5), steps)
    assert caplog.text.count("collapse: the triplet loss") == warnings


@pytest.mark.parametrize(
    ("collapsed", "warnings"),
    [pytest.param(True, 1, id="collapsed"), pytest.param(False, 0, id="healthy")],
)
def test_collapse_in_a_real_training(
    crops: Path, collapsed: bool, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(optimizer=sgd(0.0))
    if collapsed:
        with torch.no_grad():
            task.embedder.projection.weight.zero_()
            task.embedder.projection.bias.fill_(1)
    trainer = make_trainer(crops, CollapseWatch(steps=3), max_epochs=2, limit_val_batches=0)
    trainer.fit(task, datamodule=CropDataModule(str(crops), batch_size=8))
    assert caplog.text.count("collapse: the triplet loss") == warnings


def test_the_warning_names_the_projections_norm(caplog: pytest.LogCaptureFixture) -> None:
    watch(CollapseWatch(steps=2), [STUCK] * 3)
    assert "norm of the projection: " in caplog.text


def test_counting_goes_on_after_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    first, second = CollapseWatch(steps=5), CollapseWatch(steps=5)
    watch(first, [STUCK] * 3)
    second.load_state_dict(first.state_dict())
    watch(second, [STUCK] * 2)
    assert caplog.text.count("collapse: the triplet loss") == 1


def test_an_epoch_without_a_triplet_stops_the_run(crops: Path) -> None:
    trainer = make_trainer(crops, CollapseWatch())
    with pytest.raises(JobError, match="no batch of epoch 0 held two crops of one class"):
        trainer.fit(make_task(), datamodule=CropDataModule(str(crops), batch_size=2))
