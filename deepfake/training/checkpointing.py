"""How Lightning's checkpoints are kept: whole on the disk, and the best epoch remembered."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from deepfake.errors import JobError
from deepfake.storage import write_atomic
from deepfake.training.folder import CHECKPOINTS, LAST

logger = logging.getLogger(__name__)


class BestCheckpoint(ModelCheckpoint):
    """Knows the best epoch so far when a run goes on in another folder; Lightning's forgets it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best epoch of the run to go on from, if its file is there."""
        best = state_dict["best_model_path"]
        if Path(best).is_file():
            # The old file stays where it is: nothing outside of dirpath is ever removed.
            super().load_state_dict(state_dict | {"dirpath": self.dirpath})
        else:
            logger.warning(
                "the best epoch of the run to go on from is gone (%s); only epochs from here on "
                "can become the best",
                best or "it had none",
            )


def make_checkpoints(folder: Path, validates: bool) -> list[ModelCheckpoint]:
    """Callbacks that keep the best epoch, where there is a validation, and the last one."""
    # An epoch's checkpoint is only resumable once the epoch is really over.
    shared: dict[str, Any] = {"dirpath": folder / CHECKPOINTS, "save_on_train_epoch_end": True}
    # Of its own: Lightning's save_last skips the epochs that are not the best so far.
    last = ModelCheckpoint(filename=Path(LAST).stem, enable_version_counter=False, **shared)
    best = BestCheckpoint(
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
    """

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
