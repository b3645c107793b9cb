"""A small task for tests: flat settings, a tiny backbone, a fixed start."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import SGD, AdamW

from deepfake.augment.recipes import AugmentationSettings
from deepfake.learning.data import CropDataModule
from deepfake.learning.losses import (
    CrossEntropyOnEmbedding,
    Objective,
    SemiHardTripletLoss,
    Term,
    WeightedSum,
)
from deepfake.learning.task import EmbeddingTask, NetworkSettings, TrainingSettings
from tests.made_trainer import make_trainer

NETWORK = {field.name for field in fields(NetworkSettings)}
TRAINING = {field.name for field in fields(TrainingSettings)}


def make_task(
    backbone: str = "test_efficientnet", image_size: int = 32, **options: Any
) -> EmbeddingTask:
    """Options are those of the task and of its records; weights start from seed 3."""
    torch.manual_seed(3)
    chosen: dict[str, Any] = {"embedding_dim": 16, "drop_path_rate": None} | options
    network = {name: chosen.pop(name) for name in NETWORK & chosen.keys()}
    training = {name: chosen.pop(name) for name in TRAINING & chosen.keys()}
    return EmbeddingTask(
        backbone,
        image_size,
        network=NetworkSettings(**network),
        training=TrainingSettings(**training),
        **chosen,
    )


def sgd(lr: float = 0.01, **options: Any) -> Any:
    return partial(SGD, lr=lr, **options)


def adamw(lr: float = 0.01, weight_decay: float = 0.0) -> Any:
    return partial(AdamW, lr=lr, weight_decay=weight_decay)


def both(
    triplet: float = 1.0, cross_entropy: float = 1.0, margin: float = 1.0, from_epoch: int = 0
) -> Objective:
    """Triplets and cross-entropy with these weights; triplets join in at ``from_epoch``."""
    return WeightedSum(
        [
            Term(SemiHardTripletLoss(margin), triplet, from_epoch),
            Term(CrossEntropyOnEmbedding(), cross_entropy),
        ]
    )


def fit(
    task: LightningModule,
    crops: Path,
    *callbacks: Callback,
    batch_size: int = 16,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    """Train on crops that are not augmented; options are those of ``Trainer``."""
    trainer = make_trainer(crops, *callbacks, **options)
    data = CropDataModule(str(crops), batch_size, AugmentationSettings(share=0.0))
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
    return trainer


class Rates(Callback):
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
