"""Who fits the head on what, and who chooses the limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.rows import CropRow
from deepfake.errors import JobError, UsageError
from deepfake.heads import rbf as kernel
from deepfake.heads.calibration import cross_fit, fit_sigmoid
from deepfake.heads.linear import LinearSVM
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.learning.data import CropDataModule
from deepfake.thresholds import choose_limits
from deepfake.training.callbacks.head import FitHead, embed
from tests import oracles
from tests.made_crops import write_crop_folder, write_tables
from tests.made_task import make_task
from tests.made_trainer import make_trainer

COUNTS = {"train": (16, 12), "validation": (9, 7), "test": (5, 5)}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("fit") / "crops", COUNTS, size=32)


def train(crops: Path, folder: Path, weights: Any = "last") -> Checkpoint:
    trainer = make_trainer(folder, FitHead(folder, weights=weights))
    trainer.fit(make_task(), datamodule=CropDataModule(str(crops), batch_size=8))
    return load_checkpoint(folder / "model.ckpt")


def scores_of(model: Checkpoint, crops: Path, split: str) -> tuple[list[int], list[float]]:
    data = CropDataModule(str(crops))
    data.setup()
    rows = data.datasets[split]
    with torch.inference_mode():
        images = torch.stack([rows[i]["image"] for i in range(len(rows))])
        p_fake = model.head(model.embedder(images))
    return [int(rows[i]["label"]) for i in range(len(rows))], p_fake.tolist()


def test_sigmoid_and_limits_are_those_of_validation(crops: Path, tmp_path: Path) -> None:
    model = train(crops, tmp_path)
    data = CropDataModule(str(crops))
    data.setup()
    rows = data.datasets["validation"]
    with torch.inference_mode():
        images = torch.stack([rows[i]["image"] for i in range(len(rows))])
        decisions = model.head.compute_decisions(model.embedder(images))
    slope, offset = fit_sigmoid(decisions, rows.labels)
    assert float(model.head.slope_) == pytest.approx(slope, rel=1e-3)
    assert float(model.head.offset_) == pytest.approx(offset, rel=1e-2, abs=1e-3)
    held_out = cross_fit(decisions, rows.labels, [row.group for row in rows.rows])
    expected = choose_limits(held_out[rows.labels == 0], rows.labels, held_out)
    assert model.limits.real == pytest.approx(expected.limits.real, abs=1e-4)
    assert model.limits.fake == pytest.approx(expected.limits.fake, abs=1e-4)
    rates = model.error_rates
    assert rates is not None
    assert (rates.n_real, rates.n_fake, rates.n_supported) == (9, 7, 0)
    assert rates.origin == "the validation split"
    assert model.chosen_for == model.recipe


def test_metrics_are_those_of_the_model_that_was_written(crops: Path, tmp_path: Path) -> None:
    model = train(crops, tmp_path)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["limits"] == model.limits.to_dict()
    assert report["error_rates"] == model.info["error_rates"]
    assert report["epoch"] == 0
    for split, (n_real, n_fake) in COUNTS.items():
        labels, scores = scores_of(model, crops, split)
        figures = report[split]
        assert figures == model.info["metrics"][split]
        assert (figures["n_real"], figures["n_fake"]) == (n_real, n_fake)
        auc, eer = figures["auc"], figures["eer"]
        assert auc == pytest.approx(oracles.area_under_curve(labels, scores), abs=1e-6)
        assert eer == pytest.approx(oracles.equal_error_rate(labels, scores), abs=1e-6)
        right = [(s >= 0.5) == (y == 1) for y, s in zip(labels, scores, strict=True)]
        assert figures["accuracy"] == pytest.approx(sum(right) / len(right))


def test_a_head_that_cannot_be_fitted_is_refused_before_the_training(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CropDataModule(str(crops))
    data.setup()
    task = make_task()
    trainer = SimpleNamespace(datamodule=data)
    refuse = FitHead(tmp_path, name="rbf").on_fit_start
    refuse(trainer, task)  # type: ignore[arg-type]
    monkeypatch.setattr(kernel, "MAX_ROWS", 3)
    with pytest.raises(UsageError, match="would take hours"):
        refuse(trainer, task)  # type: ignore[arg-type]


def test_what_validation_cannot_carry_is_refused_before_the_training(tmp_path: Path) -> None:
    crops = write_crop_folder(tmp_path / "crops", {"train": (8, 8), "validation": (1, 7)}, size=32)
    data = CropDataModule(str(crops))
    data.setup()
    trainer = SimpleNamespace(datamodule=data)
    with pytest.raises(UsageError, match="validation split has 1 real and 7 fake crops"):
        FitHead(tmp_path).on_fit_start(trainer, make_task())  # type: ignore[arg-type]
    for rates in ({"max_fpr": 0.0}, {"max_fnr": 1.0}):
        name = next(iter(rates))
        with pytest.raises(UsageError, match=f"head.{name}=.*; expected a rate above 0"):
            FitHead(tmp_path, **rates)  # type: ignore[arg-type]


def flipped(root: Path, split: str) -> Path:
    def flip(row: CropRow) -> CropRow:
        return replace(row, label=1 - (row.label or 0)) if row.split == split else row

    write_tables(root, [flip(row) for row in read_manifest(root).rows])
    return root


def test_the_classifier_sees_the_training_split_only(tmp_path: Path) -> None:
    models = {}
    for changed in ("nothing", "validation", "test", "train"):
        root = flipped(write_crop_folder(tmp_path / changed, COUNTS, size=32), changed)
        models[changed] = train(root, tmp_path / f"run-{changed}")
    for part in ("weight_", "intercept_", "slope_", "offset_"):
        plain = getattr(models["nothing"].head, part)
        same = torch.equal(plain, getattr(models["validation"].head, part))
        assert same == (part in ("weight_", "intercept_")), part
        assert torch.equal(plain, getattr(models["test"].head, part))
    weights = [models[name].head.state_dict()["weight_"] for name in ("nothing", "train")]
    assert not torch.equal(*weights)
    assert models["validation"].limits != models["nothing"].limits
    assert models["test"].limits == models["nothing"].limits


def test_the_head_is_fitted_on_embeddings_of_plain_crops(crops: Path, tmp_path: Path) -> None:
    model = train(crops, tmp_path)
    data = CropDataModule(str(crops))
    data.setup()
    rows = data.datasets["train"]
    with torch.inference_mode():
        embeddings = model.embedder(torch.stack([rows[i]["image"] for i in range(len(rows))]))
    again = LinearSVM(16).fit_classifier(embeddings, rows.labels)
    torch.testing.assert_close(again.weight_, model.head.weight_, rtol=0, atol=1e-4)


class _RiggedAuc(Callback):
    """Reports the figures given instead of the true ones, and moves a weight each epoch."""

    def __init__(self, figures: list[float]) -> None:
        self.figures = figures

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics["val_auc"] = torch.tensor(self.figures[trainer.current_epoch])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics["val_auc"] = torch.tensor(self.figures[trainer.current_epoch])


@pytest.mark.parametrize(
    ("weights", "epoch"), [pytest.param("best", 1, id="best"), pytest.param("last", 2, id="last")]
)
def test_weights_of_the_chosen_epoch(crops: Path, tmp_path: Path, weights: Any, epoch: int) -> None:
    own = ModelCheckpoint(tmp_path / "own", monitor="val_loss")  # of the user, and first
    kept = ModelCheckpoint(tmp_path, "e{epoch}", monitor="val_auc", mode="max", save_top_k=1)
    every = ModelCheckpoint(tmp_path / "all", "{epoch}", save_top_k=-1)
    fit = FitHead(tmp_path / "run", weights=weights)
    rigged = _RiggedAuc([0.5, 0.9, 0.7])
    trainer = make_trainer(tmp_path, rigged, own, kept, every, fit, max_epochs=3)
    trainer.fit(make_task(), datamodule=CropDataModule(str(crops), batch_size=8))
    model = load_checkpoint(tmp_path / "run" / "model.ckpt")
    chosen = torch.load(tmp_path / "all" / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"]
    for name, value in model.embedder.state_dict().items():
        assert torch.equal(value, chosen[f"embedder.{name}"]), name
    assert model.info["weights"] == f"epoch {epoch} ({weights})"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epoch"] == epoch


def test_without_a_best_epoch_the_last_one_is_named(crops: Path, tmp_path: Path) -> None:
    fit = FitHead(tmp_path / "run", weights="best")
    trainer = make_trainer(tmp_path, fit, max_epochs=1)
    trainer.fit(make_task(), datamodule=CropDataModule(str(crops), batch_size=8))
    assert load_checkpoint(tmp_path / "run" / "model.ckpt").info["weights"] == "epoch 0 (last)"


def test_without_a_test_split(tmp_path: Path) -> None:
    counts = {"train": (6, 6), "validation": (4, 4)}
    crops = write_crop_folder(tmp_path / "crops", counts, size=32)
    model = train(crops, tmp_path / "run")
    assert set(model.info["metrics"]) == {"train", "validation"}


def test_refuses_other_modules() -> None:
    data = SimpleNamespace(datamodule=CropDataModule("none"))
    with pytest.raises(JobError, match="LightningModule trains no embedding"):
        FitHead("run").on_train_end(data, LightningModule())  # type: ignore[arg-type]
    with pytest.raises(JobError, match="works with CropDataModule only"):
        FitHead("run").on_train_end(SimpleNamespace(datamodule=None), make_task())  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2], ids="workers-{}".format)
def test_embed_keeps_order_and_mode(crops: Path, workers: int) -> None:
    data = CropDataModule(str(crops), batch_size=5, num_workers=workers)
    data.setup()
    task = make_task(dropout=0.5).train()
    task.trainer = trainer = make_trainer(crops)
    trainer.datamodule = data  # type: ignore[attr-defined]
    rows = data.datasets["validation"]
    found = embed(trainer, task, rows)
    assert task.training
    assert task.embedder.training
    with torch.inference_mode():
        task.eval()
        alone = torch.cat([task.embedder(rows[i]["image"][None]) for i in range(len(rows))])
    assert (found.dtype, tuple(found.shape)) == (torch.float32, (16, 16))
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
