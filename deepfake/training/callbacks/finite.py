"""A training that stops before a loss, an embedding or a weight that is no number is kept."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from deepfake.errors import JobError
from deepfake.learning.watch import LossWatch, Step


class RefuseNonFinite(Callback):
    """Stop at the first loss that is not finite, and never keep weights that are not.

    On a CPU the loss is looked at before the weights change; on a device a few steps later, because
    asking at once would leave it idle. Before anything is kept, all of them are known.

    Args:
        patience: Most steps that may be unknown; ``None`` chooses by the device.
    """

    def __init__(self, patience: int | None = None) -> None:
        self._watch = LossWatch(patience)
        self._index = torch.empty(0)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note which crops are in the step."""
        self._index = batch["index"]

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Look at the loss of the step, or at that of an earlier one.

        Raises:
            JobError: If it is not finite.
        """
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        step = trainer.current_epoch, trainer.global_step, float(lr)
        self._refuse(trainer, self._watch.add(loss, self._index, *step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for every loss of the epoch."""
        self._refuse(trainer, self._watch.check_all())

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """The last step of an epoch may break the weights: no loss sees it any more."""
        if not bool(torch.isfinite(outputs).all()):
            raise JobError(
                f"the embedding became NaN in epoch {trainer.current_epoch}; {_advise(trainer)}"
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to keep a network that is no longer made of numbers."""
        self._refuse(trainer, self._watch.check_all())
        floats = [v for v in checkpoint["state_dict"].values() if v.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(value).all() for value in floats]).all()):
            raise JobError(
                f"the weights became NaN by the end of step {trainer.global_step}; "
                f"{_advise(trainer)}"
            )

    def _refuse(self, trainer: Trainer, bad: Step | None) -> None:
        if bad is not None:
            raise JobError(
                f"the loss became {bad.loss.item()} in epoch {bad.epoch}, step {bad.step}, at lr "
                f"{bad.lr:g}, on the crops with indices {bad.indices.tolist()[:8]}...; "
                f"{_advise(trainer)}"
            )


def _advise(trainer: Trainer) -> str:
    written = [
        getattr(callback, name, "")
        for name in ("best_model_path", "saved_path")
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    ]
    last = next((path for path in reversed(written) if path), None)
    good = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
    return f"{good}; try a smaller model.optimizer.lr or trainer.gradient_clip_val"
