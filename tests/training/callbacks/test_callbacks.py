"""The callbacks of a run from plain settings, each of which can be switched off."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LightningArgumentParser

from deepfake.errors import JobError
from deepfake.learning.data import CropDataModule
from deepfake.training.callbacks import (
    AverageSettings,
    AverageWeights,
    CallbackSettings,
    FitHead,
    FreezeBackbone,
    WatchSettings,
    make_callbacks,
)
from deepfake.training.callbacks.protocol import as_embedding_module
from tests.made_crops import write_crop_folder
from tests.made_task import make_task
from tests.made_trainer import make_trainer


def test_settings_are_options_of_the_command_line() -> None:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CallbackSettings)
    words = ["--average.decay", "0.9", "--freeze.epochs", "2", "--freeze.lr", "0.1"]
    parsed = parser.instantiate(parser.parse_args([*words, "--head.name", "rbf", "--head.C", "3"]))
    groups = {field.name: parsed[field.name] for field in fields(CallbackSettings)}
    callbacks = {type(one): one for one in make_callbacks("run", CallbackSettings(**groups))}
    head, freeze = callbacks[FitHead], callbacks[FreezeBackbone]
    assert isinstance(head, FitHead)
    assert isinstance(freeze, FreezeBackbone)
    assert (head.head, head.C, freeze.epochs, freeze.lr) == ("rbf", 3.0, 2, 0.1)


def test_what_is_watched_can_be_switched_off(tmp_path: Path) -> None:
    quiet = WatchSettings(finite=False, collapse_steps=0, log_s=None, record=False)
    everything, few = (
        [type(one).__name__ for one in make_callbacks(tmp_path, CallbackSettings(watch=watch))]
        for watch in (WatchSettings(), quiet)
    )
    off = {"RefuseNonFinite", "CollapseWatch", "EpochLog", "RunRecord"}
    assert [name for name in everything if name not in off] == few
    assert everything[-1] == "FitHead"


def test_a_training_with_all_of_them(tmp_path: Path) -> None:
    counts = {"train": (8, 8), "validation": (4, 4)}
    crops = write_crop_folder(tmp_path / "crops", counts, size=32)
    settings = CallbackSettings(average=AverageSettings(0.9))
    callbacks = make_callbacks(tmp_path / "run", settings, weights="last")
    trainer = make_trainer(tmp_path, *callbacks)
    task = make_task()
    trainer.fit(task, datamodule=CropDataModule(str(crops), 8))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "environment.json",
        "metrics.csv",
        "metrics.json",
        "curves.svg",
        "model.ckpt",
    }
    average = next(one for one in callbacks if isinstance(one, AverageWeights))
    assert average.average is None  # the network has become it


def test_refuses_a_module_without_an_embedding() -> None:
    with pytest.raises(JobError, match="LightningModule trains no embedding"):
        as_embedding_module(LightningModule())
