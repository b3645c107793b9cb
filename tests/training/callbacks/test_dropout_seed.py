"""Dropout of a step is that of its seed, epoch and batch."""

from __future__ import annotations

from pathlib import Path

import torch

from deepfake.training.callbacks.dropout_seed import SeedDropout
from tests.made_task import fit, make_task


def test_dropout_follows_from_seed_epoch_and_batch(crops: Path) -> None:
    results = []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        task = make_task(dropout=0.5)
        torch.manual_seed(noise)
        fit(task, crops, SeedDropout(seed), limit_val_batches=0)
        results.append(task.embedder.projection.weight.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
