"""Dropout that follows from (seed, epoch, batch) alone."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from deepfake.augment.recipes import sample_seed


class SeedDropout(Callback):
    """Seed dropout and stochastic depth anew for every batch, so that a resume changes nothing.

    Args:
        seed: Of the run; each process adds its rank.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch."""
        seed = sample_seed(self.seed, trainer.current_epoch, batch_idx)
        torch.manual_seed(seed + trainer.global_rank)
