"""What a person reads while a training runs."""

from __future__ import annotations

import logging
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from deepfake.training.callbacks.protocol import as_embedding_module

logger = logging.getLogger(__name__)


class EpochLog(Callback):
    """A line per epoch with its metrics and the time left, and one now and then in between.

    Args:
        every_s: Seconds between two lines within an epoch.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        self.every_s = every_s
        self._steps = 0  # of this process; a resumed run counts from 0
        self._training_s = 0.0
        self._validation_s: float | None = None
        self._since_s = self._said_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._since_s = self._said_s = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude validation from the time of a step."""
        self._since_s = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how long a validation takes."""
        now = time.monotonic()
        self._validation_s, self._since_s = now - self._since_s, now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Now and then, tell how far it is."""
        now = time.monotonic()
        if self._steps:  # the first step compiles and allocates: no measure of the others
            self._training_s += now - self._since_s
        self._steps, self._since_s = self._steps + 1, now
        if now - self._said_s < self.every_s or not trainer.is_global_zero:
            return
        self._said_s = now
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs
        step, steps = batch_idx + 1, trainer.num_training_batches
        loss = as_embedding_module(pl_module).epoch_metrics().get("train_loss", float("nan"))
        left = self.seconds_left(trainer, step)
        place = f"epoch {epoch}/{last}  step {step}/{steps}"
        logger.info("%s  train_loss %.4f%s", place, loss, _format_left(left))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the metrics of the epoch."""
        names = ("train_loss", "val_loss", "val_auc", "val_eer", "val_accuracy")
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics |= as_embedding_module(pl_module).epoch_metrics()  # logged after this hook
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)
        left = self.seconds_left(trainer, int(trainer.num_training_batches))
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero:
            logger.info("epoch %d/%s  %s%s", epoch, trainer.max_epochs, shown, _format_left(left))
        self._since_s = self._said_s = time.monotonic()

    def seconds_left(self, trainer: Trainer, step: int) -> float | None:
        """Time that training and validation still take, after ``step`` steps of this epoch.

        ``None`` while nothing was timed, or without an end. Before the first validation, a crop
        there counts as a third of one in training, which has a forward and a backward.
        """
        if self._steps < 2 or trainer.max_epochs is None or trainer.max_epochs < 0:
            return None
        step_s = self._training_s / (self._steps - 1)
        epochs = trainer.max_epochs - trainer.current_epoch
        per_epoch = int(trainer.num_training_batches)
        validation_s = self._validation_s
        if validation_s is None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            n_crops = len(data.datasets["validation"])
            validation_s = step_s / 3 * n_crops / data.batch_size
        validations = epochs - (step >= per_epoch)
        return (epochs * per_epoch - step) * step_s + validations * validation_s


def _format_left(seconds: float | None) -> str:
    return f"  {tqdm.format_interval(seconds)} left" if seconds and seconds > 0 else ""
