"""A training step: its loss, its gradient, its groups of weights, its refusals."""

from __future__ import annotations

import logging
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

from deepfake.augment.recipes import AugmentationSettings
from deepfake.errors import JobError, UsageError
from deepfake.learning import task as task_module
from deepfake.learning import tuning
from deepfake.learning.checkpoint import KEY
from deepfake.learning.data import CropDataModule
from deepfake.learning.task import EmbeddingTask
from tests import oracles
from tests.made_crops import write_crop_folder
from tests.made_trainer import make_trainer


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": (8, 8), "validation": (4, 4), "test": (4, 4)}
    return write_crop_folder(tmp_path_factory.mktemp("task") / "crops", counts, size=32)


def make(**options: Any) -> EmbeddingTask:
    torch.manual_seed(3)
    chosen: dict[str, Any] = {
        "backbone": "test_efficientnet",
        "image_size": 32,
        "embedding_dim": 16,
    }
    return EmbeddingTask(**(chosen | {"drop_path_rate": None} | options))


def fit(task: EmbeddingTask, crops: Path, *, batch_size: int = 16, **options: Any) -> Trainer:
    trainer = make_trainer(crops, **options)
    plain = AugmentationSettings(share=0.0)
    trainer.fit(task, datamodule=CropDataModule(str(crops), batch_size, plain))
    return trainer


def weights(task: EmbeddingTask) -> dict[str, Tensor]:
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


def test_l2_pulls_on_the_heads_weight_alone(crops: Path) -> None:
    before = weights(make())["embedder.projection.weight"]
    with_l2, without = make(lr=1.0, head_l2=0.1), make(lr=1.0, head_l2=0.0)
    for task in (with_l2, without):
        fit(task, crops, limit_val_batches=0)
    first, second = weights(with_l2), weights(without)
    for name in first:
        if name == "embedder.projection.weight":
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
        is_decayed = parameter.ndim >= 2 and name != "embedder.projection.weight"
        assert (id(parameter) in decayed) == is_decayed, name
        assert (id(parameter) in spared) == (not is_decayed), name
    assert len(decayed) + len(spared) == len(list(task.parameters()))


def test_the_head_has_no_parameters_to_train() -> None:
    assert list(make().head.parameters()) == []


def test_cross_entropy_is_added_with_its_weight(crops: Path) -> None:
    task = make(cross_entropy_weight=0.5, triplet_weight=2.0, head_l2=0.0, dropout=0.0)
    trainer = fit(task, crops, limit_val_batches=0)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    extra = (figures["train_loss"] - 2 * figures["train_triplet_loss"]) / 0.5
    assert 0.3 < extra < 1.5


def test_validation_measures_what_training_makes_smaller(crops: Path) -> None:
    task = make(cross_entropy_weight=0.5, triplet_weight=2.0, head_l2=0.3, margin=0.7)
    trainer = fit(task, crops)
    data = trainer.datamodule  # type: ignore[attr-defined]
    samples = [data.datasets["validation"][i] for i in range(8)]  # one batch: smaller than 16
    labels = [int(sample["label"]) for sample in samples]
    task.eval()
    with torch.no_grad():
        embeddings = task.embedder(torch.stack([sample["image"] for sample in samples]))
        assert task.cross_entropy is not None
        logits = task.cross_entropy.linear(embeddings * task.cross_entropy.scale).squeeze(1)
        teacher = sum(
            math.log1p(math.exp(-x if label else x))
            for x, label in zip(logits.tolist(), labels, strict=True)
        )
        penalty = 0.3 / 2 * float(task.embedder.projection.weight.square().sum())
        triplets = float(oracles.triplet_loss(embeddings, labels, 0.7))
    expected = 2.0 * triplets + 0.5 * teacher / 8 + penalty
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(expected, rel=1e-5)


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
            assert isinstance(pl_module, EmbeddingTask)
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
            task.embedder.projection.weight.fill_(torch.nan)
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
        results.append(weights(task)["embedder.projection.weight"])
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
    """The learning rate of every step, and the first moment's factor where there is one."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.betas: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        rates = {group["lr"] for group in optimizer.param_groups}
        self.seen.append(rates.pop() if len(rates) == 1 else float("nan"))
        self.betas.append(optimizer.param_groups[0].get("betas", [0.0])[0])


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


# Large batches, averages, compiled forwards


CHUNKS = {"lr": 0.5, "head_l2": 0.02, "cross_entropy_weight": 0.5}


@pytest.mark.parametrize("clip", [None, 0.05])
def test_chunks_make_the_step_of_the_whole_batch(crops: Path, clip: float | None) -> None:
    results = []
    for chunk_size in (None, 6, 16):
        task = make(backbone="test_efficientnet_ln", dropout=0.0, chunk_size=chunk_size, **CHUNKS)
        fit(task, crops, limit_val_batches=0, gradient_clip_val=clip)
        results.append(weights(task))
    start = weights(make(backbone="test_efficientnet_ln", **CHUNKS))
    assert any(not torch.equal(results[0][name], start[name]) for name in start)
    for name in start:
        torch.testing.assert_close(results[1][name], results[0][name], rtol=0, atol=1e-6, msg=name)
        assert torch.equal(results[2][name], results[0][name])


def test_chunks_with_accumulation_dropout_and_half_precision(crops: Path) -> None:
    task = make(dropout=0.5, chunk_size=3, schedule="one_cycle", optimizer="adamw", lr=1e-3)
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
        task = make(backbone="test_efficientnet_ln", dropout=0.0, chunk_size=chunk_size, **CHUNKS)
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        # Where autocast does nothing, what differs can only be the scaling.
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        plugin.autocast_context_manager = nullcontext  # type: ignore[assignment,method-assign]
        fit(task, crops, limit_val_batches=0, plugins=[plugin])
        results.append(weights(task))
    for name in results[0]:
        torch.testing.assert_close(results[1][name], results[0][name], rtol=0, atol=1e-6, msg=name)
    start = weights(make(backbone="test_efficientnet_ln", **CHUNKS))
    assert any(not torch.equal(results[1][name], start[name]) for name in start)


def test_a_chunk_needs_a_crop() -> None:
    with pytest.raises(UsageError, match=r"model\.chunk_size=0; expected 1 or more"):
        make(chunk_size=0)


def test_the_average_is_validated_and_the_network_goes_on(crops: Path) -> None:
    validated: list[Tensor] = []
    task, plain = make(ema_decay=0.9, dropout=0.0), make(dropout=0.0)
    original = task.validation_step

    def note(batch: Any, batch_idx: int) -> None:
        validated.append(task.embedder.projection.weight.detach().clone())
        original(batch, batch_idx)

    task.validation_step = note  # type: ignore[method-assign]
    for each in (task, plain):
        fit(each, crops, batch_size=4, max_epochs=2)
    for name, value in weights(plain).items():
        assert torch.equal(weights(task)[name], value), name
    assert task.average is not None
    kept = task.average.state_dict()["embedder.projection.weight"].clone()
    assert torch.equal(validated[-1], kept)
    assert not torch.equal(validated[-1], task.embedder.projection.weight)
    task.take_average()
    assert torch.equal(task.embedder.projection.weight, kept)
    task.take_average()  # nothing is left to take
    assert torch.equal(task.embedder.projection.weight, kept)


def test_losses_and_mining_are_not_computed_in_half_precision(crops: Path) -> None:
    seen: list[torch.dtype] = []
    task = make()
    original = task.triplet_loss.evaluate

    def note(embeddings: Tensor, labels: Tensor) -> Any:
        seen.append(embeddings.dtype)
        outcome = original(embeddings, labels)
        seen.append(outcome.loss.dtype)
        return outcome

    task.triplet_loss.evaluate = note  # type: ignore[method-assign]
    fit(task, crops, precision="bf16-mixed", limit_val_batches=0)
    assert set(seen) == {torch.float32}


def test_a_patient_watch_still_stops_the_run(crops: Path) -> None:
    # As on a GPU, where the answer comes late: the bad step is named, not the one that is running.
    task = make(lr=1e30)
    task.watch.patience = 2
    with pytest.raises(
        JobError, match=r"the loss became (nan|inf) in epoch 0, step 1, at lr 1e\+30"
    ):
        fit(task, crops, batch_size=2, max_epochs=1, limit_val_batches=0)


def test_weights_that_are_no_numbers_are_never_kept(crops: Path) -> None:
    task = make()
    trainer = fit(task, crops, limit_val_batches=0)
    with torch.no_grad():  # as the last step of a run may leave it: no loss sees it any more
        task.embedder.projection.bias[3] = torch.nan
    with pytest.raises(JobError, match=r"the weights became NaN by the end of step 1"):
        trainer.save_checkpoint(crops / "never.ckpt")
    assert not (crops / "never.ckpt").exists()


@pytest.mark.parametrize("wanted", ["auto", True, False])
def test_memory_format_is_set_and_kept(crops: Path, tmp_path: Path, wanted: Any) -> None:
    task = make(channels_last=wanted)
    trainer = fit(task, crops)
    convolution = next(m for m in task.modules() if isinstance(m, torch.nn.Conv2d))
    interleaved = convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert interleaved == (wanted is not False)  # a CPU is faster so
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert content["deepfake_run"]["channels_last"] == interleaved
    again = make(channels_last="auto")
    again.on_load_checkpoint(content)
    kept = again.embedder.memory_format
    assert kept == (torch.channels_last if interleaved else torch.contiguous_format)


def test_on_a_gpu_the_faster_format_is_taken_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shapes: list[tuple[int, ...]] = []
    real_zeros = torch.zeros

    def zeros(shape: Any, **options: Any) -> Tensor:
        return real_zeros(shape, dtype=options["dtype"])

    def timed(module: Any, images: Tensor, context: Any) -> tuple[float, float]:
        shapes.append(tuple(images.shape))
        return seconds

    class _Strategy:
        root_device = torch.device("cuda")

        def broadcast(self, value: bool) -> bool:
            return value

    class _Trainer:
        strategy, world_size, datamodule = _Strategy(), 2, CropDataModule("none", batch_size=32)

    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(task_module, "time_memory_formats", timed)
    for times, chosen in (((0.2, 0.1), True), ((0.1, 0.2), False)):
        seconds = times
        task = make(chunk_size=12)
        task._trainer = _Trainer()  # type: ignore[assignment]
        assert task._choose_channels_last() is chosen
    assert shapes == [(12, 3, 32, 32)] * 2
    assert "channels_last 100.0 ms a step, contiguous 200.0 ms: channels_last" in caplog.text
    assert "channels_last 200.0 ms a step, contiguous 100.0 ms: contiguous" in caplog.text


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiling_changes_no_weight(
    crops: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(tuning, "COMPILER", backend)
    results = []
    for mode in (False, "default"):
        task = make(compile=mode, dropout=0.0, lr=0.05)
        fit(task, crops, batch_size=8, limit_val_batches=0)
        results.append(task.state_dict())
    assert set(results[0]) == set(results[1])
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"compile": "reduce-overhead"}, {"chunk_size": 6}])
def test_a_step_on_a_gpu_never_waits(crops: Path, options: dict[str, Any]) -> None:
    class _Strict(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("error" if args[-1] else "default")

        def on_train_epoch_end(self, *args: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    task = make(**options)
    try:
        fit(
            *(task, crops),
            batch_size=8,
            accelerator="gpu",
            devices=1,
            precision="bf16-mixed",
            callbacks=[_Strict()],
            limit_val_batches=0,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("clip", "fused"), [(None, True), (1.0, False)])
def test_a_fused_step_where_lightning_allows_it(
    crops: Path, clip: float | None, fused: bool
) -> None:
    trainer = fit(
        *(make(optimizer="adamw"), crops),
        gradient_clip_val=clip,
        precision="bf16-mixed",
        limit_val_batches=0,
    )
    assert trainer.optimizers[0].defaults["fused"] is fused


# Frozen backbone, triplets later


class Snapshots(Callback):
    """Weights, statistics and learning rate after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.lr: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append({k: v.detach().clone() for k, v in pl_module.state_dict().items()})
        self.lr.append(trainer.optimizers[0].param_groups[0]["lr"])


def moved(before: dict[str, Tensor], after: dict[str, Tensor], prefix: str) -> bool:
    return any(
        not torch.equal(before[name], after[name]) for name in before if name.startswith(prefix)
    )


@pytest.mark.parametrize("chunk_size", [None, 4], ids=["whole", "chunks"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_frozen_backbone_stands_still(
    crops: Path, optimizer: str, chunk_size: int | None
) -> None:
    task = make(
        **{"optimizer": optimizer, "freeze_epochs": 2, "freeze_lr": 0.003, "lr": 0.01},
        **{"weight_decay": 0.1, "chunk_size": chunk_size, "dropout": 0.0},
    )
    snapshots = Snapshots()
    fit(task, crops, max_epochs=3, callbacks=[snapshots], batch_size=8)
    start, *after = snapshots.states
    backbone, head = "embedder.backbone.", "embedder.projection."
    assert not moved(start, after[1], backbone)
    assert moved(start, after[0], head)
    assert moved(after[0], after[1], head)
    assert moved(after[1], after[2], backbone)  # statistics of batch normalisation too
    assert moved(after[1], after[2], f"{backbone}bn1.running_mean")
    assert snapshots.lr[1:] == [0.003, 0.003, 0.01]


def cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def one_cycle_rate(step: int, n_steps: int, peak: float) -> float:
    """From peak / 25 to the peak in the first fifth, then down to peak / 25 / 10,000."""
    top = 0.2 * n_steps - 1
    if step <= top:
        return cosine(peak / 25, peak, step / top)
    return cosine(peak, peak / 25e4, (step - top) / (n_steps - 1 - top))


@pytest.mark.parametrize(
    ("schedule", "optimizer", "accumulate"),
    [("constant", "sgd", 1), ("one_cycle", "sgd", 1), ("one_cycle", "adamw", 3)],
)
def test_a_frozen_rate_gives_way_to_the_schedules_own(
    crops: Path, schedule: str, optimizer: str, accumulate: int
) -> None:
    options: dict[str, Any] = {"schedule": schedule, "optimizer": optimizer, "lr": 0.01}
    free, frozen = _Rates(), _Rates()
    per_epoch = math.ceil(4 / accumulate)
    for rates, more in ((free, {}), (frozen, {"freeze_epochs": 2, "freeze_lr": 0.003})):
        task = make(**options, **more)
        settings: dict[str, Any] = {"max_epochs": 3, "batch_size": 4, "callbacks": [rates]}
        settings |= {"limit_val_batches": 0, "accumulate_grad_batches": accumulate}
        fit(task, crops, **settings)
    n_steps = 3 * per_epoch
    own = [0.01] * n_steps
    if schedule == "one_cycle":
        own = [one_cycle_rate(step, n_steps, 0.01) for step in range(n_steps)]
    assert free.seen == pytest.approx(own, rel=1e-9)
    n_frozen = 2 * per_epoch
    assert frozen.seen[:n_frozen] == [0.003] * n_frozen
    assert frozen.seen[n_frozen:] == free.seen[n_frozen:]
    assert frozen.betas == free.betas
    assert [row["lr"] for row in task.history[:2]] == [0.003] * 2


def test_triplets_join_in_after_cross_entropy(crops: Path) -> None:
    options = {"cross_entropy_weight": 1.0, "dropout": 0.0, "head_l2": 0.0}
    runs = {}
    for name, more in (
        ("later", {"triplet_after_epoch": 1}),
        ("never", {"triplet_weight": 0.0}),
        ("always", {}),
    ):
        snapshots = Snapshots()
        fit(make(**options, **more), crops, max_epochs=2, callbacks=[snapshots], batch_size=8)
        runs[name] = snapshots.states
    first, second = 1, 2
    assert not moved(runs["later"][first], runs["never"][first], "embedder.")
    assert moved(runs["later"][first], runs["always"][first], "embedder.")
    assert moved(runs["later"][second], runs["never"][second], "embedder.")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"freeze_epochs": -1}, r"freeze_epochs=-1; expected 0 or more"),
        ({"triplet_after_epoch": 1}, r"triplet_after_epoch=1 needs both losses"),
        ({"freeze_lr": 0.1}, r"freeze_lr=0\.1 is for model\.freeze_epochs above 0"),
        (
            {"freeze_lr": 0.1, "schedule": "one_cycle"},
            r"freeze_lr=0\.1 is for model\.freeze_epochs above 0",
        ),
    ],
    ids=["negative", "one-loss", "no-freeze", "one-cycle"],
)
def test_refuses_phases_that_do_not_fit(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        make(**options)
