"""A number that is none stops a training, before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from deepfake.augment.recipes import AugmentationSettings
from deepfake.errors import JobError
from deepfake.learning.data import CropDataModule
from deepfake.training.callbacks.finite import RefuseNonFinite
from tests.made_crops import write_crop_folder
from tests.made_task import make_task, sgd
from tests.made_trainer import make_trainer


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (8, 8), "validation": (4, 4), "test": (4, 4)}
    return write_crop_folder(tmp_path_factory.mktemp("callback") / "crops", counts, size=32)


def fit(
    task: LightningModule, crops: Path, *callbacks: Callback, batch_size: int = 16, **options: Any
) -> Trainer:
    trainer = make_trainer(crops, *callbacks, **options)
    data = CropDataModule(str(crops), batch_size, AugmentationSettings(share=0.0))
    trainer.fit(task, datamodule=data)
    return trainer


@pytest.mark.parametrize("where", ["projection", "late"])
def test_a_loss_that_is_no_number_stops_the_run(crops: Path, where: str) -> None:
    task = make_task()
    if where == "projection":
        with torch.no_grad():
            task.embedder.projection.weight.fill_(torch.nan)
        with pytest.raises(JobError, match=r"the loss became nan in epoch 0, step 0, at lr 0\.01"):
            fit(task, crops, RefuseNonFinite())
    else:
        # The last step of an epoch may break the weights; no loss sees it any more.
        task = make_task(optimizer=sgd(1e30))
        with pytest.raises(JobError, match="became NaN in epoch 0; no checkpoint was written yet"):
            fit(task, crops, RefuseNonFinite())


def test_a_patient_watch_still_stops_the_run(crops: Path) -> None:
    # As on a GPU, where the answer comes late: the bad step is named, not the one that is running.
    task = make_task(optimizer=sgd(1e30))
    with pytest.raises(
        JobError, match=r"the loss became (nan|inf) in epoch 0, step 1, at lr 1e\+30"
    ):
        fit(task, crops, RefuseNonFinite(patience=2), batch_size=2, limit_val_batches=0)


def test_weights_that_are_no_numbers_are_never_kept(crops: Path) -> None:
    task = make_task()
    trainer = fit(task, crops, RefuseNonFinite(), limit_val_batches=0)
    with torch.no_grad():  # as the last step of a run may leave it: no loss sees it any more
        task.embedder.projection.bias[3] = torch.nan
    with pytest.raises(JobError, match=r"the weights became NaN by the end of step 1"):
        trainer.save_checkpoint(crops / "never.ckpt")
    assert not (crops / "never.ckpt").exists()


def test_switched_off_an_embedding_of_nan_has_no_auc(crops: Path) -> None:
    trainer = fit(make_task(optimizer=sgd(1e30)), crops)
    assert torch.isnan(trainer.callback_metrics["val_auc"])
