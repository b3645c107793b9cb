"""Losses and miners of pytorch-metric-learning as they are, and trained with their own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import MultiSimilarityLoss, ProxyAnchorLoss, TripletMarginLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner

from deepfake.learning.data import CropDataModule
from deepfake.learning.losses import MetricLearningLoss, SemiHardTripletLoss, Term, WeightedSum
from tests.made_crops import write_crop_folder
from tests.made_task import make_task, sgd
from tests.made_trainer import make_trainer


def test_a_loss_and_its_miner_are_the_librarys() -> None:
    rows, labels = F.normalize(torch.randn(16, 6)), torch.arange(16) % 2
    loss, miner = MultiSimilarityLoss(), MultiSimilarityMiner()
    expected = loss(rows, labels, miner(rows, labels))
    value, metrics = MetricLearningLoss(loss, miner).measure(rows, labels)
    assert float(value) == pytest.approx(float(expected))
    assert metrics.keys() == {"MultiSimilarityLoss"}
    assert float(MetricLearningLoss(loss)(rows, labels)) == pytest.approx(float(loss(rows, labels)))


def test_a_batch_of_one_class_keeps_a_graph() -> None:
    rows = F.normalize(torch.randn(4, 6)).requires_grad_()
    value = MetricLearningLoss(TripletMarginLoss())(rows, torch.zeros(4, dtype=torch.long))
    value.backward()
    assert float(value) == 0
    assert rows.grad is not None


def test_proxies_are_trained_beside_triplets_and_kept(tmp_path: Path) -> None:
    crops = write_crop_folder(tmp_path / "crops", {"train": (8, 8), "validation": (4, 4)}, size=32)
    loss: Any = ProxyAnchorLoss(num_classes=2, embedding_size=16)
    terms = [Term(SemiHardTripletLoss()), Term(MetricLearningLoss(loss), 0.5)]
    objective = WeightedSum(terms)
    task = make_task(objective=objective, optimizer=sgd(0.1))
    before = loss.proxies.detach().clone()
    trainer = make_trainer(tmp_path)
    trainer.fit(task, datamodule=CropDataModule(str(crops), 8))
    assert not torch.equal(loss.proxies, before)
    assert "train_ProxyAnchorLoss" in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["objective.losses.1.loss.proxies"], loss.proxies)
