"""A training step: its loss, its gradient, its groups of weights, its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from deepfake.errors import JobError, UsageError
from deepfake.learning.checkpoint import KEY
from deepfake.learning.data import CropDataModule
from deepfake.learning.task import TripletTask
from tests import oracles
from tests.made_crops import write_crop_folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (8, 8), "validation": (4, 4), "test": (4, 4)}
    return write_crop_folder(tmp_path_factory.mktemp("task") / "crops", counts, size=32)


def make(**options: Any) -> TripletTask:
    torch.manual_seed(3)
    chosen: dict[str, Any] = {
        "backbone": "test_efficientnet",
        "image_size": 32,
        "embedding_dim": 16,
    }
    return TripletTask(**(chosen | {"drop_path_rate": None} | options))


def fit(task: TripletTask, crops: Path, *, batch_size: int = 16, **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=crops,
        **({"max_epochs": 1} | options),
    )
    trainer.fit(task, datamodule=CropDataModule(str(crops), batch_size, augment_share=0.0))
    return trainer


def weights(task: TripletTask) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in task.named_parameters()}


def test_the_step_is_the_gradient_of_the_oracles_loss(crops: Path) -> None:
    # One batch that holds all crops, plain SGD: the change of weights is the gradient.
    task = make(dropout=0.0, lr=0.5, head_l2=0.02, margin=0.7).double()
    before = weights(task)
    data = CropDataModule(str(crops))
    data.setup()
    dataset = data.datasets["train"]
    images = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
    labels = [int(dataset[i]["label"]) for i in range(len(dataset))]
    mirror = make(dropout=0.0).double()
    mirror.load_state_dict(task.state_dict())
    mirror.train()
    head = mirror.embedder.head.weight
    embeddings = mirror.embedder(images.double() / 255)
    # The embedder answers in float32, as ours did.
    loss = oracles.triplet_loss(embeddings, labels, 0.7) + 0.02 / 2 * (head * head).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    trainer = fit(task, crops, limit_val_batches=0)
    figures = trainer.callback_metrics
    assert float(figures["train_loss"]) == pytest.approx(loss.item(), abs=1e-5)
    for name, parameter in mirror.named_parameters():
        step = (before[name] - weights(task)[name]) / 0.5
        assert parameter.grad is not None
        torch.testing.assert_close(step, parameter.grad, rtol=0, atol=1e-5)


def test_l2_pulls_on_the_heads_weight_alone(crops: Path) -> None:
    before = weights(make())["embedder.head.weight"]
    with_l2, without = make(lr=1.0, head_l2=0.1), make(lr=1.0, head_l2=0.0)
    for task in (with_l2, without):
        fit(task, crops, limit_val_batches=0)
    first, second = weights(with_l2), weights(without)
    for name in first:
        if name == "embedder.head.weight":
            torch.testing.assert_close(second[name] - first[name], 0.1 * before, rtol=0, atol=1e-6)
        else:
            assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_spares_vectors_and_the_head(optimizer: str) -> None:
    task = make(optimizer=optimizer, weight_decay=0.3, cross_entropy_weight=1.0)
    groups = task.configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    decayed, spared = ({id(p) for p in group["params"]} for group in groups)
    for name, parameter in task.named_parameters():
        is_decayed = parameter.ndim >= 2 and name != "embedder.head.weight"
        assert (id(parameter) in decayed) == is_decayed, name
        assert (id(parameter) in spared) == (not is_decayed), name
    assert len(decayed) + len(spared) == len(list(task.parameters()))


def test_the_classifier_has_no_parameters_to_train() -> None:
    assert list(make().classifier.parameters()) == []


def test_cross_entropy_is_added_with_its_weight(crops: Path) -> None:
    task = make(cross_entropy_weight=0.5, triplet_weight=2.0, head_l2=0.0, dropout=0.0)
    trainer = fit(task, crops, limit_val_batches=0)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    extra = (figures["train_loss"] - 2 * figures["train_triplet_loss"]) / 0.5
    assert 0.3 < extra < 1.5


def test_nothing_to_learn_is_an_error() -> None:
    with pytest.raises(UsageError, match="are both 0; nothing to learn"):
        make(triplet_weight=0.0)


def test_logs_what_the_mining_found(crops: Path) -> None:
    task = make()
    figures = fit(task, crops).callback_metrics
    assert float(figures["train_triplets"]) == 2 * 8 * 7
    assert 0 < float(figures["train_ap_distance"]) < 4
    assert 0 < float(figures["train_an_distance"]) < 4
    assert 0 < float(figures["train_active_share"]) <= 1
    assert {"val_loss", "val_auc", "val_eer", "val_accuracy"} <= set(figures)
    assert all(torch.isfinite(value) for value in figures.values())


def test_distances_are_means_over_the_triplets_of_the_epoch(crops: Path) -> None:
    # Two batches of one epoch hold different numbers of triplets.
    seen: list[tuple[float, ...]] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            assert isinstance(pl_module, TripletTask)
            assert pl_module.outcome is not None
            seen.append(tuple(float(figure) for figure in pl_module.outcome))

    figures = fit(make(), crops, batch_size=4, callbacks=[Watch()]).callback_metrics
    assert len({n_triplets for _, n_triplets, *_ in seen}) > 1
    total = sum(n_triplets for _, n_triplets, *_ in seen)
    names = ("train_ap_distance", "train_an_distance", "train_active_share")
    for place, name in enumerate(names, start=2):
        expected = sum(row[1] * row[place] for row in seen) / total
        assert float(figures[name]) == pytest.approx(expected, abs=1e-6), name


def test_a_batch_without_triplets_does_no_harm(tmp_path: Path) -> None:
    # 30 reals and 2 fakes in batches of 4: most batches hold one class only.
    counts = {"train": (30, 2), "validation": (3, 3), "test": (2, 2)}
    root = write_crop_folder(tmp_path / "crops", counts, size=32)
    task = make()
    figures = fit(task, root, batch_size=4).callback_metrics
    assert all(bool(torch.isfinite(p).all()) for p in task.parameters())
    assert 0 < float(figures["train_triplets"]) < 2
    assert "val_auc" in figures


def test_an_epoch_without_a_triplet_stops_the_run(crops: Path) -> None:
    with pytest.raises(JobError, match="no batch of epoch 0 held two crops of one class"):
        fit(make(), crops, batch_size=2)  # a triplet needs three


@pytest.mark.parametrize("where", ["head", "late"])
def test_a_loss_that_is_no_number_stops_the_run(crops: Path, where: str) -> None:
    task = make()
    if where == "head":
        with torch.no_grad():
            task.embedder.head.weight.fill_(torch.nan)
        with pytest.raises(JobError, match=r"the loss became nan in epoch 0, step 0, at lr 0\.01"):
            fit(task, crops)
    else:
        # The last step of an epoch may break the weights; no loss sees it any more.
        task = make(lr=1e30)
        with pytest.raises(JobError, match="became NaN in epoch 0; no checkpoint was written yet"):
            fit(task, crops)


def test_refuses_crops_of_another_size(crops: Path) -> None:
    with pytest.raises(UsageError, match=r"have 32 px, model\.image_size is 64: pass --model"):
        fit(make(image_size=64), crops)


def test_dropout_follows_from_seed_epoch_and_batch(crops: Path) -> None:
    results = []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        task = make(seed=seed, dropout=0.5)
        torch.manual_seed(noise)
        fit(task, crops, limit_val_batches=0)
        results.append(weights(task)["embedder.head.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_forward_embeds() -> None:
    task = make().eval()
    images = torch.zeros(2, 3, 32, 32)
    assert torch.equal(task(images), task.embedder(images))


def test_refuses_to_go_on_with_other_crops() -> None:
    task = make()
    task.info = {"manifest_sha256": "a" * 64}
    task.on_load_checkpoint({KEY: {"manifest_sha256": "a" * 64}, "state_dict": {}})
    with pytest.raises(UsageError, match=r"trained on other crops .*sha256 bbbbbbbbbbbb, this one"):
        task.on_load_checkpoint({KEY: {"manifest_sha256": "b" * 64}})


class _Rates(Callback):
    """The learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


def test_one_cycle_spans_the_whole_training(crops: Path) -> None:
    rates, task = _Rates(), make(schedule="one_cycle", optimizer="adamw", lr=1e-3)
    fit(task, crops, max_epochs=3, batch_size=4, limit_val_batches=0, callbacks=[rates])
    assert len(rates.seen) == 12
    assert max(rates.seen) == pytest.approx(1e-3, rel=0.05)
    assert rates.seen.index(max(rates.seen)) in (1, 2)
    assert rates.seen[-1] < 1e-6


def test_a_constant_rate_is_constant(crops: Path) -> None:
    rates = _Rates()
    fit(make(lr=0.02), crops, max_epochs=2, batch_size=4, callbacks=[rates])
    assert rates.seen == [0.02] * 8


def test_validation_figures_come_from_training_embeddings_only(crops: Path) -> None:
    task = make()
    seen: list[int] = []
    original = task.on_validation_epoch_end

    def count() -> None:
        seen.append(sum(len(labels) for _, labels in task._recent))
        original()

    task.on_validation_epoch_end = count  # type: ignore[method-assign]
    fit(task, crops, batch_size=8, max_epochs=2)
    assert seen == [16, 16]
