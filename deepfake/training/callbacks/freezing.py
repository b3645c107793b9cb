"""A backbone that stands still for the first epochs, while the projection learns.

Lightning's ``BackboneFinetuning`` adds a group of weights to the optimiser when it thaws them,
which a one-cycle schedule does not survive; here all groups are complete from the start.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.hooks import RemovableHandle

from deepfake.errors import UsageError
from deepfake.training.callbacks.protocol import as_embedding_module


class FreezeBackbone(Callback):
    """Freeze the backbone, its batch normalisation too, for the first epochs.

    Args:
        epochs: So many; 0 switches it off.
        lr: Learning rate of those epochs. The schedule reckons its own meanwhile, and goes on as if
            it had ruled from the start. ``None`` leaves them to the schedule too.

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
        self._own: list[float] = []  # the schedule's rates, while a step goes by ours
        self._hooks: list[RemovableHandle] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the rate around every step alone: many schedules reckon from the present one."""
        if self.lr is None:
            return
        (optimizer,) = trainer.optimizers
        self._hooks = [
            optimizer.register_step_pre_hook(partial(self._set_rate, trainer)),
            optimizer.register_step_post_hook(self._give_back),
        ]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the optimiser as it was."""
        while self._hooks:
            self._hooks.pop().remove()

    def _set_rate(self, trainer: Trainer, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if trainer.current_epoch >= self.epochs:
            return
        # One that was stopped in its middle has left ours in the groups.
        self._own = self._own or [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = self.lr

    def _give_back(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, lr in zip(optimizer.param_groups, self._own, strict=False):
            group["lr"] = lr
        self._own = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Freeze or thaw."""
        if not self.epochs:
            return
        frozen = trainer.current_epoch < self.epochs
        embedder = as_embedding_module(pl_module).embedder
        if frozen:
            embedder.backbone.eval()
        elif not embedder.backbone.training:
            embedder.train()  # what is never trained stays in evaluation mode

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """A frozen backbone takes no part: no step, no moments, no decay."""
        if trainer.current_epoch < self.epochs:
            # Not by requires_grad: distributed training asks once which weights have a gradient.
            for parameter in as_embedding_module(pl_module).embedder.backbone.parameters():
                parameter.grad = None
