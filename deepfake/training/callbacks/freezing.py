"""A backbone that stands still for the first epochs, while the projection learns.

Lightning's ``BackboneFinetuning`` adds a group of weights to the optimiser when it thaws them,
which a one-cycle schedule does not survive; here all groups are complete from the start.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from deepfake.errors import UsageError
from deepfake.training.callbacks.protocol import as_embedding_module


class FreezeBackbone(Callback):
    """Freeze the backbone, its batch normalisation too, for the first epochs.

    Args:
        epochs: So many; 0 switches it off.
        lr: Learning rate of those epochs; after them the schedule goes on as if it had ruled from
            the start. ``None`` leaves them to the schedule too.

    Raises:
        UsageError: If the two do not fit.
    """

    def __init__(self, epochs: int = 0, lr: float | None = None) -> None:
        if epochs < 0:
            raise UsageError(f"freeze.epochs={epochs}; expected 0 or more")
        if lr is not None and not epochs:
            raise UsageError(f"freeze.lr={lr:g} is for freeze.epochs above 0")
        if lr is not None and not 0 <= lr < math.inf:  # a negative one would climb the loss
            raise UsageError(f"freeze.lr={lr:g}; expected 0 or more")
        self.epochs, self.lr = epochs, lr
        self._rates: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the optimiser's own rates, before a checkpoint brings those of a frozen epoch."""
        self._rates = [group["lr"] for opt in trainer.optimizers for group in opt.param_groups]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Freeze or thaw, and set the rate."""
        if not self.epochs:
            return
        frozen = trainer.current_epoch < self.epochs
        embedder = as_embedding_module(pl_module).embedder
        if frozen:
            embedder.backbone.eval()
        elif not embedder.backbone.training:
            embedder.train()  # what is never trained stays in evaluation mode
        if self.lr is not None:
            # A schedule reckons from the number of the step, and writes its rate after each one.
            schedule: Any = pl_module.lr_schedulers()
            own = schedule.get_last_lr() if schedule else self._rates
            for group, lr in zip(trainer.optimizers[0].param_groups, own, strict=True):
                group["lr"] = self.lr if frozen else lr

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """A frozen backbone takes no part: no step, no moments, no decay."""
        if trainer.current_epoch < self.epochs:
            # Not by requires_grad: distributed training asks once which weights have a gradient.
            for parameter in as_embedding_module(pl_module).embedder.backbone.parameters():
                parameter.grad = None
