"""The head of a finished run: fitted, calibrated, its limits chosen, measured, written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from deepfake.dataset.splits import SPLITS
from deepfake.error_rates import MAX_ERROR_RATE, check_rate
from deepfake.errors import JobError, UsageError
from deepfake.evaluation.calibration import calibrate
from deepfake.heads import MIN_PER_CLASS, Head, HeadName, make_head
from deepfake.learning.checkpoint_file import part_of, read_content
from deepfake.learning.crops import CropDataset, measure_training_faces, require_unit
from deepfake.learning.data import CropDataModule
from deepfake.learning.folding import copy_for_scoring
from deepfake.learning.processes import gather
from deepfake.metrics import summarise
from deepfake.records import EVEN_ODDS, Aggregation, Recipe
from deepfake.storage import write_atomic
from deepfake.tables import format_json
from deepfake.training.callbacks.protocol import EmbeddingModule, as_embedding_module

MODEL_FILE = "model.ckpt"
METRICS_FILE = "metrics.json"


class FitHead(Callback):
    """After training: fit the head on training rows, its sigmoid and the limits on validation.

    The entry fitted its SVM on the validation set and had nothing left to validate it. Here the
    training split fits the classifier, the validation split its sigmoid and the two limits of the
    verdict (on files), and the test split is only ever measured. Writes ``model.ckpt`` and
    ``metrics.json``.

    Args:
        folder: The run's folder.
        name: ``svm`` is linear, ``svm-hinge`` has the plain hinge loss, ``rbf`` has a Gaussian
            kernel (gamma: scikit-learn's ``scale``), ``gbm`` is LightGBM, ``logistic`` a logistic
            regression.
        C: Inverse strength of regularisation; of ``gbm``, ``lambda_l2 = 1 / C``.
        weights: ``best`` uses the epoch with the best validation AUC, ``last`` the final one.
        aggregation: How predictions make one score of the faces of a file; stored as it is.
        max_fpr: Highest share of real files that predictions may call fake. With too few
            validation files to measure it, the limit is extrapolated, and that is said.
        max_fnr: Highest share of fake files that they may call real.

    Raises:
        UsageError: If a rate is not above 0 and up to 0.5.
    """

    def __init__(
        self,
        folder: str | Path,
        name: HeadName = "svm",
        C: float = 2.0,  # noqa: N803
        weights: Literal["best", "last"] = "best",
        aggregation: Aggregation = Aggregation(),  # noqa: B008 - frozen
        max_fpr: float = MAX_ERROR_RATE,
        max_fnr: float = MAX_ERROR_RATE,
    ) -> None:
        for rate, value in (("max_fpr", max_fpr), ("max_fnr", max_fnr)):
            try:
                check_rate(rate, value)
            except ValueError as error:
                raise UsageError(f"head.{error}") from error
        self.max_fpr, self.max_fnr = max_fpr, max_fnr
        self.folder, self.name, self.C, self.weights = Path(folder), name, C, weights
        self.aggregation = aggregation
        self._finished = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a head that could not be fitted after the training."""
        module, data = self._require(trainer, pl_module)
        self._make(module).check_fit(len(data.datasets["train"]))
        n_real, n_fake = np.bincount(data.datasets["validation"].labels, minlength=2)
        if min(n_real, n_fake) < MIN_PER_CLASS:
            raise UsageError(
                f"the validation split has {n_real} real and {n_fake} fake crops; the head is "
                f"calibrated on them, and that takes {MIN_PER_CLASS} of each: bring more groups, "
                "or other data.split.shares"
            )
        self._finished = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, choose, measure, write."""
        module, data = self._require(trainer, pl_module)
        self._finished = True
        if trainer.interrupted:
            return
        epoch, used = self._take_weights(trainer, module)
        if trainer.world_size > 1:
            # Each process has seen other batches; the statistics that are saved are the first's.
            for statistic in module.embedder.buffers():
                torch.distributed.broadcast(statistic, 0)
        embeddings = {
            split: embed(trainer, pl_module, data.datasets[split])
            for split in SPLITS
            if len(data.datasets[split])
        }
        if trainer.is_global_zero:
            self._fit(module, data, embeddings)
            module.info["weights"] = f"epoch {epoch} ({used})"
        self.folder.mkdir(parents=True, exist_ok=True)
        if trainer.is_global_zero:
            report = {key: module.info[key] for key in ("limits", "error_rates")} | {"epoch": epoch}
            text = format_json(report | module.info["metrics"])
            write_atomic(self.folder / METRICS_FILE, text)
        # Last of all: where it stands, the run is finished.
        trainer.save_checkpoint(self.folder / MODEL_FILE, weights_only=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where nothing was left to be trained: the run was stopped before its head."""
        if not self._finished:
            pl_module.to(trainer.strategy.root_device)  # it has just been put away
            self.on_train_end(trainer, pl_module)

    def _require(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> tuple[EmbeddingModule, CropDataModule]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, CropDataModule):
            raise JobError("FitHead works with CropDataModule only")
        return as_embedding_module(pl_module), data

    def _make(self, module: EmbeddingModule) -> Head:
        return make_head(self.name, module.embedder.projection.out_features, self.C)

    def _fit(
        self,
        module: EmbeddingModule,
        data: CropDataModule,
        embeddings: dict[str, Tensor],
    ) -> None:
        """Fit the head, calibrate it, choose the limits, measure every split."""
        labels = {split: data.datasets[split].labels for split in embeddings}
        head = self._make(module).fit_classifier(embeddings["train"], labels["train"])
        recipe = module.info["recipe"] | {"aggregation": self.aggregation.to_dict()}
        calibration = calibrate(
            head,
            data.datasets["validation"].rows,
            embeddings["validation"].numpy(),
            Recipe.from_dict(recipe),
            self.max_fpr,
            self.max_fnr,
        )
        head.warn_if_useless()
        module.set_head(head)
        module.set_training_faces(measure_training_faces(data.datasets["train"]))
        module.info |= calibration.to_info() | {
            "recipe": recipe,
            "head": self.name,
            "metrics": {
                split: asdict(summarise(labels[split], head(rows).numpy(), EVEN_ODDS))
                for split, rows in embeddings.items()
            },
        }

    def _take_weights(self, trainer: Trainer, module: EmbeddingModule) -> tuple[int, str]:
        """Load the chosen epoch's weights; returns its number, and by what it was chosen."""
        # Others may keep checkpoints, too, by other metrics.
        kept = [
            getattr(one, "best_model_path", "")
            for one in trainer.checkpoint_callbacks
            if getattr(one, "monitor", None) == "val_auc"
        ]
        best = kept[-1] if kept else ""  # ours comes behind those of the configuration
        if self.weights == "last" or not best:
            return trainer.current_epoch - 1, "last"
        content = read_content(Path(best))
        module.embedder.load_state_dict(part_of(content["state_dict"], "embedder"))
        return int(content["epoch"]), "best"


@torch.no_grad()
def embed(trainer: Trainer, pl_module: LightningModule, dataset: CropDataset) -> Tensor:
    """Embed every crop of a data set once, without augmentation, ``(N, D)`` float32 on the CPU.

    Processes share the work. The first of them gets all rows, in order; the others get none.
    """
    data: CropDataModule = trainer.datamodule  # type: ignore[attr-defined]
    own = as_embedding_module(pl_module).embedder
    embedder = copy_for_scoring(own, pl_module.device)
    n_rows = len(dataset) if trainer.is_global_zero else 0
    everything = torch.empty(n_rows, embedder.projection.out_features)
    for batch in data.load(dataset):
        index = gather(pl_module, batch["index"].to(pl_module.device))
        rows = gather(pl_module, embedder(batch["image"].to(pl_module.device)).float())
        if trainer.is_global_zero:
            everything[index.cpu()] = rows.cpu()
    if trainer.is_global_zero:
        require_unit(everything, dataset.rows)
    return everything
