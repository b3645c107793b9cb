"""Who fits the head on what, who chooses the threshold, and who warns of a collapse."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from deepfake.dataset.manifest import CropRow, read_manifest
from deepfake.errors import JobError, UsageError
from deepfake.heads import LinearSVM
from deepfake.heads import rbf as kernel
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.learning.data import CropDataModule
from deepfake.learning.losses import TripletOutcome
from deepfake.learning.task import EmbeddingTask
from deepfake.training.callbacks import all as callbacks_module
from deepfake.training.callbacks.all import CollapseGuard, EpochLog, FitHead, RunRecord, embed
from tests import oracles
from tests.made_crops import write_crop_folder, write_tables
from tests.made_trainer import make_trainer

COUNTS = {"train": (16, 12), "validation": (9, 7), "test": (5, 5)}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("fit") / "crops", COUNTS, size=32)


def make_task(**options: Any) -> EmbeddingTask:
    torch.manual_seed(3)
    chosen: dict[str, Any] = {"image_size": 32, "embedding_dim": 16, "drop_path_rate": None}
    return EmbeddingTask("test_efficientnet", **(chosen | options))


def train(crops: Path, folder: Path, weights: Any = "last") -> Checkpoint:
    trainer = make_trainer(folder, FitHead(str(folder), weights))
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


def test_threshold_is_the_best_on_validation(crops: Path, tmp_path: Path) -> None:
    model = train(crops, tmp_path)
    labels, scores = scores_of(model, crops, "validation")
    assert oracles.balanced_accuracy(labels, scores, model.threshold) == pytest.approx(
        oracles.best_balanced_accuracy(labels, scores)
    )
    assert "validation" in model.info["threshold_origin"]


def test_metrics_are_those_of_the_model_that_was_written(crops: Path, tmp_path: Path) -> None:
    model = train(crops, tmp_path)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["threshold"] == model.threshold
    assert report["epoch"] == 0
    for split, (n_real, n_fake) in COUNTS.items():
        labels, scores = scores_of(model, crops, split)
        figures = report[split]
        assert figures == model.info["metrics"][split]
        assert (figures["n_real"], figures["n_fake"]) == (n_real, n_fake)
        auc, eer = figures["auc"], figures["eer"]
        assert auc == pytest.approx(oracles.area_under_curve(labels, scores), abs=1e-6)
        assert eer == pytest.approx(oracles.equal_error_rate(labels, scores), abs=1e-6)
        right = [(s >= model.threshold) == (y == 1) for y, s in zip(labels, scores, strict=True)]
        assert figures["accuracy"] == pytest.approx(sum(right) / len(right))


def test_a_head_that_cannot_be_fitted_is_refused_before_the_training(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CropDataModule(str(crops))
    data.setup()
    task = EmbeddingTask("test_efficientnet", 32, 16, dropout=0.0, head="rbf")
    trainer = SimpleNamespace(datamodule=data)
    refuse = FitHead(str(tmp_path)).on_fit_start
    refuse(trainer, task)  # type: ignore[arg-type]
    monkeypatch.setattr(kernel, "MAX_ROWS", 3)
    with pytest.raises(UsageError, match="would take hours"):
        refuse(trainer, task)  # type: ignore[arg-type]


def flipped(root: Path, split: str) -> Path:
    def flip(row: CropRow) -> CropRow:
        return replace(row, label=1 - (row.label or 0)) if row.split == split else row

    write_tables(root, [flip(row) for row in read_manifest(root).rows])
    return root


def test_the_head_sees_the_training_split_only(tmp_path: Path) -> None:
    models = {}
    for changed in ("nothing", "validation", "test", "train"):
        root = flipped(write_crop_folder(tmp_path / changed, COUNTS, size=32), changed)
        models[changed] = train(root, tmp_path / f"run-{changed}")
    for part in ("weight_", "intercept_", "slope_", "offset_"):
        plain = getattr(models["nothing"].head, part)
        assert torch.equal(plain, getattr(models["validation"].head, part))
        assert torch.equal(plain, getattr(models["test"].head, part))
    weights = [models[name].head.state_dict()["weight_"] for name in ("nothing", "train")]
    assert not torch.equal(*weights)
    assert models["validation"].threshold != models["nothing"].threshold
    assert models["test"].threshold == models["nothing"].threshold


def test_the_head_is_fitted_on_embeddings_of_plain_crops(crops: Path, tmp_path: Path) -> None:
    model = train(crops, tmp_path)
    data = CropDataModule(str(crops))
    data.setup()
    rows = data.datasets["train"]
    with torch.inference_mode():
        embeddings = model.embedder(torch.stack([rows[i]["image"] for i in range(len(rows))]))
    labels, groups = [row.label or 0 for row in rows.rows], [row.group for row in rows.rows]
    again = LinearSVM(16).fit(embeddings, labels, groups)
    torch.testing.assert_close(again.weight_, model.head.weight_, rtol=0, atol=1e-4)
    torch.testing.assert_close(again.slope_, model.head.slope_, rtol=0, atol=1e-3)


class _RiggedAuc(Callback):
    """Reports the figures given instead of the true ones, and moves a weight each epoch."""

    def __init__(self, figures: list[float]) -> None:
        self.figures = figures

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics["val_auc"] = torch.tensor(self.figures[trainer.current_epoch])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, EmbeddingTask)
        trainer.callback_metrics["val_auc"] = torch.tensor(self.figures[trainer.current_epoch])


@pytest.mark.parametrize(
    ("weights", "epoch"), [pytest.param("best", 1, id="best"), pytest.param("last", 2, id="last")]
)
def test_weights_of_the_chosen_epoch(crops: Path, tmp_path: Path, weights: Any, epoch: int) -> None:
    kept = ModelCheckpoint(tmp_path, "e{epoch}", monitor="val_auc", mode="max", save_top_k=1)
    every = ModelCheckpoint(tmp_path / "all", "{epoch}", save_top_k=-1)
    fit = FitHead(str(tmp_path / "run"), weights)
    trainer = make_trainer(tmp_path, _RiggedAuc([0.5, 0.9, 0.7]), kept, every, fit, max_epochs=3)
    trainer.fit(make_task(), datamodule=CropDataModule(str(crops), batch_size=8))
    model = load_checkpoint(tmp_path / "run" / "model.ckpt")
    chosen = torch.load(tmp_path / "all" / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"]
    for name, value in model.embedder.state_dict().items():
        assert torch.equal(value, chosen[f"embedder.{name}"]), name
    assert model.info["weights"] == f"epoch {epoch} ({weights})"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epoch"] == epoch


def test_without_a_test_split(tmp_path: Path) -> None:
    counts = {"train": (6, 6), "validation": (4, 4)}
    crops = write_crop_folder(tmp_path / "crops", counts, size=32)
    model = train(crops, tmp_path / "run")
    assert set(model.info["metrics"]) == {"train", "validation"}


def test_refuses_other_modules() -> None:
    with pytest.raises(JobError, match="works with EmbeddingTask and CropDataModule only"):
        FitHead("run").on_train_end(
            type("T", (), {"datamodule": None})(),
            LightningModule(),
        )


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


# Collapse


def watch(guard: CollapseGuard, steps: list[tuple[float, float] | None]) -> None:
    task = make_task()
    for step in steps:
        loss, distance = step or (0.0, 0.0)
        n_triplets = torch.tensor(0 if step is None else 12)
        rest = torch.tensor(distance)
        task.outcome = TripletOutcome(torch.tensor(loss), n_triplets, rest, rest, rest)
        guard.on_train_batch_end(Trainer(logger=False, accelerator="cpu"), task, None, None, 0)


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
    watch(CollapseGuard(steps=5), steps)
    assert caplog.text.count("collapse:") == warnings


@pytest.mark.parametrize(
    ("collapsed", "warnings"),
    [pytest.param(True, 1, id="collapsed"), pytest.param(False, 0, id="healthy")],
)
def test_collapse_in_a_real_training(
    crops: Path, collapsed: bool, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(lr=0.0)
    if collapsed:
        with torch.no_grad():
            task.embedder.projection.weight.zero_()
            task.embedder.projection.bias.fill_(1)
    trainer = make_trainer(crops, CollapseGuard(steps=3), max_epochs=2, limit_val_batches=0)
    trainer.fit(task, datamodule=CropDataModule(str(crops), batch_size=8))
    assert caplog.text.count("collapse:") == warnings


def test_a_line_per_epoch(crops: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="deepfake.training.callbacks.all")
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
    monkeypatch.setattr(callbacks_module, "time", made)
    return made


class _Progress:
    """What the log asks a Trainer: epoch 1 of 0 to 2, ten steps each."""

    def __init__(self, data: CropDataModule | None = None) -> None:
        self.current_epoch, self.max_epochs, self.num_training_batches = 1, 3, 10
        self.datamodule = data
        self.callback_metrics: dict[str, float] = {}


def walk(log: EpochLog, clock: _Clock, trainer: Any, steps: int, step_s: float) -> None:
    for step in range(steps):
        clock.now_s += step_s if step else 50.0  # the first one compiles
        log.on_train_batch_end(trainer, make_task(), None, None, step)


def test_time_left_counts_what_this_process_did(clock: _Clock, crops: Path) -> None:
    log, trainer = EpochLog(every_s=1e9), _Progress()
    log.on_train_start(trainer, make_task())  # type: ignore[arg-type]
    assert log.seconds_left(trainer, 0) is None  # type: ignore[arg-type]
    walk(log, clock, trainer, 10, 2.0)
    log.on_validation_start(trainer, make_task())  # type: ignore[arg-type]
    clock.now_s += 7.0
    log.on_validation_end(trainer, make_task())  # type: ignore[arg-type]
    # A resumed run did the first epoch elsewhere; one epoch of 10 steps and 7 s is left.
    assert log.seconds_left(trainer, 10) == pytest.approx(10 * 2.0 + 7.0)  # type: ignore[arg-type]


def test_time_left_before_the_first_epoch_ends(clock: _Clock, crops: Path) -> None:
    data = CropDataModule(str(crops), batch_size=8)
    data.setup()
    log, trainer = EpochLog(every_s=1e9), _Progress(data)
    log.on_train_start(trainer, make_task())  # type: ignore[arg-type]
    walk(log, clock, trainer, 4, 2.0)
    # 6 + 10 steps of 2 s, and two validations of 16 crops at a third of 2 s per 8.
    expected = 16 * 2.0 + 2 * (2.0 / 3 * 16 / 8)
    assert log.seconds_left(trainer, 4) == pytest.approx(expected)  # type: ignore[arg-type]
    trainer.max_epochs = -1
    assert log.seconds_left(trainer, 4) is None  # type: ignore[arg-type]


def test_a_line_now_and_then_within_an_epoch(
    clock: _Clock, caplog: pytest.LogCaptureFixture, crops: Path
) -> None:
    caplog.set_level(logging.INFO, logger="deepfake.training.callbacks.all")
    data = CropDataModule(str(crops), batch_size=8)
    data.setup()
    log, trainer = EpochLog(every_s=30.0), _Progress(data)
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
    assert lines[1].endswith("6 min left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, ""),
        (20.0, "  less than a minute left"),
        (3000.0, "  50 min left"),
        (11_100.0, "  3 h 05 min left"),
    ],
)
def test_words_for_the_time_left(seconds: float | None, text: str) -> None:
    assert callbacks_module._format_left(seconds) == text


def test_the_warning_names_the_heads_norm(caplog: pytest.LogCaptureFixture) -> None:
    watch(CollapseGuard(steps=2), [STUCK] * 3)
    assert "norm of the head: " in caplog.text


def test_a_run_that_fails_leaves_its_curves(crops: Path, tmp_path: Path) -> None:
    task, record = make_task(), RunRecord(str(tmp_path))
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
