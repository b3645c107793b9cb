"""How Lightning's checkpoints are kept: whole on the disk, and the best epoch remembered."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from deepfake.errors import JobError, one_line
from deepfake.storage import Confinement, write_atomic
from deepfake.training.folder import CHECKPOINTS, LAST

logger = logging.getLogger(__name__)


class KeptCheckpoint(ModelCheckpoint):
    """Lightning's, which reads and removes only what lies beside the checkpoint to go on from.

    A checkpoint tells by their paths which files were kept before it. It may have moved since, or
    be a stranger's: of each path only the name counts.

    Args:
        resume: The checkpoint to go on from.
        options: As of Lightning's.
    """

    def __init__(self, resume: Path | None, **options: Any) -> None:
        super().__init__(**options)
        self._resume = resume

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best epoch of the run to go on from, if its file is there."""
        if self.monitor is None or self._resume is None:
            return  # the last epoch is the one to go on from
        score, told = state_dict.get("best_model_score"), str(state_dict.get("best_model_path", ""))
        best = Confinement(self._resume.parent).path_of(Path(told).name) if told else None
        if best is None or not best.is_file() or not isinstance(score, Tensor):
            logger.warning(
                "the best epoch of the run to go on from is gone (%s); only epochs from here on "
                "can become the best",
                one_line(told) or "it had none",
            )
            return
        # Where it stays as it is, and a better epoch comes: Lightning removes nothing that lies
        # outside of dirpath.
        self.best_model_path = self.kth_best_model_path = str(best)
        self.best_model_score = self.kth_value = score
        self.best_k_models = {str(best): score}


def make_checkpoints(
    folder: Path, validates: bool, resume: Path | None = None
) -> list[ModelCheckpoint]:
    """Callbacks that keep the best epoch, where there is a validation, and the last one.

    Args:
        folder: Of the run.
        validates: Whether it has a validation.
        resume: The checkpoint that it goes on from.
    """
    # An epoch's checkpoint is only resumable once the epoch is really over.
    shared: dict[str, Any] = {"dirpath": folder / CHECKPOINTS, "save_on_train_epoch_end": True}
    # Of its own: Lightning's save_last skips the epochs that are not the best so far.
    last = KeptCheckpoint(resume, filename=Path(LAST).stem, enable_version_counter=False, **shared)
    best = KeptCheckpoint(
        resume,
        filename="epoch{epoch:03d}-auc{val_auc:.4f}",
        auto_insert_metric_name=False,
        monitor="val_auc",
        mode="max",
        **shared,
    )
    return [best, last] if validates else [last]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, on the disk and not only in its cache.

    Lightning's own writes into the system's temporary folder first; the way from there to another
    disk is a copy, which can be cut in the middle.

    Args:
        publish: Called when the last one is there.
    """

    def __init__(self, publish: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._publish = publish

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside the target, then rename.

        Raises:
            JobError: If the disk is full.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomic(target, content.getvalue())
        except JobError as error:
            last = target.parent / LAST
            good = f"the last good checkpoint is {last}" if last.exists() else "there is none yet"
            raise JobError(
                f"no space left for {target} ({len(content.getvalue()) / 1e6:.0f} MB); {good}: "
                "free some space and go on from it with --resume"
            ) from error.__cause__
        if target.name == LAST:
            self._publish()
