"""When the head is fitted, and what a run says and leaves behind while it goes on.

Callbacks schedule; ``head``, ``metrics`` and ``curves`` compute.
"""

from __future__ import annotations

import json
import logging
import platform
import socket
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from deepfake.dataset.splits import SPLITS
from deepfake.errors import JobError
from deepfake.learning.checkpoint import describe_versions
from deepfake.learning.crops import CropDataset
from deepfake.learning.data import CropDataModule
from deepfake.learning.task import EmbeddingTask
from deepfake.metrics import summarise
from deepfake.records import Aggregation
from deepfake.reports.curves import draw_curves
from deepfake.storage import write_atomic
from deepfake.thresholds import choose_threshold

logger = logging.getLogger(__name__)
MODEL_FILE = "model.ckpt"
METRICS_FILE = "metrics.json"
ENVIRONMENT_FILE = "environment.json"
CURVES_FILE = "curves.svg"


class FitHead(Callback):
    """After training: fit the head on training rows, choose the threshold on validation.

    The entry fitted its SVM on the validation set and had nothing left to validate it. Here the
    training split fits, the validation split chooses the threshold (best balanced accuracy), and
    the test split is only ever measured. Writes ``model.ckpt`` and ``metrics.json``.

    Args:
        folder: The run's folder.
        weights: ``best`` uses the epoch with the best validation AUC, ``last`` the final one.
        aggregation: How predictions make one score of the faces of a file; stored as it is.
    """

    def __init__(
        self,
        folder: str,
        weights: Literal["best", "last"] = "best",
        aggregation: Aggregation = Aggregation(),  # noqa: B008 - frozen
    ) -> None:
        self.folder = Path(folder)
        self.weights = weights
        self.aggregation = aggregation

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a head that could not be fitted after the training."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(pl_module, EmbeddingTask) and isinstance(data, CropDataModule):
            pl_module.head.check_fit(len(data.datasets["train"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, choose, measure, write."""
        self.finish(trainer, pl_module)

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for a training that was stopped after its last epoch."""
        task, data = pl_module, trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(task, EmbeddingTask) or not isinstance(data, CropDataModule):
            raise JobError("FitHead works with EmbeddingTask and CropDataModule only")
        if trainer.interrupted:
            return
        epoch = self._take_weights(trainer, task)
        if trainer.world_size > 1:
            # Each process has seen other batches; the statistics that are saved are the first's.
            for statistic in task.embedder.buffers():
                torch.distributed.broadcast(statistic, 0)
        embeddings = {
            split: embed(trainer, task, data.datasets[split])
            for split in SPLITS
            if len(data.datasets[split])
        }
        if trainer.is_global_zero:
            self._fit(task, data, embeddings, epoch)
        self.folder.mkdir(parents=True, exist_ok=True)
        if trainer.is_global_zero:
            report = {"threshold": task.info["threshold"], "epoch": epoch, **task.info["metrics"]}
            text = json.dumps(report, indent=2) + "\n"
            write_atomic(self.folder / METRICS_FILE, text)
        # Last of all: where it stands, the run is finished.
        trainer.save_checkpoint(self.folder / MODEL_FILE, weights_only=True)

    def _fit(
        self, task: EmbeddingTask, data: CropDataModule, embeddings: dict[str, Tensor], epoch: int
    ) -> None:
        """Fit the head, choose the threshold, measure every split."""
        labels = {
            split: np.array([row.label for row in data.datasets[split].rows]) for split in SPLITS
        }
        groups = [row.group for row in data.datasets["train"].rows]
        task.head.fit(embeddings["train"], labels["train"], groups).warn_if_useless()
        scores = {split: task.head(rows).numpy() for split, rows in embeddings.items()}
        threshold = choose_threshold(labels["validation"], scores["validation"])
        metrics = {
            split: asdict(summarise(labels[split], scores[split], threshold)) for split in scores
        }
        task.info |= {
            "aggregation": self.aggregation.to_dict(),
            "threshold": threshold,
            "threshold_origin": "best balanced accuracy on the validation split",
            "head": task.head_name,
            "weights": f"epoch {epoch} ({self.weights})",
            "metrics": metrics,
        }

    def _take_weights(self, trainer: Trainer, task: EmbeddingTask) -> int:
        """Load the chosen epoch's weights; returns its number."""
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        task.take_average()
        if self.weights == "last" or not best:
            return trainer.current_epoch - 1
        content = torch.load(best, map_location="cpu", weights_only=True)
        task.load_network(content["state_dict"])
        return int(content["epoch"])


@torch.no_grad()
def embed(trainer: Trainer, task: EmbeddingTask, dataset: CropDataset) -> Tensor:
    """Embed every crop of a data set once, without augmentation, ``(N, D)`` float32 on the CPU.

    Processes share the work. The first of them gets all rows, in order; the others get none.
    """
    data: CropDataModule = trainer.datamodule  # type: ignore[attr-defined]
    was_training = task.training
    task.eval()
    n_rows = len(dataset) if trainer.is_global_zero else 0
    everything = torch.empty(n_rows, task.embedder.projection.out_features)
    for batch in data.load(dataset):
        index = task.gather(batch["index"].to(task.device))
        rows = task.gather(task.embedder(batch["image"].to(task.device)).float())
        if trainer.is_global_zero:
            everything[index.cpu()] = rows.cpu()
    task.train(was_training)
    return everything


class CollapseGuard(Callback):
    """Say aloud when all embeddings fall onto one point.

    A triplet loss stuck at its margin with vanishing distances is a collapse: no pair differs any
    more, and the gradient is near zero. Counted on the device; looked at after every step on a
    processor, every ``steps`` steps elsewhere.

    Args:
        steps: Steps in a row before it warns.
    """

    def __init__(self, steps: int = 50) -> None:
        self.steps = steps
        self._counts: Tensor | None = None  # stuck steps in a row: now, longest
        self._seen = 0
        self._warned = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the distances of the last step."""
        if self._warned or not isinstance(pl_module, EmbeddingTask) or pl_module.outcome is None:
            return
        outcome, margin = pl_module.outcome, pl_module.triplet_loss.margin
        if self._counts is None:
            self._counts = torch.zeros(2, dtype=torch.int32, device=outcome.loss.device)
        now, longest = self._counts
        near = outcome.an_mean < 1e-3
        stuck = near & ((outcome.loss - margin).abs() < 0.02 * margin)
        # A batch without a triplet says nothing.
        now = torch.where(outcome.n_triplets > 0, torch.where(stuck, now + 1, 0), now)
        self._counts = torch.stack([now, torch.maximum(now, longest)])
        self._seen += 1
        if self._counts.device.type != "cpu" and self._seen % self.steps:
            return
        if int(self._counts[1]) >= self.steps:
            self._warned = True
            logger.warning(
                "collapse: the triplet loss has stood at its margin (%g) for %d steps and all "
                "embeddings are alike (norm of the head: %.3g); try a smaller model.lr, a larger "
                "data.batch_size, or model.cross_entropy_weight 1",
                margin,
                self.steps,
                float(pl_module.embedder.projection.weight.detach().norm()),
            )


class EpochLog(Callback):
    """A line per epoch with its figures and the time left, and one now and then in between.

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
        """Time spent on validation is another."""
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
        if now - self._said_s < self.every_s or not isinstance(pl_module, EmbeddingTask):
            return
        self._said_s = now
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs
        step, steps = batch_idx + 1, trainer.num_training_batches
        loss = pl_module.means.read().get("train_loss", float("nan"))
        left = self.seconds_left(trainer, step)
        logger.info(
            "epoch %d/%s  step %d/%s  train_loss %.4f%s",
            *(epoch, last, step, steps, loss, _format_left(left)),
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the figures of the epoch."""
        names = ("train_loss", "val_loss", "val_auc", "val_eer", "val_accuracy")
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if isinstance(pl_module, EmbeddingTask):
            figures |= pl_module.means.read()  # the task logs them after this hook
        shown = "  ".join(f"{name} {figures[name]:.4f}" for name in names if name in figures)
        left = self.seconds_left(trainer, int(trainer.num_training_batches))
        epoch = trainer.current_epoch + 1
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


class RunRecord(Callback):
    """Leave the story of a run in its folder: where it ran, on what, and its learning curves.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this start to ``environment.json``; a run that was resumed has several."""
        if not trainer.is_global_zero or not isinstance(pl_module, EmbeddingTask):
            return
        device = trainer.strategy.root_device
        is_cuda = device.type == "cuda"
        start = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "command": sys.argv,
            "resumed_from": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": describe_versions(),
            "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
            "cuda": torch.version.cuda if is_cuda else None,
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "channels_last": pl_module.embedder.memory_format == torch.channels_last,
            "seed": pl_module.seed,
            "manifest_sha256": pl_module.info.get("manifest_sha256"),
            "counts": pl_module.info.get("counts"),
        }
        path = self.folder / ENVIRONMENT_FILE
        before = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
        write_atomic(path, json.dumps({"starts": [*before, start]}, indent=2) + "\n")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw ``curves.svg``."""
        if not trainer.is_global_zero or not isinstance(pl_module, EmbeddingTask):
            return
        if pl_module.history:
            write_atomic(self.folder / CURVES_FILE, draw_curves(pl_module.history))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Draw what there is: whoever asks why it stopped wants to see it."""
        # A full disk takes no picture either.
        if not isinstance(exception, OSError) and not isinstance(exception.__cause__, OSError):
            self.on_train_end(trainer, pl_module)


def _format_left(seconds: float | None) -> str:
    if seconds is None or seconds <= 0:
        return ""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "  less than a minute left"
    if minutes < 120:
        return f"  {minutes} min left"
    return f"  {minutes // 60} h {minutes % 60:02d} min left"
