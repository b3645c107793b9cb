"""What Lightning users do from a script: a plain Trainer and public names only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from deepfake.dataset.manifest import read_manifest
from deepfake.errors import UsageError
from deepfake.learning.data import CropDataModule
from deepfake.learning.task import EmbeddingTask
from deepfake.training.callbacks.head import FitHead
from tests.made_crops import COUNTS, write_crop_folder

N_TEST = sum(COUNTS["test"])


def make_trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """Nothing of ours but the callbacks; no word on the terminal."""
    return Trainer(
        max_epochs=options.pop("max_epochs", 1),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **options,
    )


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("lightning") / "crops")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local file of weights, gone as soon as a network was made of it."""
    file = tmp_path_factory.mktemp("weights") / "backbone.pth"
    task = EmbeddingTask("test_efficientnet", image_size=64)
    torch.save(task.embedder.backbone.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def run(crops: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model.ckpt`` and, of mid-training, ``checkpoints/last.ckpt``."""
    folder = tmp_path_factory.mktemp("run")
    task = EmbeddingTask("test_efficientnet", image_size=64, pretrained=str(weights))
    weights.unlink()
    last = ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False)
    trainer = make_trainer(folder, last, FitHead(folder))
    trainer.fit(task, datamodule=CropDataModule(str(crops), batch_size=8))
    return folder


def test_validate_and_test_measure_the_finished_model(run: Path, crops: Path) -> None:
    data = CropDataModule(str(crops), batch_size=8)
    task = EmbeddingTask.load_from_checkpoint(run / "model.ckpt")
    trainer = make_trainer(run, enable_checkpointing=False)
    (validated,) = trainer.validate(task, datamodule=data, verbose=False)
    (tested,) = trainer.test(task, datamodule=data, verbose=False)
    kept = task.info["metrics"]
    assert validated["val_auc"] == pytest.approx(kept["validation"]["auc"])
    assert validated["val_accuracy"] == pytest.approx(kept["validation"]["accuracy"])
    assert tested["test_auc"] == pytest.approx(kept["test"]["auc"])
    assert tested["test_accuracy"] == pytest.approx(kept["test"]["accuracy"])


def test_predict_tells_score_embedding_and_name(run: Path, crops: Path) -> None:
    task = EmbeddingTask.load_from_checkpoint(run / "model.ckpt")
    trainer = make_trainer(run, enable_checkpointing=False)
    batches: Any = trainer.predict(task, datamodule=CropDataModule(str(crops), batch_size=8))
    names = [name for batch in batches for name in batch["crop"]]
    embeddings = torch.cat([batch["embedding"] for batch in batches])  # (N, D)
    p_fake = torch.cat([batch["p_fake"] for batch in batches])  # (N,)
    rows = {row.crop: row for row in read_manifest(crops).rows}
    assert len(names) == len(set(names)) >= N_TEST
    assert set(names) <= set(rows)
    assert embeddings.shape == (len(names), 512)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(names)))
    assert task.head is not None
    torch.testing.assert_close(p_fake, task.head(embeddings))
    assert bool(((p_fake >= 0) & (p_fake <= 1)).all())


def test_a_checkpoint_brings_network_head_and_limits(run: Path, crops: Path) -> None:
    # The file that the weights came from is gone, and no test may ask a hub.
    first, second = (EmbeddingTask.load_from_checkpoint(run / "model.ckpt") for _ in range(2))
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        embeddings = first.eval()(images)
        assert torch.equal(embeddings, second.eval()(images))
    assert first.head is not None
    assert second.head is not None
    assert torch.equal(first.head(embeddings), second.head(embeddings))
    assert first.info["limits"] == second.info["limits"]
    assert first.info["limits"] is not None


def test_a_checkpoint_of_mid_training_is_a_network_without_a_head(run: Path, crops: Path) -> None:
    finished = EmbeddingTask.load_from_checkpoint(run / "model.ckpt")
    task = EmbeddingTask.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    assert task.head is None
    for name, value in finished.embedder.state_dict().items():
        assert torch.equal(task.embedder.state_dict()[name], value), name
    trainer = make_trainer(run, enable_checkpointing=False)
    with pytest.raises(UsageError, match=r"no fitted head.*fit-head"):
        trainer.predict(task, datamodule=CropDataModule(str(crops), batch_size=8))


def test_a_plain_trainer_goes_on_from_a_checkpoint(run: Path, crops: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    trainer = make_trainer(tmp_path, max_epochs=2)
    task = EmbeddingTask("test_efficientnet", image_size=64)
    data = CropDataModule(str(crops), batch_size=8)
    trainer.fit(task, datamodule=data, ckpt_path=str(last), weights_only=True)
    assert trainer.current_epoch == 2
    assert trainer.global_step == 8


def test_a_model_can_be_trained_further(run: Path, crops: Path, tmp_path: Path) -> None:
    task = EmbeddingTask.load_from_checkpoint(run / "model.ckpt")
    trainer = make_trainer(tmp_path, FitHead(tmp_path), limit_train_batches=1)
    trainer.fit(task, datamodule=CropDataModule(str(crops), batch_size=8))
    assert (tmp_path / "model.ckpt").is_file()
