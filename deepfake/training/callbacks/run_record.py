"""What a run leaves in its folder beside its checkpoints."""

from __future__ import annotations

import json
import logging
import platform
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.hooks import RemovableHandle

from deepfake.errors import JobError
from deepfake.learning.checkpoint import describe_versions
from deepfake.storage import write_atomic
from deepfake.training.callbacks.protocol import as_embedding_module

logger = logging.getLogger(__name__)
Draw = Callable[[Sequence[dict[str, float]]], str]
ENVIRONMENT_FILE = "environment.json"
CURVES_FILE = "curves.svg"
METRICS_FILE = "metrics.csv"


class RunRecord(Callback):
    """Leave the story of a run in its folder: where it ran, on what, and its metrics.

    ``metrics.csv`` has all epochs of a run, those before a stop as well, wherever it goes on.

    Args:
        folder: The run's folder.
        draw: Draws the metrics of the epochs as an SVG; ``None`` leaves the picture out.

    Attributes:
        history: Metrics of each epoch by name, with ``epoch`` and ``lr``, the rate of its last
            step.
    """

    def __init__(self, folder: str | Path, draw: Draw | None = None) -> None:
        self.folder, self.draw = Path(folder), draw
        self.history: list[dict[str, float]] = []
        self._lr = float("nan")
        self._validated = -1  # the last epoch that was
        self._hooks: list[RemovableHandle] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this start to ``environment.json``; a run that was resumed has several."""
        if not trainer.is_global_zero:
            return
        module = as_embedding_module(pl_module)
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
            "channels_last": module.embedder.memory_format == torch.channels_last,
        }
        start |= {name: module.info.get(name) for name in ("seed", "manifest_sha256", "counts")}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ENVIRONMENT_FILE
        before = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
        write_atomic(path, json.dumps({"starts": [*before, start]}, indent=2) + "\n")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the rate that each step goes by; after it a schedule has written the next one."""

        def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self._lr = float(optimizer.param_groups[0]["lr"])

        # Behind the hook of a frozen rate, which was registered before the training began.
        self._hooks = [one.register_step_pre_hook(note) for one in trainer.optimizers]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the optimiser as it was."""
        while self._hooks:
            self._hooks.pop().remove()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that this epoch has metrics of its own: Lightning keeps the last ones."""
        self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metrics of the epoch."""
        validated = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val_") and self._validated == trainer.current_epoch
        }
        row = {"epoch": trainer.current_epoch, "lr": self._lr}
        self.history.append(row | as_embedding_module(pl_module).epoch_metrics() | validated)
        if trainer.is_global_zero:
            self._write_table()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, also where nothing was left to be trained, and draw ``curves.svg``."""
        if trainer.is_global_zero and self.history:
            self._write_table()
            if self.draw is not None:
                write_atomic(self.folder / CURVES_FILE, self.draw(self.history))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Draw what there is: whoever asks why it stopped wants to see it."""
        # A full disk takes no picture either.
        if not isinstance(exception, OSError) and not isinstance(exception.__cause__, OSError):
            self.on_fit_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far."""
        return {"history": [dict(row) for row in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self.history = list(state_dict["history"])

    def _write_table(self) -> None:
        table = pd.DataFrame(self.history).to_csv(index=False, lineterminator="\n")
        try:
            write_atomic(self.folder / METRICS_FILE, table)
        except JobError as error:  # a checkpoint that does not fit either will say how to go on
            logger.warning("%s", error)
