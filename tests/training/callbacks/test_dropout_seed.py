"""Dropout of a step is that of its seed, epoch and batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from deepfake.augment.recipes import AugmentationSettings
from deepfake.learning.data import CropDataModule
from deepfake.training.callbacks.dropout_seed import SeedDropout
from tests.made_crops import write_crop_folder
from tests.made_task import make_task
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


def test_dropout_follows_from_seed_epoch_and_batch(crops: Path) -> None:
    results = []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        task = make_task(dropout=0.5)
        torch.manual_seed(noise)
        fit(task, crops, SeedDropout(seed), limit_val_batches=0)
        results.append(task.embedder.projection.weight.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
