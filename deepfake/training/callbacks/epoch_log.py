"""What a person reads while a training runs."""

from __future__ import annotations

import logging
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from deepfake.errors import UsageError
from deepfake.training.callbacks.protocol import as_embedding_module

logger = logging.getLogger(__name__)


class EpochLog(Callback):
    """A line per epoch with its metrics and the time left, and one now and then in between.

    Args:
        every_s: Seconds between two lines within an epoch; 0 tells every step.

    Raises:
        UsageError: If it is negative.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        if not every_s >= 0:  # NaN is not
            raise UsageError(f"watch.log_s={every_s:g}; expected 0 or more, or null")
        self.every_s = every_s
        self._begun: tuple[float, float] | None = None  # when, and how many epochs were done
        self._said_s = 0.0
        self._validated = -1  # the last epoch that was

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that this epoch has metrics of its own: Lightning keeps the last ones."""
        self._validated = trainer.current_epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begun, self._said_s = None, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Now and then, tell how far it is."""
        now = time.monotonic()
        if self._begun is None:  # the first step compiles and allocates: no measure of the others
            self._begun = now, _epochs_done(trainer, batch_idx + 1)
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
        if self._validated != trainer.current_epoch:
            metrics = {}
        metrics |= as_embedding_module(pl_module).epoch_metrics()  # logged after this hook
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)
        left = self.seconds_left(trainer, int(trainer.num_training_batches))
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero:
            logger.info("epoch %d/%s  %s%s", epoch, trainer.max_epochs, shown, _format_left(left))
        self._said_s = time.monotonic()

    def seconds_left(self, trainer: Trainer, step: int) -> float | None:
        """Time that is left after ``step`` steps of this epoch, at the pace of this process so far.

        ``None`` while nothing was timed, or without an end. Validations count as soon as there was
        one.
        """
        done = _epochs_done(trainer, step)
        since_s, begun = self._begun or (0.0, done)
        if done <= begun or trainer.max_epochs is None or trainer.max_epochs < 0:
            return None
        return (time.monotonic() - since_s) / (done - begun) * (trainer.max_epochs - done)


def _epochs_done(trainer: Trainer, step: int) -> float:
    return trainer.current_epoch + step / trainer.num_training_batches


def _format_left(seconds: float | None) -> str:
    return f"  {tqdm.format_interval(seconds)} left" if seconds and seconds > 0 else ""
