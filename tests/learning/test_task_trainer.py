"""What Lightning's users do: fit, validate, test, predict and load, with a plain Trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from deepfake.errors import CheckpointError, UsageError
from deepfake.learning.checkpoint import KEY, load_checkpoint
from deepfake.learning.checkpoint_file import seal
from deepfake.learning.data import CropDataModule
from deepfake.learning.losses import CrossEntropyOnEmbedding
from deepfake.learning.optimization import OneCycle
from deepfake.learning.task import EmbeddingTask
from deepfake.metrics import compute_auc
from deepfake.training.callbacks.averaging import AverageWeights
from deepfake.training.callbacks.head import FitHead
from tests.made_crops import write_crop_folder
from tests.made_task import adamw, make_task
from tests.made_trainer import make_trainer

COUNTS = {"train": (16, 12), "validation": (9, 7), "test": (5, 5)}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("citizen") / "crops", COUNTS, size=32)


@pytest.fixture(scope="module")
def run(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model.ckpt`` and ``last.ckpt`` of a finished training."""
    folder = tmp_path_factory.mktemp("run")
    kept = ModelCheckpoint(folder, "last", enable_version_counter=False)
    trainer = make_trainer(folder, kept, AverageWeights(0.9), FitHead(folder), max_epochs=2)
    trainer.fit(make_task(dropout=0.1), datamodule=make_data(crops))
    return folder


def make_data(crops: Path, num_workers: int = 0) -> CropDataModule:
    return CropDataModule(str(crops), batch_size=8, num_workers=num_workers)


def test_crops_in_a_tar_train_the_same_weights(crops: Path, tmp_path: Path) -> None:
    """Read by a loader process."""
    tar = write_crop_folder(tmp_path / "tar", COUNTS, size=32, store="tar")
    states = []
    for data in (make_data(crops), make_data(tar, num_workers=1)):
        task = make_task(dropout=0.1)
        make_trainer(tmp_path).fit(task, datamodule=data)
        states.append(task.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


def test_a_finished_model_comes_back_with_head_and_limits(run: Path) -> None:
    task, plain = (
        EmbeddingTask.load_from_checkpoint(run / "model.ckpt"),
        load_checkpoint(run / "model.ckpt"),
    )
    for name, value in plain.embedder.state_dict().items():
        assert torch.equal(task.embedder.state_dict()[name], value), name
    rows = torch.nn.functional.normalize(torch.randn(20, 16))
    assert task.head is not None
    assert torch.equal(task.head(rows), plain.head(rows))
    assert task.info["limits"] == plain.limits.to_dict()
    assert task.hparams["dropout"] == 0.1


def test_a_checkpoint_of_mid_training_comes_back_without_a_head(run: Path) -> None:
    task = EmbeddingTask.load_from_checkpoint(str(run / "last.ckpt"))
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(task.embedder.projection.weight, state["embedder.projection.weight"])
    assert task.head is None
    assert task.info["limits"] is None


def test_loading_asks_no_hub_and_no_file_again(crops: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(make_task().embedder.backbone.state_dict(), weights)
    task = make_task(pretrained=str(weights))
    trainer = make_trainer(tmp_path)
    trainer.fit(task, datamodule=make_data(crops))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    weights.unlink()
    again = EmbeddingTask.load_from_checkpoint(tmp_path / "x.ckpt")
    assert again.hparams["pretrained"] is False
    assert again.info["initial_weights"] == str(weights)


def test_what_an_objective_has_learnt_comes_back_where_it_is_given(
    crops: Path, tmp_path: Path
) -> None:
    task = make_task(objective=CrossEntropyOnEmbedding(), optimizer=adamw())
    trainer = make_trainer(tmp_path)
    trainer.fit(task, datamodule=make_data(crops))
    path = tmp_path / "x.ckpt"
    trainer.save_checkpoint(path)
    again = EmbeddingTask.load_from_checkpoint(path, objective=CrossEntropyOnEmbedding())
    for name, value in task.objective.state_dict().items():
        assert torch.equal(again.objective.state_dict()[name], value), name
    (before,) = make_trainer(tmp_path).validate(task, datamodule=make_data(crops), verbose=False)
    (after,) = make_trainer(tmp_path).validate(again, datamodule=make_data(crops), verbose=False)
    assert after["val_loss"] == before["val_loss"]


def edit(path: Path, target: Path, change: Any) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    if KEY in content:
        seal(content)
    torch.save(content, target)
    return target


def test_nothing_that_a_checkpoint_names_is_imported(run: Path, tmp_path: Path) -> None:
    def name_code(content: dict[str, Any]) -> None:
        content["hyper_parameters"] |= {
            "_instantiator": "antigravity.fly",
            "optimizer": {"class_path": "antigravity.Optimizer"},
        }
        content["deepfake_run"]["optimizer"] = "antigravity.Optimizer"

    path = edit(run / "last.ckpt", tmp_path / "evil.ckpt", name_code)
    assert EmbeddingTask.load_from_checkpoint(path).head is None
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(lambda c: c.pop(KEY), "was not written by deepfake", id="foreign"),
        pytest.param(
            lambda c: c["hyper_parameters"].pop("dropout"), "does not fit this version", id="part"
        ),
        pytest.param(
            lambda c: c["hyper_parameters"].update(embedding_dim=17), "does not fit its", id="width"
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    run: Path, tmp_path: Path, change: Any, problem: str
) -> None:
    path = edit(run / "model.ckpt", tmp_path / "x.ckpt", change)
    with pytest.raises(CheckpointError, match=problem):
        EmbeddingTask.load_from_checkpoint(path)


def test_validate_and_test_score_with_the_fitted_head(crops: Path, run: Path) -> None:
    task = EmbeddingTask.load_from_checkpoint(run / "model.ckpt")
    expected = task.info["metrics"]
    (validated,) = make_trainer(run).validate(task, datamodule=make_data(crops), verbose=False)
    (tested,) = make_trainer(run).test(task, datamodule=make_data(crops), verbose=False)
    for found, prefix, split in ((validated, "val", "validation"), (tested, "test", "test")):
        for name in ("auc", "eer", "accuracy"):
            assert found[f"{prefix}_{name}"] == pytest.approx(expected[split][name]), name
        assert 0 < found[f"{prefix}_loss"] < 2


def test_another_checkpoint_can_be_named_instead(crops: Path, run: Path) -> None:
    # Lightning's own way: the task that is given takes network, head and limits of the file.
    task = make_task(dropout=0.1, objective=CrossEntropyOnEmbedding())
    options: dict[str, Any] = {"datamodule": make_data(crops), "verbose": False}
    (tested,) = make_trainer(run).test(task, ckpt_path=run / "model.ckpt", **options)
    loaded = EmbeddingTask.load_from_checkpoint(run / "model.ckpt")
    assert tested["test_auc"] == pytest.approx(loaded.info["metrics"]["test"]["auc"])
    assert task.info["limits"] == loaded.info["limits"]


def test_predict_gives_score_embedding_and_name_of_every_crop(crops: Path, run: Path) -> None:
    task, data = EmbeddingTask.load_from_checkpoint(run / "model.ckpt"), make_data(crops)
    data.setup()
    rows = data.datasets["test"].rows
    trainer = make_trainer(run)
    batches: Any = trainer.predict(task, dataloaders=data.test_dataloader())
    names = [name for batch in batches for name in batch["crop"]]
    scores = torch.cat([batch["p_fake"] for batch in batches])
    embeddings = torch.cat([batch["embedding"] for batch in batches])
    assert names == [row.crop for row in rows]
    assert embeddings.shape == (10, 16)
    assert task.head is not None
    assert torch.equal(scores, task.head(embeddings))
    labels = torch.tensor([row.label for row in rows]).numpy()
    assert compute_auc(labels, scores.numpy()) == task.info["metrics"]["test"]["auc"]


def test_predict_without_a_head_says_how_to_get_one(crops: Path, run: Path) -> None:
    data = make_data(crops)
    data.setup()
    with pytest.raises(UsageError, match="no fitted head: fit one with deepfake fit-head"):
        make_trainer(run).predict(make_task(), dataloaders=data.test_dataloader())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(
            {"optimizer": adamw()},
            r"begun with model\.optimizer='torch\.optim\.sgd\.SGD'",
            id="optimizer",
        ),
        pytest.param({"schedule": OneCycle}, r"begun with model\.schedule=None", id="schedule"),
        pytest.param(
            {"objective": CrossEntropyOnEmbedding()}, r"another model\.objective", id="objective"
        ),
        pytest.param(
            {"embedding_dim": 8}, r"model\.network\.embedding_dim=16, now it is 8", id="width"
        ),
        pytest.param({"levels": 2}, r"model\.network\.levels=0, now it is 2", id="levels"),
    ],
)
def test_refuses_to_go_on_as_another_training(
    crops: Path, run: Path, options: dict[str, Any], problem: str
) -> None:
    task = make_task(dropout=0.1, **options)
    trainer = make_trainer(run, AverageWeights(0.9), max_epochs=3)
    with pytest.raises(UsageError, match=problem):
        trainer.fit(task, datamodule=make_data(crops), ckpt_path=run / "last.ckpt")
