"""A training that stops before a loss, an embedding or a weight that is no number is kept."""

from __future__ import annotations

from collections import deque
from typing import Any, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from deepfake.errors import JobError


class RefuseNonFinite(Callback):
    """Stop at the first loss that is not finite, and never keep weights that are not.

    On a CPU the loss is looked at before the weights change; on a device a few steps later, because
    asking at once would leave it idle: the loss is copied in the background, and read when it has
    arrived. Before anything is kept, all of them are known.

    Args:
        patience: Most steps that may be unknown; ``None`` chooses by the device.
    """

    def __init__(self, patience: int | None = None) -> None:
        self.patience = patience
        # Loss on the CPU, the crops' indices, where it was, and the event of its arrival.
        self._pending: deque[tuple[Tensor, Tensor, str, torch.cuda.Event | None]] = deque()

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
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        place = f"epoch {trainer.current_epoch}, step {trainer.global_step}, at lr {lr:g}"
        event = None
        if loss.device.type == "cuda":
            value = torch.empty((), dtype=loss.dtype, pin_memory=True)
            value.copy_(loss.detach(), non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        else:
            value = loss.detach().cpu()
        self._pending.append((value, self._index, place, event))
        self._look(trainer, self.patience if self.patience is not None else 8 if event else 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for every loss of the epoch."""
        self._look(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """The last step of an epoch may break the weights: no loss sees it any more."""
        if not bool(torch.isfinite(outputs).all()):
            _refuse(trainer, f"the embedding became NaN in epoch {trainer.current_epoch}")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to keep a network that is no longer made of numbers."""
        self._look(trainer)
        floats = [v for v in checkpoint["state_dict"].values() if v.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(value).all() for value in floats]).all()):
            _refuse(trainer, f"the weights became NaN by the end of step {trainer.global_step}")

    def _look(self, trainer: Trainer, patience: int = 0) -> None:
        """Look at all losses that have arrived; wait for all but the last few."""
        while self._pending:
            loss, index, place, event = self._pending[0]
            arrived = event is not None and event.query()  # type: ignore[no-untyped-call]
            if not arrived and len(self._pending) <= patience:
                return
            if event is not None:
                event.synchronize()
            self._pending.popleft()
            if not bool(torch.isfinite(loss)):
                self._pending.clear()
                crops = f"on the crops with indices {index.tolist()[:8]}..."
                _refuse(trainer, f"the loss became {loss.item()} in {place}, {crops}")


def _refuse(trainer: Trainer, what: str) -> NoReturn:
    written = [
        getattr(callback, name, "")
        for name in ("best_model_path", "saved_path")
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    ]
    last = next((path for path in reversed(written) if path), None)
    good = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
    raise JobError(f"{what}; {good}; try a smaller model.optimizer.lr or trainer.gradient_clip_val")
