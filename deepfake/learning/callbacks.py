"""When the classifier is fitted, and when a run is told that it collapses.

Callbacks schedule; ``classifier`` and ``metrics`` compute.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from deepfake.dataset.splits import SPLITS
from deepfake.errors import JobError
from deepfake.learning.data import CropDataModule, CropDataset
from deepfake.learning.task import TripletTask
from deepfake.metrics import choose_threshold, summarise
from deepfake.storage import write_atomic

logger = logging.getLogger(__name__)
MODEL_FILE = "model.ckpt"
METRICS_FILE = "metrics.json"


class FitClassifier(Callback):
    """After training: fit the SVM on training embeddings, choose the threshold on validation.

    The entry fitted its SVM on the validation set and had nothing left to validate it. Here the
    training split fits, the validation split chooses the threshold (best balanced accuracy), and
    the test split is only ever measured. Writes ``model.ckpt`` and ``metrics.json``.

    Args:
        folder: The run's folder.
        weights: ``best`` uses the epoch with the best validation AUC, ``last`` the final one.
    """

    def __init__(self, folder: str, weights: Literal["best", "last"] = "best") -> None:
        self.folder = Path(folder)
        self.weights = weights

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, choose, measure, write."""
        task, data = pl_module, trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(task, TripletTask) or not isinstance(data, CropDataModule):
            raise JobError("FitClassifier works with TripletTask and CropDataModule only")
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
        trainer.save_checkpoint(self.folder / MODEL_FILE, weights_only=True)
        if trainer.is_global_zero:
            report = {"threshold": task.info["threshold"], "epoch": epoch, **task.info["metrics"]}
            text = json.dumps(_without_nan(report), indent=2) + "\n"
            write_atomic(self.folder / METRICS_FILE, text)

    def _fit(
        self, task: TripletTask, data: CropDataModule, embeddings: dict[str, Tensor], epoch: int
    ) -> None:
        """Fit the classifier, choose the threshold, measure every split."""
        labels = {
            split: np.array([row.label for row in data.datasets[split].rows]) for split in SPLITS
        }
        groups = [row.group for row in data.datasets["train"].rows]
        task.classifier.fit(embeddings["train"], labels["train"], groups)
        scores = {split: task.classifier(rows).numpy() for split, rows in embeddings.items()}
        threshold = choose_threshold(labels["validation"], scores["validation"])
        metrics = {
            split: asdict(summarise(labels[split], scores[split], threshold)) for split in scores
        }
        task.info |= {
            "threshold": threshold,
            "threshold_origin": "best balanced accuracy on the validation split",
            "weights": f"epoch {epoch} ({self.weights})",
            "metrics": metrics,
        }

    def _take_weights(self, trainer: Trainer, task: TripletTask) -> int:
        """Load the chosen epoch's weights; returns its number."""
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if self.weights == "last" or not best:
            return trainer.current_epoch - 1
        content = torch.load(best, map_location="cpu", weights_only=True)
        task.load_network(content["state_dict"])
        return int(content["epoch"])


@torch.no_grad()
def embed(trainer: Trainer, task: TripletTask, dataset: CropDataset) -> Tensor:
    """Embed every crop of a data set once, without augmentation, ``(N, D)`` float32 on the CPU.

    Processes share the work. The first of them gets all rows, in order; the others get none.
    """
    data: CropDataModule = trainer.datamodule  # type: ignore[attr-defined]
    was_training = task.training
    task.eval()
    n_rows = len(dataset) if trainer.is_global_zero else 0
    everything = torch.empty(n_rows, task.embedder.head.out_features)
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
    more, and the gradient is near zero.

    Args:
        steps: Steps in a row before it warns.
    """

    def __init__(self, steps: int = 50) -> None:
        self._recent: deque[bool] = deque(maxlen=steps)
        self._warned = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the distances of the last step."""
        if self._warned or not isinstance(pl_module, TripletTask):
            return
        outcome, margin = pl_module.outcome, pl_module.triplet_loss.margin
        if outcome is None or not int(outcome.n_triplets):
            return  # a batch without a triplet says nothing
        near = bool(outcome.an_mean < 1e-3)
        stuck = abs(float(outcome.loss) - margin) < 0.02 * margin
        self._recent.append(near and stuck)
        if len(self._recent) == self._recent.maxlen and all(self._recent):
            self._warned = True
            logger.warning(
                "collapse: the triplet loss has stood at its margin (%g) for %d steps and all "
                "embeddings are alike; try a smaller model.lr, a larger data.batch_size, or "
                "model.cross_entropy_weight 1",
                margin,
                len(self._recent),
            )


class EpochLog(Callback):
    """One line per epoch with its figures and the time left, for terminals and log files."""

    def __init__(self) -> None:
        self._started_s = 0.0
        self._first_epoch = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started_s, self._first_epoch = time.monotonic(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the figures of the epoch."""
        names = ("train_triplet_loss", "val_loss", "val_auc", "val_eer", "val_accuracy")
        figures = trainer.callback_metrics
        shown = "  ".join(f"{name} {float(figures[name]):.4f}" for name in names if name in figures)
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or 0
        line = f"epoch {epoch}/{last}  {shown}"
        if last > epoch:
            per_epoch_s = (time.monotonic() - self._started_s) / (epoch - self._first_epoch)
            line += f"  {per_epoch_s * (last - epoch) / 60:.0f} min left"
        logger.info(line)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that does not exist is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
