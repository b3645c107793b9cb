"""A training step: its loss, its gradient, its chunks, its refusals."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from deepfake.errors import UsageError
from deepfake.learning.checkpoint import KEY
from deepfake.learning.data import CropDataModule
from deepfake.learning.losses import CrossEntropyOnEmbedding, SemiHardTripletLoss, WeightedSum
from deepfake.learning.optimization import OneCycle
from deepfake.learning.task import EmbeddingTask
from deepfake.training.callbacks.dropout_seed import SeedDropout
from tests import oracles
from tests.made_crops import write_crop_folder
from tests.made_task import Rates, Snapshots, adamw, both, fit, make_task, moved, sgd


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (8, 8), "validation": (4, 4), "test": (4, 4)}
    return write_crop_folder(tmp_path_factory.mktemp("task") / "crops", counts, size=32)


def weights(task: EmbeddingTask) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in task.named_parameters()}


def test_the_step_is_the_gradient_of_the_oracles_loss(crops: Path) -> None:
    # One batch that holds all crops, plain SGD: the change of weights is the gradient.
    task = make_task(
        dropout=0.0,
        optimizer=sgd(0.5),
        projection_l2=0.02,
        objective=SemiHardTripletLoss(0.7),
    ).double()
    before = weights(task)
    data = CropDataModule(str(crops))
    data.setup()
    dataset = data.datasets["train"]
    images = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
    labels = [int(dataset[i]["label"]) for i in range(len(dataset))]
    mirror = make_task(dropout=0.0).double()
    mirror.load_state_dict(task.state_dict())
    mirror.train()
    head = mirror.embedder.projection.weight
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


def test_l2_pulls_on_the_projections_weight_alone(crops: Path) -> None:
    before = weights(make_task())["embedder.projection.weight"]
    with_l2, without = (make_task(optimizer=sgd(1.0), projection_l2=l2) for l2 in (0.1, 0.0))
    for task in (with_l2, without):
        fit(task, crops, limit_val_batches=0, callbacks=[SeedDropout()])
    first, second = weights(with_l2), weights(without)
    for name in first:
        if name == "embedder.projection.weight":
            torch.testing.assert_close(second[name] - first[name], 0.1 * before, rtol=0, atol=1e-6)
        else:
            assert torch.equal(first[name], second[name]), name


def test_cross_entropy_is_added_with_its_weight(crops: Path) -> None:
    task = make_task(objective=both(2.0, 0.5), projection_l2=0.0, dropout=0.0)
    trainer = fit(task, crops, limit_val_batches=0)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    extra = (figures["train_loss"] - 2 * figures["train_triplet_loss"]) / 0.5
    assert 0.3 < extra < 1.5


def test_validation_measures_what_training_makes_smaller(crops: Path) -> None:
    task = make_task(objective=both(2.0, 0.5, margin=0.7), projection_l2=0.3)
    trainer = fit(task, crops)
    data = trainer.datamodule  # type: ignore[attr-defined]
    samples = [data.datasets["validation"][i] for i in range(8)]  # one batch: smaller than 16
    labels = [int(sample["label"]) for sample in samples]
    task.eval()
    with torch.no_grad():
        embeddings = task.embedder(torch.stack([sample["image"] for sample in samples]))
        assert isinstance(task.objective, WeightedSum)
        cross_entropy = task.objective.losses[1]
        assert isinstance(cross_entropy, CrossEntropyOnEmbedding)
        logits = cross_entropy.linear(embeddings * 8).squeeze(1)
        teacher = sum(
            math.log1p(math.exp(-x if label else x))
            for x, label in zip(logits.tolist(), labels, strict=True)
        )
        penalty = 0.3 / 2 * float(task.embedder.projection.weight.square().sum())
        triplets = float(oracles.triplet_loss(embeddings, labels, 0.7))
    expected = 2.0 * triplets + 0.5 * teacher / 8 + penalty
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(expected, rel=1e-5)


def test_logs_what_the_mining_found(crops: Path) -> None:
    task = make_task()
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
            assert isinstance(pl_module, EmbeddingTask)
            names = ("triplet_loss", "triplets", "ap_distance", "an_distance", "active_share")
            seen.append(tuple(float(pl_module.step_metrics[name][0]) for name in names))

    figures = fit(make_task(), crops, batch_size=4, callbacks=[Watch()]).callback_metrics
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
    task = make_task()
    figures = fit(task, root, batch_size=4).callback_metrics
    assert all(bool(torch.isfinite(p).all()) for p in task.parameters())
    assert 0 < float(figures["train_triplets"]) < 2
    assert "val_auc" in figures


def test_refuses_crops_of_another_size(crops: Path) -> None:
    with pytest.raises(UsageError, match=r"have 32 px, model\.image_size is 64: pass --model"):
        fit(make_task(image_size=64), crops)


def test_forward_embeds() -> None:
    task = make_task().eval()
    images = torch.zeros(2, 3, 32, 32)
    assert torch.equal(task(images), task.embedder(images))


def test_refuses_to_go_on_with_other_crops() -> None:
    task = make_task()
    task.info = {"manifest_sha256": "a" * 64}
    task.on_load_checkpoint({KEY: {"manifest_sha256": "a" * 64}, "state_dict": {}})
    with pytest.raises(UsageError, match=r"trained on other crops .*sha256 bbbbbbbbbbbb, this one"):
        task.on_load_checkpoint({KEY: {"manifest_sha256": "b" * 64}, "state_dict": {}})


def test_one_cycle_spans_the_whole_training(crops: Path) -> None:
    rates, task = Rates(), make_task(schedule=OneCycle, optimizer=adamw(1e-3))
    fit(task, crops, max_epochs=3, batch_size=4, limit_val_batches=0, callbacks=[rates])
    assert len(rates.seen) == 12
    assert max(rates.seen) == pytest.approx(1e-3, rel=0.05)
    assert rates.seen.index(max(rates.seen)) in (1, 2)
    assert rates.seen[-1] < 1e-6


def test_a_constant_rate_is_constant(crops: Path) -> None:
    rates = Rates()
    fit(make_task(optimizer=sgd(0.02)), crops, max_epochs=2, batch_size=4, callbacks=[rates])
    assert rates.seen == [0.02] * 8


def test_validation_scores_come_from_training_embeddings_only(crops: Path) -> None:
    task = make_task()
    seen: list[int] = []
    original = task._recent.fit_head

    def count() -> Any:
        seen.append(sum(len(labels) for _, labels in task._recent.state_dict()))
        return original()

    task._recent.fit_head = count  # type: ignore[method-assign]
    fit(task, crops, batch_size=8, max_epochs=2)
    assert seen == [16, 16]


# Large batches


def make_chunked(chunk_size: int | None) -> EmbeddingTask:
    return make_task(
        backbone="test_efficientnet_ln",
        dropout=0.0,
        chunk_size=chunk_size,
        optimizer=sgd(0.5),
        projection_l2=0.02,
        objective=both(1.0, 0.5),
    )


@pytest.mark.parametrize("clip", [None, 0.05])
def test_chunks_make_the_step_of_the_whole_batch(crops: Path, clip: float | None) -> None:
    results = []
    for chunk_size in (None, 6, 16):
        task = make_chunked(chunk_size)
        fit(task, crops, limit_val_batches=0, gradient_clip_val=clip)
        results.append(weights(task))
    start = weights(make_chunked(None))
    assert any(not torch.equal(results[0][name], start[name]) for name in start)
    for name in start:
        torch.testing.assert_close(results[1][name], results[0][name], rtol=0, atol=1e-6, msg=name)
        assert torch.equal(results[2][name], results[0][name])


def test_chunks_with_accumulation_dropout_and_half_precision(crops: Path) -> None:
    task = make_task(dropout=0.5, chunk_size=3, schedule=OneCycle, optimizer=adamw(1e-3))
    trainer = fit(
        task, crops, batch_size=8, max_epochs=2, accumulate_grad_batches=2, precision="bf16-mixed"
    )
    assert trainer.global_step == 2
    assert all(bool(torch.isfinite(p).all()) for p in task.parameters())
    assert all(p.dtype == torch.float32 for p in task.parameters())


@pytest.mark.parametrize("init_scale", [1.0, 1024.0])
def test_chunks_take_their_part_of_a_scaled_gradient(crops: Path, init_scale: float) -> None:
    results = []
    for chunk_size in (None, 6):
        task = make_chunked(chunk_size)
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        # Where autocast does nothing, what differs can only be the scaling.
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        plugin.autocast_context_manager = nullcontext  # type: ignore[assignment,method-assign]
        fit(task, crops, limit_val_batches=0, plugins=[plugin])
        results.append(weights(task))
    for name in results[0]:
        torch.testing.assert_close(results[1][name], results[0][name], rtol=0, atol=1e-6, msg=name)
    start = weights(make_chunked(None))
    assert any(not torch.equal(results[1][name], start[name]) for name in start)


def test_a_chunk_needs_a_crop() -> None:
    with pytest.raises(UsageError, match=r"model\.training\.chunk_size=0; expected 1 or more"):
        make_task(chunk_size=0)


def test_losses_and_mining_are_not_computed_in_half_precision(crops: Path) -> None:
    seen: list[torch.dtype] = []
    task = make_task()
    objective = task.objective
    assert isinstance(objective, SemiHardTripletLoss)
    original = objective.evaluate

    def note(embeddings: Tensor, labels: Tensor) -> Any:
        seen.append(embeddings.dtype)
        outcome = original(embeddings, labels)
        seen.append(outcome.loss.dtype)
        return outcome

    objective.evaluate = note  # type: ignore[method-assign]
    fit(task, crops, precision="bf16-mixed", limit_val_batches=0)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(("clip", "fused"), [(None, True), (1.0, False)])
def test_a_fused_step_where_lightning_allows_it(
    crops: Path, clip: float | None, fused: bool
) -> None:
    trainer = fit(
        make_task(optimizer=adamw()),
        crops,
        gradient_clip_val=clip,
        precision="bf16-mixed",
        limit_val_batches=0,
    )
    assert bool(trainer.optimizers[0].defaults["fused"]) is fused


def test_triplets_join_in_after_cross_entropy(crops: Path) -> None:
    runs = {}
    for name, objective in (
        ("later", both(from_epoch=1)),
        ("never", both(triplet=0.0)),
        ("always", both()),
    ):
        snapshots = Snapshots()
        task = make_task(objective=objective, dropout=0.0, projection_l2=0.0)
        fit(task, crops, max_epochs=2, callbacks=[snapshots], batch_size=8)
        runs[name] = snapshots.states
    first, second = 1, 2
    assert not moved(runs["later"][first], runs["never"][first], "embedder.")
    assert moved(runs["later"][first], runs["always"][first], "embedder.")
    assert moved(runs["later"][second], runs["never"][second], "embedder.")
