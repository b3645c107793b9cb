"""A training whose triplets teach nothing says so."""

from __future__ import annotations

import logging
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from deepfake.errors import JobError, UsageError
from deepfake.learning.losses import SemiHardTripletLoss
from deepfake.training.callbacks.protocol import as_embedding_module

logger = logging.getLogger(__name__)


class CollapseWatch(Callback):
    """Warn when all embeddings fall onto one point, and stop where no batch holds a triplet.

    The triplet loss itself says which step has collapsed; here the steps in a row are counted, on
    the device. They are looked at after every step on a CPU, every ``steps`` steps elsewhere.

    Args:
        steps: Steps in a row before it warns.

    Raises:
        UsageError: If there are fewer than one.
    """

    def __init__(self, steps: int = 50) -> None:
        if steps < 1:
            raise UsageError(f"watch.collapse_steps={steps}; expected 1 or more, or 0 for no watch")
        self.steps = steps
        # Collapsed steps in a row, now and at most.
        self._counts = torch.zeros(2, dtype=torch.int32)
        self._seen = 0
        self._warned = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look at the last step."""
        module = as_embedding_module(pl_module)
        if self._warned or "collapsed" not in module.step_metrics:
            return
        collapsed, says_something = module.step_metrics["collapsed"]
        now, longest = self._counts = self._counts.to(collapsed.device)
        now = torch.where(says_something > 0, torch.where(collapsed > 0, now + 1, 0), now)
        self._counts = torch.stack([now, torch.maximum(now, longest)])
        self._seen += 1
        if self._counts.device.type != "cpu" and self._seen % self.steps:
            return
        if int(self._counts[1]) >= self.steps:
            self._warned = True
            logger.warning(
                "collapse: the triplet loss has stood at its margin for %d steps and all "
                "embeddings are alike (norm of the projection: %.3g); try a smaller "
                "model.optimizer.lr, a larger data.batch_size, or a CrossEntropyOnEmbedding beside",
                self.steps,
                float(module.embedder.projection.weight.detach().norm()),
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where there was nothing to learn from.

        Raises:
            JobError: If triplets are all that is learnt from, and not one batch held any.
        """
        module = as_embedding_module(pl_module)
        only_triplets = isinstance(module.objective, SemiHardTripletLoss)
        if only_triplets and not module.epoch_metrics().get("train_triplets"):
            raise JobError(
                f"no batch of epoch {trainer.current_epoch} held two crops of one class and one of "
                "the other: nothing was learnt; use a larger data.batch_size, or "
                "data.batches.balance true"
            )

    def state_dict(self) -> dict[str, Any]:
        """The steps so far."""
        return {"counts": self._counts.cpu(), "seen": self._seen, "warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._counts, self._seen = state_dict["counts"], state_dict["seen"]
        self._warned = state_dict["warned"]
